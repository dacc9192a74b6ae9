"""The backup of a site's home folder in one file, and its restoration."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from ynet import __version__
from ynet import plan as plans
from ynet.errors import UserError
from ynet.federation import countersigned
from ynet.runtime import backup, backup_files
from ynet.runtime.backup import BackupManifest, Packed
from ynet.runtime.home import Lock
from ynet.trust import journal, ledger
from ynet_client import audit, control_client, restored
from ynet_client.audit import Audit
from ynet_client.membership import membership
from ynet_client.restored import Restored
from ynet_client.training import consent

RENEWAL_TRIES = 5
NOTES = (
    "patients who were forgotten since are there again: ynet-client forget --patient ID, for each",
    "private training waits until the server has confirmed the head of the privacy ledger; a ledger that misses entries"
    " stops it, and only the newest ledger.jsonl and ledger.head repair that",
    "plans with secure aggregation wait for ynet-client plan accept again: do not accept one that was trained here"
    " since",
    "private plans that were trained here before get no more scores from this site: it may have answered since",
    "a certificate that was renewed since is refused: ask for an invitation (ynet-server invite SITE --replace)",
    "the server reports for a while that this site's audit log is shorter than before: the restoration is the reason",
    "accounts of the workbench that were removed since are there again, and passwords changed since are the old ones:"
    " ynet-client user list, user remove NAME, user password NAME; so is what was deleted from histories",
    "do not ask a noised query again that was asked since: its noise would be drawn a second time",
    "sites that were distrusted since are confirmed again: ynet-client sites, sites distrust NAME",
    "if the old client runs anywhere: stop it for good before this one starts",
)


def pack(home: Path, out: Path, now: float, passphrase: str | None) -> Packed:
    """Back up a site; its client may be running. Raises UserError."""
    member = membership.load(home)
    if member is None:
        raise UserError(f"there is no site in {home}", "no site has joined from there", "give --site or --home")
    about = BackupManifest(backup.FORMAT, "client", member.site, now, __version__, {})
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(Lock(home, f"the client of site {member.site}"))
            is_running = False
        except UserError:
            is_running = True

        def lay(aside: Path) -> None:
            if is_running:
                control_client.copy_databases(home)  # that process has them locked
            backup_files.lay_databases(home, aside)
            journal.lay(home, aside, audit.KIND, countersigned.SIGNED)
            _lay_membership(home, aside)

        return backup.pack(home, out, about, lay, passphrase)


def unpack(file: Path, home: Path, site: str | None, now: float, passphrase: Callable[[], str]) -> BackupManifest:
    """Restore a site into an empty folder, without starting its client. Raises UserError."""

    def check(unpacked: Path, manifest: BackupManifest) -> None:
        member = membership.load(unpacked)
        if member is None or member.site != (site or member.site):
            why = f"it is site {member.site}'s" if member else "no site has joined in it"
            raise UserError(f"the backup {file} was not restored", why, "take another backup, or another --site")
        backup_files.check_databases(unpacked)
        ledger.read(unpacked)
        audit.verify(unpacked)
        countersigned.verify(unpacked, audit.read(unpacked), member.authority, member.past)
        withdraw_acceptances(unpacked)
        restored.write(unpacked, Restored(manifest.made, now))
        with contextlib.closing(Audit(unpacked)) as log:
            log.did(now, "restored", f"from a backup made {now - manifest.made:.0f} s before")

    return backup.unpack(file, home, "client", passphrase, check)


def withdraw_acceptances(home: Path) -> None:
    """Withdraw the acceptance of every plan with secure aggregation: sums since the backup are unknown."""
    for path in (home / consent.FOLDER).glob("*.json"):
        with contextlib.suppress(UserError):  # a plan of another ynet version, which is not trained here
            if plans.from_canonical(path.read_text("utf-8", errors="replace")).aggregation != "secure":
                continue
        path.with_suffix(".accepted").unlink(missing_ok=True)


def _lay_membership(home: Path, aside: Path) -> None:
    """Copy certificate and key, again if a renewal changes them during the copy."""
    for left in reversed(range(RENEWAL_TRIES)):
        for name in (membership.FILE, membership.KEY, membership.NEXT_KEY):
            (aside / name).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(home / name, aside / name)
                (aside / name).chmod(0o600)
        try:
            membership.load(aside)
        except UserError:
            if not left:
                raise
        else:
            return
