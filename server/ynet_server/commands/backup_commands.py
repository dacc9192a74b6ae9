"""The coordinator's commands that back the server up and restore it."""

import time

import typer

from ynet.runtime.backup_options import Backup, Encrypt, Out, PassphraseFile, passphrase, show_packed, show_unpacked
from ynet_server.commands.options import Home, Json, home_of

app = typer.Typer()


@app.command()
def backup(
    out: Out,
    encrypt: Encrypt = False,
    passphrase_file: PassphraseFile = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the server's folder, keys and all, into one file; the server may be running."""
    from ynet_server.server_backup import pack  # gRPC: a second that the other commands need not wait

    word = passphrase(passphrase_file, is_new=True) if encrypt or passphrase_file else None
    show_packed(pack(home_of(home), out, time.time(), word), as_json=as_json)


@app.command()
def restore(file: Backup, passphrase_file: PassphraseFile = None, home: Home = None, as_json: Json = False) -> None:
    """Unpack a backup into an empty folder, once every byte of it is verified. The server is not started."""
    from ynet_server.server_backup import NOTES, unpack

    folder = home_of(home)
    manifest = unpack(file, folder, time.time(), lambda: passphrase(passphrase_file, is_new=False))
    show_unpacked(manifest, folder, list(NOTES), as_json=as_json)
