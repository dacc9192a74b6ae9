"""A site's audit log: its questions, its answers and its people's decisions, in an append-only hash chain.

The log holds who asked whom, when, how much and with what outcome, which plans were accepted, which rounds were
trained. It holds no code, label, filter value, note, token or patient, so that it may be shown to an auditor.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from ynet.trust import chain, journal
from ynet.trust.chain import ChainHead
from ynet.trust.journal import AuditError as AuditError
from ynet.trust.journal import Journal, Kind

LOG, HEAD = "audit.jsonl", "audit.head"
Question = Literal["query", "consult", "consult-check", "consult-answer", "unreadable", "too-many"]
Act = Literal[
    "joined",  # about: the SHA-256 of its certificate
    "plan-accepted",  # about: the plan's id
    "plan-declined",
    "task",  # about: its kind, its round and the plan's id; outcomes: done, refused or failed
    "model",  # about: its id
    "forgot",  # a patient; not whom
    "authority-pinned",  # about: the SHA-256 of its certificate
    "authority-let-go",
    "authority-refused",  # outcome: why
    "restored",  # the folder, from a backup
    "site-confirmed",  # about: another site's name and the fingerprint of its lasting key
    "site-unconfirmed",  # as above: it showed a key that the admin has not confirmed
    "copy-refused",  # by the server: another process used this site's identity
    "imported",  # about: how many images, how many were left out
    "segmented",  # a mask as a DICOM SEG; about: the model's id
    "too-many",  # refused without being read, `count` of them; about: messages of the server, by kind
    "fetched",  # a file of arrays that no round changes; about: encoder or fixed arrays, its SHA-256, its bytes
    "let-go",  # the log's oldest entries; about: the number and the digest of the last of them
]

_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Entry:
    """One question, or one action of the site."""

    number: int  # from 1
    time: float  # seconds since 1970, UTC
    direction: Literal["asked", "answered", "did"]
    kind: Question | Act
    outcomes: Mapping[str, str]  # other site: outcome
    hits: Mapping[str, int]  # other site: hits it gave or was given
    user: str  # pseudonym
    codes: int = 0
    k: int = 0
    filters: tuple[str, ...] = ()  # kinds, not values
    epsilon: Annotated[float, Field(allow_inf_nan=False)] = 0.0  # of randomised response; 0: the true code was sent
    previous: str = field(default=chain.NOTHING)  # SHA-256 of the line before
    about: str = ""  # of an action, its object; of a question, empty
    count: int = 1  # how often; the line has it where it is not 1

    def line(self) -> bytes:
        """Return the entry as a line of the file."""
        unsaid = {"about": "", "count": 1}
        shown = {key: value for key, value in vars(self).items() if key not in unsaid or value != unsaid[key]}
        return _JSON.encode(shown).encode() + b"\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the line, 64 hexadecimal digits."""
        return chain.digest(self.line())


def _letting_go(before: ChainHead, about: str) -> Entry:
    number, at = before.number + 1, round(time.time(), 3)
    return Entry(number, at, "did", "let-go", {"": "done"}, {}, "", previous=before.digest, about=about)


def _let_go(entry: Entry) -> str:
    return entry.about if entry.kind == "let-go" else ""


KIND: Kind[Entry] = Kind(LOG, HEAD, TypeAdapter(Entry).validate_json, _letting_go, _let_go)


class Audit(Journal[Entry]):
    """The log in a site's home folder. One process has it open at a time, any of its threads may write."""

    def __init__(
        self,
        home: Path,
        added: Callable[[Entry], None] = lambda _: None,
        make_room: Callable[[], bool] = lambda: False,
    ) -> None:
        """Open the log, cut off a line that a power cut left incomplete, and check its end. Raises AuditError.

        `added` is called with each entry after it is written, `make_room` when the disk is full.
        """
        super().__init__(home, KIND, make_room)
        self._added = added

    def add(self, made: Callable[[ChainHead], Entry]) -> None:
        """Add the entry that follows a head. Raises UserError when the disk is full."""
        entries: list[Entry] = []

        def making(before: ChainHead) -> Entry:
            entries.append(made(before))
            return entries[0]

        super().add(making)
        self._added(entries[0])

    def write(
        self,
        now: float,
        direction: Literal["asked", "answered"],
        kind: Question,
        outcomes: Mapping[str, str],
        *,
        user: str,
        hits: Mapping[str, int] | None = None,
        codes: int = 0,
        k: int = 0,
        filters: tuple[str, ...] = (),
        epsilon: float = 0.0,
        count: int = 1,
    ) -> None:
        """Add one question; a batch is one. `now` in seconds since 1970. `count`: several of a kind in one line."""

        def entry(before: ChainHead) -> Entry:
            said, given = dict(outcomes), dict(hits or {})
            number, at, last = before.number + 1, round(now, 3), before.digest
            return Entry(number, at, direction, kind, said, given, user, codes, k, filters, epsilon, last, count=count)

        self.add(entry)

    def did(self, now: float, act: Act, about: str = "", outcome: str = "done", user: str = "", count: int = 1) -> None:
        """Add an action of the site or of its people. `user`: the pseudonym of the person who asked for it."""
        self.add(
            lambda before: Entry(
                before.number + 1,
                round(now, 3),
                "did",
                act,
                {"": outcome},
                {},
                user,
                previous=before.digest,
                about=about,
                count=count,
            )
        )


def read(home: Path) -> Iterator[Entry]:
    """Yield the entries, first to last; another process may add entries. Raises AuditError at a changed one."""
    return journal.read(home, KIND)


def verify(home: Path) -> ChainHead:
    """Check every line of the log and return its head. Raises AuditError when it was edited or cut."""
    return journal.verify(home, KIND)
