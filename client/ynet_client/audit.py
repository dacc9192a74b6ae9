"""A site's audit log: every question it asked or was asked, with its outcome, in an append-only hash chain.

It says who asked whom, when, how much and with what result. It holds no code, no label, no filter's value, no note, no
token and no patient: the log may be shown to an auditor, and what it tells is what an auditor must know.

A line is with the system when `write` returns: a process that is killed loses none. The disk has it, and the head
beside it that shows what was cut off, at most SYNC_S later: a power cut may lose the last SYNC_S.
"""

import json
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from ynet.errors import RefusedError, UserError
from ynet.federation import chain
from ynet.federation.chain import Head

LOG, HEAD = "audit.jsonl", "audit.head"
SYNC_S = 1.0
_TAIL_BYTES = 1 << 16


_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Entry:
    """One question."""

    number: int  # from 1
    time: float  # seconds since 1970
    direction: Literal["asked", "answered"]
    kind: Literal["query", "consult", "consult-check", "consult-answer", "unreadable"]
    outcomes: Mapping[str, str]  # other site: outcome
    hits: Mapping[str, int]  # other site: hits it gave or was given
    user: str  # pseudonym
    codes: int = 0
    k: int = 0
    filters: tuple[str, ...] = ()  # kinds, not values
    epsilon: Annotated[float, Field(allow_inf_nan=False)] = 0.0  # of randomised response; 0: the true code was sent
    previous: str = field(default=chain.NOTHING)  # SHA-256 of the line before

    def line(self) -> bytes:
        """The entry as it stands in the file."""
        return _JSON.encode(vars(self)).encode() + b"\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the line, 64 hexadecimal digits."""
        return chain.digest(self.line())


class AuditError(RefusedError):
    """The audit log was changed by something other than this program: it proves nothing. Exit code 3."""


_ENTRY = TypeAdapter(Entry)


class Audit:
    """The log in a site's home folder. One process has it open at a time, any of its threads may write."""

    def __init__(self, home: Path) -> None:
        """Cut off what a power cut tore, and see that the end is the one that was. Raises AuditError."""
        self._home, self._lock, self._is_dirty = home, threading.Lock(), threading.Event()
        chain.cut_torn(home / LOG)
        self._head = _last(home)
        self._file = os.open(home / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._sync()
        chain.sync_folder(home)
        self._is_closed = threading.Event()
        self._syncer = threading.Thread(target=self._keep_synced, name="audit", daemon=True)
        self._syncer.start()

    def write(
        self,
        now: float,
        direction: Literal["asked", "answered"],
        kind: Literal["query", "consult", "consult-check", "consult-answer", "unreadable"],
        outcomes: Mapping[str, str],
        *,
        user: str,
        hits: Mapping[str, int] | None = None,
        codes: int = 0,
        k: int = 0,
        filters: tuple[str, ...] = (),
        epsilon: float = 0.0,
    ) -> None:
        """Add one question; a batch is one. `now` in seconds since 1970."""
        with self._lock:
            number, before = self._head
            entry = Entry(
                number + 1,
                round(now, 3),
                direction,
                kind,
                dict(outcomes),
                dict(hits or {}),
                user,
                codes,
                k,
                filters,
                epsilon,
                before,
            )
            line = entry.line()
            self._append(line)
            self._head = Head(entry.number, chain.digest(line))
        self._is_dirty.set()

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        self._is_closed.set()
        self._is_dirty.set()
        self._syncer.join()
        os.close(self._file)

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise UserError("the audit log could not be written", error.strerror or "", "check the disk") from None
        if written != len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise UserError("the audit log could not be written", "the disk is full", "make room on it")

    def _keep_synced(self) -> None:
        while not self._is_closed.is_set():
            self._is_dirty.wait()
            self._is_closed.wait(SYNC_S)
            self._is_dirty.clear()
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            head = self._head
        os.fsync(self._file)
        chain.write_head(self._home / HEAD, head)


def read(home: Path) -> Iterator[Entry]:
    """The entries, first to last, which another process may be adding to. Raises AuditError at one that is spoilt."""
    path = home / LOG
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):  # else it is being written
                yield _parsed(line, number)


def verify(home: Path) -> Head:
    """The head of the log, every line checked. Raises AuditError when it was edited or cut."""
    head = chain.read_head(home / HEAD, _broken)  # before the entries: they may grow meanwhile
    return chain.follow(read(home), head, HEAD, _broken)


def _last(home: Path) -> Head:
    """The newest entry of a log without a torn line. Raises AuditError when it is not what the head says.

    Only the end is looked at, so that a long log costs a start nothing; `verify` reads all of it.
    """
    head = chain.read_head(home / HEAD, _broken)
    line = _last_line(home / LOG)
    if line is None:
        if head and head.number:
            raise _broken(f"it has no entry, and had {head.number}")
        return chain.BEGINNING
    last = _parsed(line, None)
    if head is None or last.number < head.number:
        raise _broken(f"it has {last.number} entries, and had {head.number}" if head else f"its head, {HEAD}, is gone")
    if last.number == head.number and last.digest != head.digest:
        raise _broken(f"its entry {head.number} is another one than it was")
    return Head(last.number, last.digest)


def _last_line(file: Path) -> bytes | None:
    if not file.exists() or not (size := file.stat().st_size):
        return None
    part = _TAIL_BYTES
    while True:
        with file.open("rb") as opened:
            opened.seek(max(0, size - part))
            lines = opened.read(part).splitlines(keepends=True)
        if len(lines) > 1 or part >= size:
            return lines[-1]
        part *= 2


def _parsed(line: bytes, number: int | None) -> Entry:
    place = "its last line" if number is None else f"its line {number}"
    try:
        entry = _ENTRY.validate_json(line)
    except ValidationError:
        raise _broken(f"{place} cannot be read") from None
    if entry.line() != line:
        raise _broken(f"{place} is not as it was written")
    return entry


def _broken(why: str) -> AuditError:
    do = f"find out who did it; keep {LOG} and {HEAD} elsewhere, and start a new log by taking them out of the folder"
    return AuditError("the audit log cannot be trusted", why, do)
