"""The pretrained encoders that the coordinator has added: safetensors files, named by their SHA-256."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from ynet import weights
from ynet.encoders import PREFIX
from ynet.errors import UserError
from ynet.plan_sections import Network
from ynet.runtime import private_files
from ynet.runtime.home import default_home
from ynet.weights import Arrays

FOLDER, SUFFIX = "encoders", ".safetensors"
NAME = "encoder"
"""The key of the encoder's name in a file's metadata."""
HEAD_DIGITS = 12  # of a digest, in an error


class StoredEncoder(NamedTuple):
    """A pretrained encoder in the folder."""

    encoder: str
    sha256: str
    bytes: int


def default_folder() -> Path:
    """The encoders of this user's server, for programs that run beside it. Raises UserError."""
    return default_home("server") / FOLDER


def keep(folder: Path, made: Path) -> StoredEncoder:
    """Move the safetensors file `made`, which lies in `folder`, to its digest's name. Raises UserError, OSError."""
    sha256 = _digest(made)
    path = folder / f"{sha256}{SUFFIX}"
    made.replace(path)
    private_files.sync_folder(folder)
    return _stored(path)


def listed(folder: Path) -> list[StoredEncoder]:
    """The encoders in the folder, by name and digest. Raises UserError when one cannot be read."""
    return sorted(_stored(path) for path in folder.glob(f"*{SUFFIX}"))


def check(folder: Path, network: Network) -> None:
    """Raise UserError when the encoder that a plan names is not in the folder, or is of another name."""
    if network.encoder_weights is not None:
        _path(folder, network)


def path_of(folder: Path, network: Network) -> Path | None:
    """The file of the encoder weights that a plan names; None when it names none or they are not in the folder."""
    path = folder / f"{network.encoder_weights}{SUFFIX}"
    return path if network.encoder_weights is not None and path.exists() else None


def arrays(folder: Path, network: Network) -> Arrays:
    """The pretrained arrays of a plan's network by their names in it; none where the plan names no weights.

    Raises UserError when the file is missing or is not the one that the plan names.
    """
    if network.encoder_weights is None:
        return {}
    path = _path(folder, network)
    if _digest(path) != network.encoder_weights:
        raise _unusable(network, "its file has changed")
    return {PREFIX + name: array for name, array in weights.load(path)[0].items()}


def _path(folder: Path, network: Network) -> Path:
    path = folder / f"{network.encoder_weights}{SUFFIX}"
    if not path.exists():
        raise _unusable(network, "they are not at the server")
    if (found := _stored(path).encoder) != network.encoder:
        raise _unusable(network, f"they are of {found}")
    return path


def _unusable(network: Network, why: str) -> UserError:
    return UserError(
        f"the plan's encoder weights {str(network.encoder_weights)[:HEAD_DIGITS]} cannot be used",
        why,
        f"ynet-server encoder add FILE --name {network.encoder}, and the SHA-256 that it prints in the plan",
    )


def _stored(path: Path) -> StoredEncoder:
    try:
        with safe_open(path, framework="numpy") as file:
            name = str((file.metadata() or {}).get(NAME, "?"))
    except (SafetensorError, OSError) as error:
        do = "remove the file, and add the encoder again"
        raise UserError(f"the encoder {path.name} cannot be read", str(error), do) from None
    return StoredEncoder(name, path.name.removesuffix(SUFFIX), path.stat().st_size)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
