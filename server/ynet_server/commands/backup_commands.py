"""The commands `backup` and `restore` of the server."""

from functools import partial

from ynet.runtime.backup_commands import Pack, RestoreTarget, backup_app
from ynet_server.commands.options import Home, home_of


def _pack(home: Home = None) -> Pack:
    from ynet_server.server_backup import pack  # gRPC: `--help` and completion do not wait for it

    return partial(pack, home_of(home))


def _target(home: Home = None) -> RestoreTarget:
    from ynet_server.server_backup import NOTES, unpack

    folder = home_of(home)
    return RestoreTarget(folder, lambda file, now, passphrase: unpack(file, folder, now, passphrase), NOTES)


app = backup_app(
    "Write the server's folder, including its keys, into one file. The server may be running.",
    "Verify a backup and unpack it into an empty folder. The server is not started.",
    _pack,
    _target,
)
