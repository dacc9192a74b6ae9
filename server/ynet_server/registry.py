"""Who may connect: invitations, sites and their certificates, in the registry's file."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, cast

from ynet.errors import RefusedError, UserError
from ynet.trust import invitation
from ynet.trust.expiry import Life
from ynet.trust.identity import CLOCK_SLACK, check_site_name, read_leaf
from ynet.trust.ledger import ChainHead
from ynet_server.registry_file import RegistryFile
from ynet_server.training_records import TrainingRecords

Standing = Literal["current", "next", "replaced", "revoked", "retired", "unknown"]
"""The state of a site's certificate. `next`: a renewal that was not used yet, valid beside the current one. `retired`:
its authority is no longer in force."""


class SiteRecord(NamedTuple):
    """An enrolled hospital."""

    name: str
    serial: str
    enrolled: float
    last_seen: float | None
    version: str | None
    cases: int | None
    ends: float | None  # of its current certificate, or of the one that was revoked
    revoked: float | None


class Registry:
    """The server's SQLite file. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises UserError."""
        self._file = RegistryFile(path)
        self.training = TrainingRecords(self._file)
        self._shut: dict[str, float] = {}  # when sites were shut out whose revocation is not on the disk yet

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def invite(self, site: str, secret: bytes, now: float, *, replace: bool) -> None:
        """Invite `site` to enrol within a day. Raises UserError when it has enrolled already, unless `replace`."""
        check_site_name(site)
        with self._file.transaction() as db:
            if not replace and db.execute("SELECT 1 FROM sites WHERE name=?", (site,)).fetchone():
                raise UserError(
                    f"site {site} cannot be invited",
                    "a site of that name has enrolled already",
                    f"choose another name, or replace the old site: ynet-server invite {site} --replace",
                )
            db.execute(
                "INSERT OR REPLACE INTO invitations VALUES (?, ?, ?, NULL)",
                (site, invitation.verifier(secret), now + invitation.LIFE_S),
            )

    def invited(self, site: str, now: float) -> tuple[bytes, bytes | None]:
        """The verifier of a site's invitation, and the certificate already issued on it. Raises RefusedError."""
        found = self._file.rows("SELECT verifier, expires, certificate FROM invitations WHERE site=?", site)
        made = found[0][1] - invitation.LIFE_S if found else 0.0
        if not found or not made - CLOCK_SLACK.total_seconds() <= now <= found[0][1]:  # earlier: a clock was ahead
            raise RefusedError(
                "enrolment refused",
                "there is no open invitation for this site",
                "ask the coordinator for a new invitation, and give the name it was made for",
            )
        return bytes(found[0][0]), found[0][2]

    def enrol(self, site: str, serial: int, certificate: bytes, now: float, ends: float | None = None) -> None:
        """Use up the invitation, and end the site's older certificates and a revocation.

        Raises RefusedError when the invitation was used by somebody else in the meantime.
        """
        with self._file.transaction() as db:
            invited = db.execute("SELECT certificate FROM invitations WHERE site=?", (site,)).fetchone()
            if invited and invited[0] is not None:
                raise used_already()
            if site in self._shut:
                _end_certificates(db, site, "revoked", self._shut[site])
            db.execute("UPDATE invitations SET certificate=? WHERE site=?", (certificate, site))
            db.execute(
                "INSERT INTO sites (name, serial, enrolled) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE"
                " SET serial=excluded.serial, enrolled=excluded.enrolled",
                (site, f"{serial:x}", now),
            )
            _end_certificates(db, site, "replaced", now)
            _keep(db, site, f"{serial:x}", "current", certificate, ends, now)
        self._shut.pop(site, None)

    def invitations(self, now: float) -> dict[str, float]:
        """The sites that are invited and have not enrolled, with the end of their invitations."""
        query = "SELECT site, expires FROM invitations WHERE certificate IS NULL AND expires > ? ORDER BY site"
        return dict(self._file.rows(query, now))

    def sites(self) -> list[SiteRecord]:
        """All enrolled sites, by name."""
        query = (
            "SELECT name, s.serial, enrolled, last_seen, version, cases,"
            " CASE standing WHEN 'retired' THEN NULL ELSE ends END, CASE standing WHEN 'revoked' THEN changed END"
            " FROM sites s LEFT JOIN certificates c ON c.site=s.name AND c.serial=s.serial ORDER BY name"
        )
        return [SiteRecord(*row) for row in self._file.rows(query)]

    def standing(self, site: str, serial: int) -> Standing:
        """The state of a site's certificate."""
        if site in self._shut:
            return "revoked"
        found = self._file.rows("SELECT standing FROM certificates WHERE site=? AND serial=?", site, f"{serial:x}")
        return cast(Standing, found[0][0]) if found else "unknown"

    def holds(self, site: str, serial: int) -> bool:
        """Whether the site may connect with this certificate: the current one, or its renewal."""
        return self.standing(site, serial) in ("current", "next")

    def used(self, site: str, serial: int, ends: float, now: float) -> None:
        """Note that a site has connected with this certificate; the first use of a renewal ends the one before."""
        name = (site, f"{serial:x}")
        found = self._file.rows("SELECT standing, ends FROM certificates WHERE site=? AND serial=?", *name)
        if not found or found[0] == ("current", ends):
            return  # the usual case
        with self._file.transaction() as db:
            if self.standing(site, serial) == "next":
                _end_certificates(db, site, "replaced", now)
                db.execute(
                    "UPDATE certificates SET standing='current', changed=? WHERE site=? AND serial=?", (now, *name)
                )
                db.execute("UPDATE sites SET serial=? WHERE name=?", (name[1], site))
            elif found[0][1] is None:  # enrolled under an older version
                db.execute("UPDATE certificates SET ends=? WHERE site=? AND serial=?", (ends, *name))

    def next_certificate(self, site: str) -> bytes | None:
        """The renewal that the site was given and has not used yet, PEM."""
        found = self._file.rows("SELECT certificate FROM certificates WHERE site=? AND standing='next'", site)
        return bytes(found[0][0]) if found else None

    def renew(self, site: str, serial: int, certificate: bytes, now: float, ends: float) -> None:
        """Store a renewal in place of one that was never used; it is valid beside the current one until it is used.

        Raises RefusedError when the site has no current certificate any more.
        """
        with self._file.transaction() as db:
            if not db.execute("SELECT 1 FROM certificates WHERE site=? AND standing='current'", (site,)).fetchone():
                raise RefusedError("no renewal", "the site has no certificate in use", "enrol again")
            db.execute("DELETE FROM certificates WHERE site=? AND standing='next'", (site,))
            _keep(db, site, f"{serial:x}", "next", certificate, ends, now)

    def shut_out(self, site: str, now: float) -> None:
        """Refuse a site's certificates in this process from now on, even if the disk cannot store it.

        Raises UserError for an unknown site.
        """
        if not self._file.rows("SELECT 1 FROM sites WHERE name=?", site):
            do = "list the sites: ynet-server sites"
            raise UserError(f"there is no site {site[:40]!r}", "no site of that name has enrolled", do)
        self._shut.setdefault(site, now)

    def shut_out_unwritten(self) -> dict[str, float]:
        """The sites that are shut out and whose revocation is not on disk yet, with the time of the revocation."""
        return dict(self._shut)

    def revoke(self, site: str, now: float) -> float:
        """End all of a site's certificates and its invitation. Returns the time of the revocation.

        Raises UserError for an unknown site, and sqlite3.Error when the disk is full: the site is then shut out, and
        the server tries again.
        """
        self.shut_out(site, now)
        with self._file.transaction() as db:
            db.execute("DELETE FROM invitations WHERE site=?", (site,))
            _end_certificates(db, site, "revoked", now)
            query = "SELECT MAX(changed) FROM certificates WHERE site=? AND standing='revoked'"
            when = float(db.execute(query, (site,)).fetchone()[0])
        self._shut.pop(site, None)
        return when

    def in_use(self) -> dict[str, list[bytes | None]]:
        """The valid certificates by site, PEM; None for a site that enrolled under an older version."""
        found = dict[str, list[bytes | None]]()
        for site, certificate in self._file.rows(
            "SELECT site, certificate FROM certificates WHERE standing IN ('current', 'next') ORDER BY site, standing"
        ):
            found.setdefault(site, []).append(certificate)
        return found

    def lives(self) -> dict[str, Life]:
        """The validity of each site's certificate, without sites that enrolled under an older version."""
        held = {site: certificates[0] for site, certificates in self.in_use().items()}
        return {site: read_leaf(one).life for site, one in held.items() if one is not None}

    def retire(self, is_good: Callable[[bytes], bool], now: float) -> list[str]:
        """End the certificates whose authority is no longer in force. Returns their sites."""
        query = "SELECT site, serial, certificate FROM certificates WHERE standing IN ('current', 'next')"
        with self._file.transaction() as db:
            ended = [row for row in db.execute(query).fetchall() if row[2] is None or not is_good(row[2])]
            for site, serial, _ in ended:
                values = ("retired", now, site, serial)
                db.execute("UPDATE certificates SET standing=?, changed=? WHERE site=? AND serial=?", values)
        return sorted({row[0] for row in ended})

    def void_invitations(self, now: float) -> list[str]:
        """Void all invitations. Returns the sites whose invitations were open."""
        with self._file.transaction() as db:
            query = "SELECT site FROM invitations WHERE certificate IS NULL AND expires >= ? ORDER BY site"
            found = [row[0] for row in db.execute(query, (now,)).fetchall()]
            db.execute("DELETE FROM invitations")
        return found

    def saw(self, site: str, version: str, cases: int, now: float) -> None:
        """Note that a site has connected."""
        with self._file.transaction() as db:
            db.execute("UPDATE sites SET last_seen=?, version=?, cases=? WHERE name=?", (now, version, cases, site))

    def left(self, site: str, now: float) -> None:
        """Store when a site was last connected."""
        with self._file.transaction() as db:
            db.execute("UPDATE sites SET last_seen=? WHERE name=?", (now, site))

    def saw_ledger(self, site: str, head: ChainHead) -> None:
        """Store how far a site's privacy ledger goes, as the site reports it; the farthest position counts."""
        with self._file.transaction() as db:
            db.execute(
                "INSERT INTO ledgers VALUES (?, ?, ?) ON CONFLICT(site) DO UPDATE"
                " SET number=excluded.number, digest=excluded.digest WHERE excluded.number > ledgers.number",
                (site, *head),
            )

    def ledger_of(self, site: str) -> ChainHead | None:
        """The farthest position of a site's privacy ledger that the site has reported."""
        rows = self._file.rows("SELECT number, digest FROM ledgers WHERE site=?", site)
        return ChainHead(*rows[0]) if rows else None


def used_already() -> RefusedError:
    """The refusal of a second enrolment with one invitation."""
    why = "the invitation was used already"
    return RefusedError("enrolment refused", why, "ask the coordinator for a new invitation")


def _end_certificates(db: sqlite3.Connection, site: str, standing: Standing, now: float) -> None:
    values = (standing, now, site)
    db.execute("UPDATE certificates SET standing=?, changed=? WHERE site=? AND standing IN ('current', 'next')", values)


def _keep(
    db: sqlite3.Connection,
    site: str,
    serial: str,
    standing: Standing,
    certificate: bytes,
    ends: float | None,
    now: float,
) -> None:
    values = (site, serial, standing, certificate, ends, now)
    db.execute("INSERT OR REPLACE INTO certificates VALUES (?, ?, ?, ?, ?, ?)", values)
