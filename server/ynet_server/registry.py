"""What the server must remember: invitations, sites, plans, runs, models; SQLite, one connection, one writer."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from ynet import plan
from ynet.errors import RefusedError, UserError
from ynet.plan import Plan
from ynet.runtime import disk_faults
from ynet.trust import invitation
from ynet.trust.expiry import Life
from ynet.trust.identity import CLOCK_SLACK, check_site_name, read_leaf
from ynet.trust.ledger import ChainHead

SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE invitations (
  site TEXT PRIMARY KEY, verifier BLOB NOT NULL, expires REAL NOT NULL, certificate BLOB);
CREATE TABLE sites (
  name TEXT PRIMARY KEY, serial TEXT NOT NULL, enrolled REAL NOT NULL, last_seen REAL, version TEXT, cases INTEGER);
CREATE TABLE plans (id TEXT PRIMARY KEY, name TEXT NOT NULL, canonical TEXT NOT NULL, frozen REAL NOT NULL);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, plan TEXT NOT NULL REFERENCES plans, status TEXT NOT NULL, started REAL NOT NULL,
  ended REAL, reason TEXT NOT NULL DEFAULT '', model TEXT);
CREATE TABLE models (
  id TEXT PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, card TEXT NOT NULL, published REAL NOT NULL);
"""
SINCE_VERSION_1 = """
CREATE TABLE ledgers (site TEXT PRIMARY KEY, number INTEGER NOT NULL, digest TEXT NOT NULL);
"""
SINCE_VERSION_2 = """
CREATE TABLE certificates (
  site TEXT NOT NULL, serial TEXT NOT NULL, standing TEXT NOT NULL, certificate BLOB, ends REAL, changed REAL NOT NULL,
  PRIMARY KEY (site, serial));
INSERT INTO certificates SELECT name, serial, 'current', NULL, NULL, enrolled FROM sites;
"""

RunStatus = Literal["running", "finished", "failed", "cancelled"]
Standing = Literal["current", "next", "replaced", "revoked", "retired", "unknown"]
"""Of a site's certificate. `next`: a renewal that was not used yet; until it is, the current one counts too. `retired`:
its authority is in force no more."""


class Run(NamedTuple):
    """One training of one plan."""

    id: int
    plan: str
    status: RunStatus
    started: float  # seconds since 1970
    ended: float | None
    reason: str
    model: str | None


class Site(NamedTuple):
    """An enrolled hospital."""

    name: str
    serial: str
    enrolled: float
    last_seen: float | None
    version: str | None
    cases: int | None
    ends: float | None  # of its current certificate, or of the one that was revoked
    revoked: float | None


class Model(NamedTuple):
    """A published model; the newest is the one in use."""

    id: str
    run: int
    card: dict[str, Any]
    published: float


BUSY_S = 0.25
"""How long a lock of another process is waited for: the event loop stands still meanwhile."""


