"""What the commands `backup` and `restore` of both sides have in common."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ynet.errors import UserError
from ynet.runtime import hidden_words, terminal

if TYPE_CHECKING:
    from ynet.runtime.backup import Manifest, Packed

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write; there must be none of that name.")]
Backup = Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")]
Encrypt = Annotated[bool, typer.Option("--encrypt", help="Seal it with a passphrase, which is asked for.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A private file: its first line is the passphrase. It seals."),
]
LEAST_CHARACTERS = 12


def passphrase(file: Path | None, *, is_new: bool) -> str:
    """The passphrase in a file, or typed. Raises UserError where it is too short, open, or nobody can be asked."""
    if file is not None:
        found = hidden_words.of_file(file, f"the passphrase in {file}").partition("\n")[0].rstrip("\r")
    elif sys.stdin.isatty():
        found = typer.prompt("passphrase", hide_input=True, confirmation_prompt=is_new)
    else:
        do = "give --passphrase-file, or run it on a terminal"
        raise UserError("a passphrase is needed", "nobody can be asked for it here", do)
    if is_new and len(found) < LEAST_CHARACTERS:
        raise UserError("the passphrase is too short", f"it has {len(found)} characters", f"take {LEAST_CHARACTERS}")
    return found


def show_packed(packed: "Packed", *, as_json: bool) -> None:
    """What `backup` prints."""
    shown: dict[str, Any] = {"file": str(packed.path), "bytes": packed.bytes, "files": len(packed.manifest.files)}
    shown |= {"sealed": packed.is_sealed, "made": packed.manifest.made}
    secret = "sealed with the passphrase" if packed.is_sealed else "NOT sealed: it holds keys; keep it as you keep them"
    line = f"{packed.path}: {len(packed.manifest.files)} files, {packed.bytes:,} bytes, {secret}"
    terminal.show(shown, as_json=as_json, human=lambda: line)


def show_unpacked(manifest: "Manifest", home: Path, notes: list[str], *, as_json: bool) -> None:
    """What `restore` prints."""
    shown = {"home": str(home), "files": len(manifest.files), "made": manifest.made, "notes": notes}
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.made))
    line = f"{home} is as it was at {made}; every file was verified. What happened since, it does not know:"
    terminal.show(shown, as_json=as_json, human=lambda: "\n".join([line, *(f"  - {note}" for note in notes)]))
