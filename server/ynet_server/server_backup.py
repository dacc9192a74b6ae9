"""Backups of the server's home folder: one consistent file, and what changes when it is restored."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from ynet import __version__, weights
from ynet.errors import UserError
from ynet.federation import countersigned
from ynet.runtime import backup, backup_files
from ynet.runtime.backup import BackupManifest, Packed
from ynet.runtime.home import Lock, write_private
from ynet.trust import journal
from ynet_server import audit
from ynet_server import settings as server_settings
from ynet_server.audit import ServerAudit
from ynet_server.authority import authorities
from ynet_server.registry import Registry
from ynet_server.rounds.run_folder import MODEL

REGISTRY = "registry.sqlite"
NOTES = (
    "revoke again the sites that you have revoked since (ynet-server revoke SITE): the backup does not have it",
    "a site that has enrolled or renewed its certificate since is refused: ynet-server invite SITE --replace",
    "an authority that was retired since is in force again, with its key: retire it again (ynet-server authority show)",
    "open invitations are void: make new ones",
    "accounts of the status page that were removed since are there again, and passwords changed since are the old ones:"
    " ynet-server user list, user remove NAME, user password NAME",
    "a run that was under way continues from the backup's last round at the next start: a site refuses a private or"
    " secure round that it has done already, so cancel such a run, and start a new one",
    "sites report for a while that this server's audit log is shorter than before: the cause is this restoring",
    "if the old server runs anywhere: stop it for good before this one starts",
)


def pack(home: Path, out: Path, now: float, passphrase: str | None) -> Packed:
    """Back a server up, which may be running. Raises UserError."""
    if not (home / REGISTRY).exists():
        raise UserError(f"there is no server in {home}", "none was ever started there", "give another --home")
    settings = server_settings.load(home, None)
    about = BackupManifest(backup.FORMAT, "server", settings.federation, now, __version__, {})
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(UserError):  # it is running: its databases are shared
            stack.enter_context(Lock(home, "ynet-server"))
        return backup.pack(home, out, about, lambda aside: _lay(home, aside), passphrase)


def _lay(home: Path, aside: Path) -> None:
    backup_files.lay_databases(home, aside)
    journal.lay(home, aside, audit.KIND, countersigned.SIGNED)
    folder = aside / authorities.FOLDER
    folder.mkdir(mode=0o700)
    for name, content in _authority(home / authorities.FOLDER).items():
        write_private(folder / name, content)


def _authority(folder: Path) -> dict[str, bytes]:
    """The files of the authority, which a rotation may just be exchanging: as they are twice."""
    before: dict[str, bytes] | None = None
    while True:
        now = dict[str, bytes]()
        for path in folder.glob("*.*"):
            if path.suffix != ".partial":
                with contextlib.suppress(FileNotFoundError):
                    now[path.name] = path.read_bytes()
        if now == before:
            return now
        before = now


def unpack(file: Path, home: Path, now: float, passphrase: Callable[[], str]) -> BackupManifest:
    """Restore a server into an empty folder; it is not started. Raises UserError."""

    def check(unpacked: Path, manifest: BackupManifest) -> None:
        _check(unpacked)
        with contextlib.closing(Registry(unpacked / REGISTRY)) as registry:
            registry.void_invitations(now)
        with contextlib.closing(ServerAudit(unpacked)) as log:
            log.write("restored", about=f"from a backup made {now - manifest.made:.0f} s before")

    return backup.unpack(file, home, "server", passphrase, check)


def _check(home: Path) -> None:
    """Registry, authority, audit log and the model in use, each held against its checks. Raises UserError."""
    backup_files.check_databases(home)
    in_force, past = authorities.kept_in(home)
    audit.verify(home)
    countersigned.verify(home, audit.read(home), in_force, past)
    try:
        with contextlib.closing(Registry(home / REGISTRY)) as registry:
            newest = next(iter(registry.training.models()), None)
            runs = {run.id: run.plan for run in registry.training.runs()}
    except (sqlite3.Error, ValueError) as error:
        raise UserError("the backup was not restored", f"its registry: {error}", "take an older backup") from None
    if newest:
        arrays, _ = weights.load(home / "runs" / f"{newest.run:04}" / MODEL)
        if weights.model_id(arrays, runs[newest.run]) != newest.id:
            raise UserError("the backup was not restored", "the model in use is another", "take an older backup")
