"""The commands by which a site's admin keeps a copy of the site's folder, and makes a site of it."""

import time

import typer

from ynet.runtime.backup_options import Backup, Encrypt, Out, PassphraseFile, passphrase, show_packed, show_unpacked
from ynet_client.commands.options import Home, Json, Site
from ynet_client.homes import home_of, new_home

app = typer.Typer()


@app.command()
def backup(
    out: Out,
    encrypt: Encrypt = False,
    passphrase_file: PassphraseFile = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Write the site's folder, keys and all but no image, into one file; the client may be running."""
    from ynet_client.site_backup import pack

    word = passphrase(passphrase_file, is_new=True) if encrypt or passphrase_file else None
    show_packed(pack(home_of(home, site), out, time.time(), word), as_json=as_json)


@app.command()
def restore(
    file: Backup,
    passphrase_file: PassphraseFile = None,
    site: Site = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Unpack a backup into an empty folder, once every byte of it is verified. The client is not started."""
    from ynet_client.site_backup import NOTES, unpack

    folder = new_home(home, site)
    manifest = unpack(file, folder, site, time.time(), lambda: passphrase(passphrase_file, is_new=False))
    show_unpacked(manifest, folder, list(NOTES), as_json=as_json)
