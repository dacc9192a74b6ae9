"""The commands `backup` and `restore` of a site."""

from functools import partial

from ynet.runtime.backup_commands import Pack, RestoreTarget, backup_app
from ynet_client.commands.options import Home, Site
from ynet_client.homes import home_of, new_home


def _pack(site: Site = None, home: Home = None) -> Pack:
    from ynet_client.site_backup import pack

    return partial(pack, home_of(home, site))


def _target(site: Site = None, home: Home = None) -> RestoreTarget:
    from ynet_client.site_backup import NOTES, unpack

    folder = new_home(home, site)
    return RestoreTarget(folder, lambda file, now, passphrase: unpack(file, folder, site, now, passphrase), NOTES)


app = backup_app(
    "Write the site's folder, including its keys but no image, into one file. The client may be running.",
    "Verify a backup and unpack it into an empty folder. The client is not started.",
    _pack,
    _target,
)
