"""The files of arrays that no round changes: fetched once, named by their SHA-256, kept in the site's home."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ynet import plan as plans
from ynet import weights
from ynet.encoders import ENCODERS, PREFIX
from ynet.errors import RefusedError, UserError
from ynet.federation import content
from ynet.federation.records import CONFIG, FIXED, INITIAL
from ynet.network_size import network_values
from ynet.plan import Plan
from ynet.plan_sections import Network
from ynet.runtime import private_files
from ynet.weights import Arrays

ENCODERS_FOLDER, RESTS_FOLDER = "encoders", "fixed"
SUFFIX, PARTIAL = ".safetensors", ".partial"
MOST_KEPT = 8
"""Files in each folder. The one that was unused longest makes room for a new one."""
HEX = frozenset("0123456789abcdef")


class FixedFile(NamedTuple):
    """A file that a plan's messages rely on."""

    what: str
    folder: str
    sha256: str
    most_bytes: int


def encoder_bytes(network: Network) -> int:
    """Return the size of an encoder's arrays in bytes; 0 for ynet's own, which has no file."""
    known = ENCODERS.get(network.encoder)
    return 4 * known.values(is_pretrained=network.encoder_weights is not None) if known else 0


def of_plan(plan: Plan, rest: str) -> list[FixedFile]:
    """Return the files that hold a plan's fixed arrays, a later one's in place of an earlier one's.

    `rest` is the SHA-256 of the run's own file; empty where it has none.
    """
    found = []
    if plan.network.encoder_weights is not None:
        most = encoder_bytes(plan.network) + content.MAX_HEAD_BYTES
        found.append(FixedFile("encoder", ENCODERS_FOLDER, plan.network.encoder_weights, most))
    if rest:
        most = 4 * network_values(plan) + content.MAX_HEAD_BYTES
        found.append(FixedFile("fixed arrays", RESTS_FOLDER, rest, most))
    return found


def read_rest(value: object) -> str:
    """Return the SHA-256 of the run's own file from a message's config. Raises RefusedError when it is none."""
    if value in (None, ""):
        return ""
    if not isinstance(value, str) or len(value) != 64 or not HEX.issuperset(value):
        raise RefusedError("a message was refused", f"its {FIXED} is no SHA-256", "tell the coordinator")
    return value


class FixedFiles:
    """The files in a site's home."""

    def __init__(self, home: Path, takes_part: Callable[[Plan], bool] = lambda _: True) -> None:
        """`takes_part` says for which plans files are fetched."""
        self._home, self._takes_part = home, takes_part

    def path(self, file: FixedFile) -> Path:
        """Return where a file is, or will be."""
        return self._home / file.folder / f"{file.sha256}{SUFFIX}"

    def partial(self, file: FixedFile) -> Path:
        """Return where the arrived part of a file is. Makes the folder."""
        private_files.make_folder(self._home / file.folder)
        return self.path(file).with_suffix(PARTIAL)

    def has_encoder(self, plan: Plan) -> bool:
        """Return whether the file of the plan's encoder is here; False where the plan names none."""
        return any(file.what == "encoder" and self.path(file).exists() for file in of_plan(plan, ""))

    def lacking(self, kind: str, received: Path) -> list[FixedFile]:
        """Return the files that a received message needs and the site does not have. Raises RefusedError.

        A message without arrays needs none, but the first of a run: then there is time to fetch the encoder.
        """
        head = content.head(received)
        if head is None or not (head.values or kind == INITIAL):
            return []
        config = head.configs().get(CONFIG, {})
        try:
            plan = plans.from_canonical(str(config.get("plan")))
        except UserError:
            return []  # the message is refused with the reason when it is read
        if not self._takes_part(plan):
            return []
        return [file for file in of_plan(plan, read_rest(config.get(FIXED))) if not self.path(file).exists()]

    def store(self, file: FixedFile) -> None:
        """Give the arrived file its name, and remove those that were unused longest."""
        partial, path = self.partial(file), self.path(file)
        with partial.open("rb") as arrived:
            os.fsync(arrived.fileno())
        partial.replace(path)
        private_files.sync_folder(path.parent)
        others = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in [one for one in others if one != path][MOST_KEPT - 1 :]:
            old.unlink(missing_ok=True)

    def arrays(self, plan: Plan, rest: str) -> Arrays:
        """Return the arrays in the files of a plan by their names in the network. Raises UserError.

        A file that is not here is left out; a damaged one is removed, so that it is fetched again.
        """
        found: dict[str, weights.Flat] = {}
        for file in of_plan(plan, rest):
            path = self.path(file)
            if not path.exists():
                continue
            with path.open("rb") as opened:
                is_whole = hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256
            if not is_whole:
                path.unlink()
                raise UserError(f"the file of the {file.what} is damaged", "its digest differs", "it is fetched again")
            os.utime(path)
            prefix = PREFIX if file.what == "encoder" else ""
            found |= {prefix + name: array for name, array in weights.load(path)[0].items()}
        return found