class Registry:
    """The server's SQLite file. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._plans: dict[str, Plan | None] = {}
        self._shut: dict[str, float] = {}  # sites whose revocation is not written down yet, and when it was said
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
        except sqlite3.DatabaseError as error:
            self._db.close()
            if disk_faults.is_of_disk(error):
                raise
            do = "restore it from a backup; without it, every site must be invited anew"
            raise UserError(f"the registry {path} cannot be read", str(error), do) from None
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA foreign_keys=ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._migrate(SCHEMA + SINCE_VERSION_1 + SINCE_VERSION_2)
        elif version == 1:
            self._migrate(SINCE_VERSION_1 + SINCE_VERSION_2)
        elif version == 2:
            self._migrate(SINCE_VERSION_2)
        elif version != SCHEMA_VERSION:
            raise UserError(
                f"the registry {path} is of another ynet version",
                f"it has schema {version}, this ynet reads {SCHEMA_VERSION}",
                "install the ynet that wrote it, or the newest",
            )

    def _migrate(self, tables: str) -> None:
        self._db.executescript(f"BEGIN; {tables} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:  # or else SQLite has rolled it back itself: the disk was full
                    self._db.execute("ROLLBACK")

    def _rows(self, query: str, *values: object) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # --- enrolment

    def invite(self, site: str, secret: bytes, now: float, *, replace: bool) -> None:
        """Expect `site` to enrol within a day. Raises UserError when it has enrolled already, unless `replace`."""
        check_site_name(site)
        with self._transaction() as db:
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
        found = self._rows("SELECT verifier, expires, certificate FROM invitations WHERE site=?", site)
        made = found[0][1] - invitation.LIFE_S if found else 0.0
        if not found or not made - CLOCK_SLACK.total_seconds() <= now <= found[0][1]:  # before: a clock was ahead
            raise RefusedError(
                "enrolment refused",
                "there is no open invitation for this site",
                "ask the coordinator for a new invitation, and give the name it was made for",
            )
        return bytes(found[0][0]), found[0][2]

    def enrol(self, site: str, serial: int, certificate: bytes, now: float, ends: float | None = None) -> None:
        """Use up the invitation; the site's older certificates, if any, end here, and so does a revocation.

        Raises RefusedError when the invitation was used by somebody else meanwhile.
        """
        with self._transaction() as db:
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
        return dict(self._rows(query, now))

    def sites(self) -> list[Site]:
        """All enrolled sites, by name."""
        query = (
            "SELECT name, s.serial, enrolled, last_seen, version, cases,"
            " CASE standing WHEN 'retired' THEN NULL ELSE ends END, CASE standing WHEN 'revoked' THEN changed END"
            " FROM sites s LEFT JOIN certificates c ON c.site=s.name AND c.serial=s.serial ORDER BY name"
        )
        return [Site(*row) for row in self._rows(query)]

    def standing(self, site: str, serial: int) -> Standing:
        """What became of a site's certificate."""
        if site in self._shut:
            return "revoked"
        found = self._rows("SELECT standing FROM certificates WHERE site=? AND serial=?", site, f"{serial:x}")
        return cast(Standing, found[0][0]) if found else "unknown"

    def holds(self, site: str, serial: int) -> bool:
        """Whether the site may come with this certificate: its current one, or the one that is to follow it."""
        return self.standing(site, serial) in ("current", "next")

    def used(self, site: str, serial: int, ends: float, now: float) -> None:
        """A site has connected with this certificate: where it is a renewal, the one before ends here."""
        name = (site, f"{serial:x}")
        found = self._rows("SELECT standing, ends FROM certificates WHERE site=? AND serial=?", *name)
        if not found or found[0] == ("current", ends):
            return  # nearly always: there is nothing to write
        with self._transaction() as db:
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
        found = self._rows("SELECT certificate FROM certificates WHERE site=? AND standing='next'", site)
        return bytes(found[0][0]) if found else None

    def renew(self, site: str, serial: int, certificate: bytes, now: float, ends: float) -> None:
        """Keep a renewal, in the place of one that was never used; it counts beside the current one until it is used.

        Raises RefusedError when the site has no current certificate any more.
        """
        with self._transaction() as db:
            if not db.execute("SELECT 1 FROM certificates WHERE site=? AND standing='current'", (site,)).fetchone():
                raise RefusedError("no renewal", "the site has no certificate in use", "enrol anew")
            db.execute("DELETE FROM certificates WHERE site=? AND standing='next'", (site,))
            _keep(db, site, f"{serial:x}", "next", certificate, ends, now)

    def shut_out(self, site: str, now: float) -> None:
        """From now on a site's certificates count no more, in this process, whatever the disk says.

        Raises UserError for an unknown site.
        """
        if not self._rows("SELECT 1 FROM sites WHERE name=?", site):
            do = "list the sites: ynet-server sites"
            raise UserError(f"there is no site {site[:40]!r}", "no site of that name has enrolled", do)
        self._shut.setdefault(site, now)

    def shut_out_unwritten(self) -> dict[str, float]:
        """The sites that are shut out, and whose revocation is not on the disk yet, with when it was said."""
        return dict(self._shut)

    def revoke(self, site: str, now: float) -> float:
        """End all of a site's certificates, and its invitation; when that was.

        Raises UserError for an unknown site, and sqlite3.Error where the disk takes no more: then it is shut out, and
        the server asks again.
        """
        self.shut_out(site, now)
        with self._transaction() as db:
            db.execute("DELETE FROM invitations WHERE site=?", (site,))
            _end_certificates(db, site, "revoked", now)
            query = "SELECT MAX(changed) FROM certificates WHERE site=? AND standing='revoked'"
            when = float(db.execute(query, (site,)).fetchone()[0])
        self._shut.pop(site, None)
        return when

    def in_use(self) -> dict[str, list[bytes | None]]:
        """The certificates that count, by site, PEM; None of a site that enrolled under an older version."""
        found = dict[str, list[bytes | None]]()
        for site, certificate in self._rows(
            "SELECT site, certificate FROM certificates WHERE standing IN ('current', 'next') ORDER BY site, standing"
        ):
            found.setdefault(site, []).append(certificate)
        return found

    def lives(self) -> dict[str, Life]:
        """When each site's certificate is in force; of those who enrolled under an older version nothing is known."""
        held = {site: certificates[0] for site, certificates in self.in_use().items()}
        return {site: read_leaf(one).life for site, one in held.items() if one is not None}

    def retire(self, is_good: Callable[[bytes], bool], now: float) -> list[str]:
        """End the certificates that are not good, since their authority is in force no more; their sites."""
        query = "SELECT site, serial, certificate FROM certificates WHERE standing IN ('current', 'next')"
        with self._transaction() as db:
            ended = [row for row in db.execute(query).fetchall() if row[2] is None or not is_good(row[2])]
            for site, serial, _ in ended:
                values = ("retired", now, site, serial)
                db.execute("UPDATE certificates SET standing=?, changed=? WHERE site=? AND serial=?", values)
        return sorted({row[0] for row in ended})

    def void_invitations(self, now: float) -> list[str]:
        """Void all invitations; the sites whose were open at that time."""
        with self._transaction() as db:
            query = "SELECT site FROM invitations WHERE certificate IS NULL AND expires >= ? ORDER BY site"
            found = [row[0] for row in db.execute(query, (now,)).fetchall()]
            db.execute("DELETE FROM invitations")
        return found

    def saw(self, site: str, version: str, cases: int, now: float) -> None:
        """Note that a site has connected."""
        with self._transaction() as db:
            db.execute("UPDATE sites SET last_seen=?, version=?, cases=? WHERE name=?", (now, version, cases, site))

    def left(self, site: str, now: float) -> None:
        """Note when a site was last there."""
        with self._transaction() as db:
            db.execute("UPDATE sites SET last_seen=? WHERE name=?", (now, site))

    def saw_ledger(self, site: str, head: ChainHead) -> None:
        """Note how far a site says that its privacy ledger goes; the farthest counts."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO ledgers VALUES (?, ?, ?) ON CONFLICT(site) DO UPDATE"
                " SET number=excluded.number, digest=excluded.digest WHERE excluded.number > ledgers.number",
                (site, *head),
            )

    def ledger_of(self, site: str) -> ChainHead | None:
        """How far a site's privacy ledger once went, by its own word."""
        rows = self._rows("SELECT number, digest FROM ledgers WHERE site=?", site)
        return ChainHead(*rows[0]) if rows else None

    # --- plans and runs

    def freeze(self, frozen: plan.Plan, now: float) -> str:
        """Keep a plan under its id; a plan that changed is a new plan."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO plans VALUES (?, ?, ?, ?)", (frozen.id, frozen.name, frozen.canonical(), now)
            )
        return frozen.id

    def plan(self, plan_id: str) -> plan.Plan:
        """A frozen plan. Raises UserError."""
        found = self._rows("SELECT canonical FROM plans WHERE id=?", plan_id)
        if not found:
            raise UserError(f"there is no plan {plan_id[:12]}", "it was never frozen here", "freeze it first")
        kept = plan.from_canonical(found[0][0])
        if kept.id != plan_id:
            why = "an older ynet named it, whose defaults were others"
            raise UserError(f"plan {plan_id[:12]} is another one now", why, "train its file anew: it is a new plan")
        return kept

    def known_plan(self, plan_id: str) -> Plan | None:
        """A frozen plan, to be shown: read once, and None where this ynet cannot read it."""
        if plan_id not in self._plans:
            try:
                self._plans[plan_id] = self.plan(plan_id)
            except UserError:
                self._plans[plan_id] = None
        return self._plans[plan_id]

    def start_run(self, plan_id: str, now: float) -> int:
        """A new run of a frozen plan, its number. Raises UserError while another one is under way."""
        with self._transaction() as db:
            _check_no_other_runs(db)
            cursor = db.execute("INSERT INTO runs (plan, status, started) VALUES (?, 'running', ?)", (plan_id, now))
            return int(cursor.lastrowid or 0)

    def end_run(self, run: int, status: RunStatus, reason: str, model: str | None, now: float) -> None:
        """Close a run."""
        with self._transaction() as db:
            db.execute(
                "UPDATE runs SET status=?, reason=?, model=?, ended=? WHERE id=?", (status, reason, model, now, run)
            )

    def reopen_run(self, number: int) -> Run:
        """A run that failed or was cancelled is under way again. Raises UserError."""
        with self._transaction() as db:
            found = db.execute("SELECT * FROM runs WHERE id=?", (number,)).fetchone()
            if found is None or Run(*found).status not in ("failed", "cancelled"):
                why = "there is no such run" if found is None else f"it is {Run(*found).status}"
                raise UserError(f"run {number} was not resumed", why, "see them: ynet-server runs")
            _check_no_other_runs(db)
            db.execute("UPDATE runs SET status='running', reason='', ended=NULL WHERE id=?", (number,))
            return Run(*found)

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        return [Run(*row) for row in self._rows("SELECT * FROM runs ORDER BY id DESC")]

    # --- models

    def publish(self, model: Model) -> None:
        """Put a model into use."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)",
                (model.id, model.run, json.dumps(model.card), model.published),
            )

    def models(self) -> list[Model]:
        """All published models, the one in use first: that which was published last, whatever the clock said then."""
        found = self._rows("SELECT id, run, card, published FROM models ORDER BY rowid DESC")
        return [Model(row[0], row[1], json.loads(row[2]), row[3]) for row in found]


def used_already() -> RefusedError:
    """An invitation makes one member."""
    why = "the invitation was used already"
    return RefusedError("enrolment refused", why, "ask the coordinator for a new invitation")


def _check_no_other_runs(db: sqlite3.Connection) -> None:
    if running := db.execute("SELECT id FROM runs WHERE status='running'").fetchone():
        do = f"wait for it (ynet-server runs --watch), or end it: ynet-server cancel {running[0]}"
        raise UserError("no run was started", f"run {running[0]} is under way", do)


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


def now() -> float:
    """Seconds since 1970."""
    return time.time()
