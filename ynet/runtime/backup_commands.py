"""The commands `backup` and `restore` of either program."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ynet.errors import UserError
from ynet.runtime import hidden_words, terminal
from ynet.runtime.command_line import Json, with_options

if TYPE_CHECKING:
    from ynet.runtime.backup import BackupManifest, Packed

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The file to write. It must not exist.")]
Backup = Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")]
Encrypt = Annotated[bool, typer.Option("--encrypt", help="Encrypt it with a passphrase from a prompt.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="Encrypt with the first line of this private file as the passphrase."),
]
RestorePassphrase = Annotated[
    Path | None,
    typer.Option("--passphrase-file", help="A private file: its first line is the passphrase."),
]
Pack = Callable[[Path, float, str | None], "Packed"]
"""Packs the chosen home folder: the file to write, the time, the passphrase."""
LEAST_CHARACTERS = 12


class RestoreTarget(NamedTuple):
    """An empty home folder and how to unpack a backup into it."""

    folder: Path
    unpack: Callable[[Path, float, Callable[[], str]], "BackupManifest"]  # the backup, the time, the passphrase
    notes: Sequence[str]  # what the restored program does not know


def backup_app(
    backup_help: str,
    restore_help: str,
    pack_options: Callable[..., Pack],
    restore_options: Callable[..., RestoreTarget],
) -> typer.Typer:
    """Return the commands `backup` and `restore`.

    `pack_options` and `restore_options` declare the program's options for its home folder.
    """
    app = typer.Typer()

    def backup(
        out: Out,
        home: Pack,
        encrypt: Encrypt = False,
        passphrase_file: PassphraseFile = None,
        as_json: Json = False,
    ) -> None:
        word = passphrase(passphrase_file, is_new=True) if encrypt or passphrase_file else None
        _show_packed(home(out, time.time(), word), as_json=as_json)

    def restore(
        file: Backup, home: RestoreTarget, passphrase_file: RestorePassphrase = None, as_json: Json = False
    ) -> None:
        manifest = home.unpack(file, time.time(), lambda: passphrase(passphrase_file, is_new=False))
        _show_unpacked(manifest, home.folder, list(home.notes), as_json=as_json)

    app.command("backup", help=backup_help)(with_options(backup, "home", pack_options))
    app.command("restore", help=restore_help)(with_options(restore, "home", restore_options))
    return app


def passphrase(file: Path | None, *, is_new: bool) -> str:
    """Read a passphrase from a file or from a prompt.

    Raises:
        UserError: It is too short, other users can read the file, or there is no terminal.
    """
    if file is not None:
        found = hidden_words.of_file(file, f"the passphrase in {file}").partition("\n")[0].rstrip("\r")
    elif sys.stdin.isatty():
        found = typer.prompt("passphrase", hide_input=True, confirmation_prompt=is_new)
    else:
        do = "give --passphrase-file, or run it on a terminal"
        raise UserError("a passphrase is needed", "there is no terminal to ask on", do)
    if is_new and len(found) < LEAST_CHARACTERS:
        raise UserError("the passphrase is too short", f"it has {len(found)} characters", f"take {LEAST_CHARACTERS}")
    return found


def _show_packed(packed: "Packed", *, as_json: bool) -> None:
    shown: dict[str, Any] = {"file": str(packed.path), "bytes": packed.bytes, "files": len(packed.manifest.files)}
    shown |= {"sealed": packed.is_sealed, "made": packed.manifest.made}
    secret = "encrypted" if packed.is_sealed else "NOT encrypted: it holds private keys"
    line = f"{packed.path}: {len(packed.manifest.files)} files, {packed.bytes:,} bytes, {secret}"
    terminal.show(shown, as_json=as_json, human=lambda: line)


def _show_unpacked(manifest: "BackupManifest", home: Path, notes: list[str], *, as_json: bool) -> None:
    shown = {"home": str(home), "files": len(manifest.files), "made": manifest.made, "notes": notes}
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.made))
    line = f"{home} is as it was at {made}; every file was verified. It does not know what happened since:"
    terminal.show(shown, as_json=as_json, human=lambda: "\n".join([line, *(f"  - {note}" for note in notes)]))
