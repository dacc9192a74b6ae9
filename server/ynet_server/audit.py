"""The server's audit log, a hash chain: enrolments, revocations, runs and their sites, questions.

It holds no address, no secret, no weights and nothing of a query but who asked how many sites.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field, TypeAdapter

from ynet.trust import chain, journal
from ynet.trust.chain import ChainHead
from ynet.trust.journal import AuditError as AuditError
from ynet.trust.journal import Journal, Kind
from ynet_server.clock import now

LOG, HEAD = "audit.jsonl", "audit.head"
Action = Literal[
    "invited",
    "enrolled",
    "enrolment-refused",
    "renewed",
    "revoked",
    "authority-rotated",  # about: the successor's SHA-256
    "authority-retired",
    "authority-replaced",
    "plan-frozen",
    "run-started",
    "run-resumed",
    "run-cancelled",
    "quorum-changed",
    "run-carried-over",  # about: the run, and the plan that continues from its weights
    "run-ended",
    "round",
    "site-failed",
    "update-refused",
    "late-update",
    "model-published",
    "asked",
    "restored",  # the folder, from a backup
    "copy-refused",  # a second process with a site's identity, `count` times, while the first was connected
    "audit-refused",  # a site's log does not match its signed head
    "too-many",  # `count` calls that were refused by a rate limit; about: which
    "let-go",  # the log's oldest entries; about: the number and the digest of the last of them
]

_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class ServerEntry:
    """One entry of the log."""

    number: int  # from 1
    time: float  # seconds since 1970, UTC
    action: Annotated[Action, Field(alias="act")]  # `act` in the file
    site: str  # the site that acted or was concerned; empty: the coordinator, and no site
    about: str
    previous: str  # SHA-256 of the line before
    count: int = 1  # how often; a line has it where it was not once

    def line(self) -> bytes:
        """The entry's line in the file."""
        kept = {key: value for key, value in vars(self).items() if key != "count" or value != 1}
        kept["act"] = kept.pop("action")
        return _JSON.encode(kept).encode() + b"\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the line, 64 hexadecimal digits."""
        return chain.digest(self.line())


def _letting_go(before: ChainHead, about: str) -> ServerEntry:
    return ServerEntry(before.number + 1, round(now(), 3), "let-go", "", about, before.digest)


def _let_go(entry: ServerEntry) -> str:
    return entry.about if entry.action == "let-go" else ""


KIND: Kind[ServerEntry] = Kind(LOG, HEAD, TypeAdapter(ServerEntry).validate_json, _letting_go, _let_go)


class Write(Protocol):
    """Adds an entry with the current time."""

    def __call__(self, action: Action, site: str = "", about: str = "", count: int = 1) -> None:
        """Raises UserError when the disk is full."""


def nowhere(action: Action, site: str = "", about: str = "", count: int = 1) -> None:
    """The `Write` of a server without a log."""


class ServerAudit(Journal[ServerEntry]):
    """The log in the server's home folder. One process has it open at a time; all of its threads may write."""

    def __init__(self, home: Path, make_room: Callable[[], bool] = lambda: False) -> None:
        """Open the log. `make_room` is called when the disk is full. Raises AuditError when the head does not match."""
        super().__init__(home, KIND, make_room)

    def write(self, action: Action, site: str = "", about: str = "", count: int = 1) -> None:
        """Add an entry with the current time."""
        at = round(now(), 3)
        self.add(lambda before: ServerEntry(before.number + 1, at, action, site, about, before.digest, count))


def read(home: Path) -> Iterator[ServerEntry]:
    """The entries, first to last; another process may be adding to them. Raises AuditError at a damaged one."""
    return journal.read(home, KIND)


def verify(home: Path) -> ChainHead:
    """Check every line. Returns the log's head. Raises AuditError when the log was edited or cut."""
    return journal.verify(home, KIND)
