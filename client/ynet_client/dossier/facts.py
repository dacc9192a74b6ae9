"""The facts that a dossier is computed from: a site's settings, and the files of its home folder. Nothing is written.

No key, password, invitation, note, image path or patient is read into a fact. The client may run or not.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ynet import __version__
from ynet.errors import UserError
from ynet.federation import countersigned
from ynet.runtime import home as homes
from ynet.runtime import setting_sources, unix_socket
from ynet.trust import identity, lasting_key
from ynet.trust import ledger as ledgers
from ynet.trust.chain import ChainHead
from ynet.web import accounts
from ynet_client import audit, egress, restored
from ynet_client import settings as client_settings
from ynet_client.dossier import logged, seen_plans
from ynet_client.dossier.logged import LoggedUse
from ynet_client.dossier.seen_plans import KnownPlan
from ynet_client.egress import ClassTotals
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership
from ynet_client.membership.peers import Peer, Peers
from ynet_client.retrieval import disclosure
from ynet_client.settings import ClientSettings
from ynet_client.training import ledger_report


@dataclass(frozen=True)
class ServerFacts:
    """The server that the site belongs to, and the site's certificate."""

    address: str
    enrolment: str
    authorities: tuple[str, ...]  # SHA-256 of the certificates that the site trusts
    certificate_begins: float  # seconds since 1970
    certificate_ends: float


@dataclass(frozen=True)
class AuditFacts:
    """The head of the audit log, and the newest head that the server has signed."""

    head: ChainHead
    signed: int
    signed_number: int  # of the newest signed head; 0: none
    signed_at: float | None  # seconds since 1970


@dataclass(frozen=True)
class HomeFacts:
    """All facts of one site at one moment."""

    now: float  # seconds since 1970
    version: str
    home: Path
    site: str
    fingerprint: str  # of the lasting key; empty before the first `join`
    server: ServerFacts
    settings: ClientSettings
    settings_file: str  # empty: every setting has its default
    is_running: bool
    is_edited: bool  # the settings were written after the running client had started
    peers: tuple[Peer, ...]
    totals: tuple[ClassTotals, ...]
    is_counted: bool  # whether the home has a file of counts
    audit: AuditFacts
    used: LoggedUse
    ledger: dict[str, Any]
    plans: tuple[KnownPlan, ...]
    accounts: int  # of the workbench
    restored: float | None  # seconds since 1970; infinity when unknown
    has_gallery: bool

    @property
    def answered_sites(self) -> list[str]:
        """The confirmed sites that the settings allow this site to answer."""
        if self.settings.archive is None:
            return []
        return [name for name in self.asked_sites if disclosure.site_refusal(self.settings.disclosure, name) is None]

    @property
    def asked_sites(self) -> list[str]:
        """The confirmed sites, which this site asks."""
        return [one.site for one in self.peers if one.state == "trusted"]

    @property
    def since(self) -> float | None:
        """When the site enrolled, as far as its files go back; seconds since 1970."""
        known = [row.first for row in self.totals if row.name == "enrolment"]
        known += [self.used.joined] if self.used.joined is not None else []
        return min(known, default=None)

    @property
    def model_plan(self) -> KnownPlan | None:
        """The plan of the model in use, where its file is in the home folder."""
        return next((one for one in self.plans if self.used.model and self.used.model in one.models), None)


def gather(home: Path, now: float) -> HomeFacts:
    """Read the facts of a home folder.

    Args:
        home: the site's folder.
        now: seconds since 1970.

    Raises:
        UserError: no site has enrolled there, or a file cannot be read.
        AuditError: the audit log was changed.
        LedgerError: the privacy ledger was changed.
    """
    member = _member(home)
    settings, file = client_settings.read(home), setting_sources.source_of(home, client_settings.FILE, None).file
    _check_manifest(settings)
    is_running = homes.is_held(home)
    head, used = audit.verify(home), logged.summarise(audit.read(home))
    return HomeFacts(
        now=now,
        version=__version__,
        home=home,
        site=member.site,
        fingerprint=_fingerprint(member),
        server=_server(member),
        settings=settings,
        settings_file=str(file or ""),
        is_running=is_running,
        is_edited=is_running and _is_newer(file, home / unix_socket.NAME),
        peers=tuple(Peers(home, settings.known_sites).listed()),
        totals=tuple(egress.read(home)),
        is_counted=(home / egress.FILE).exists(),
        audit=_audit(home, member, head),
        used=used,
        ledger=ledger_report.summary(ledgers.read(home), settings.privacy),
        plans=tuple(seen_plans.known(home, settings, used)),
        accounts=len(accounts.Accounts(home).all()) if (home / accounts.FILE).exists() else 0,
        restored=restored.at(home),
        has_gallery=(home / "gallery.sqlite").exists(),
    )


def _member(home: Path) -> Membership:
    if not home.is_dir():
        raise UserError(f"there is no site in {home}", "the folder does not exist", "give --site or --home")
    member = membership.load(home)
    if member is None:
        do = (
            "join with an invitation of the coordinator's, then run ynet-client dossier again; or give --site or --home"
        )
        raise UserError(f"there is no site in {home}", "no site has enrolled in this folder", do)
    return member


def _check_manifest(settings: ClientSettings) -> None:
    """Raise UserError where the settings say neither that the site has data, nor that it only asks."""
    _ = settings.archive


def _fingerprint(member: Membership) -> str:
    if not member.lasting:
        return ""
    return lasting_key.fingerprint_of(member.site, lasting_key.public_of(member.lasting))


def _server(member: Membership) -> ServerFacts:
    authorities = tuple(identity.fingerprint(one).hex() for one in identity.each_certificate(member.authority))
    life = identity.read_leaf(member.certificate)
    return ServerFacts(member.hub, member.enrolment, authorities, life.begins.timestamp(), life.ends.timestamp())


def _audit(home: Path, member: Membership, head: ChainHead) -> AuditFacts:
    signed = countersigned.verify(home, audit.read(home), member.authority, member.past)
    newest: Sequence[countersigned.Countersigned] = list(countersigned.kept(home))[-1:]
    number, at = (newest[0].number, newest[0].time) if newest else (0, None)
    return AuditFacts(head, signed, number, at)


def _is_newer(file: Path | None, than: Path) -> bool:
    try:
        return file is not None and file.stat().st_mtime > than.stat().st_mtime
    except OSError:
        return False


def day(seconds: float | None) -> str:
    """Return a time as a date and minute in UTC; a dash where there is none."""
    if seconds is None or not 0 < seconds < 1 << 40:
        return "-"
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
