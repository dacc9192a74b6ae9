"""A log that cannot lie: an append-only file of lines, each with the SHA-256 of the one before, and its head beside it.

A line is with the system when `add` returns: a process that is killed loses none. The disk has it, and the head
that shows what was cut off, at most a second later: a power cut may lose that second.
"""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from ynet.errors import RefusedError, UserError
from ynet.federation import chain
from ynet.federation.chain import Head, Link
from ynet.synced import Synced

_TAIL_BYTES = 1 << 16


class Line(Link, Protocol):
    """An entry that knows its line."""

    def line(self) -> bytes:
        """As it stands in the file, with its end."""


E = TypeVar("E", bound=Line)


class AuditError(RefusedError):
    """The audit log was changed by something other than this program: it proves nothing. Exit code 3."""


class Kind(NamedTuple, Generic[E]):
    """What sort of log it is."""

    log: str  # the names of its files
    head: str
    parse: Callable[[bytes], E]  # raises ValueError

    def broken(self, why: str) -> AuditError:
        """The log is not to be trusted."""
        do = f"find out who did it; keep {self.log} and {self.head} elsewhere, and start a new log by taking them out"
        return AuditError("the audit log cannot be trusted", why, f"{do} of the folder")

    def parsed(self, line: bytes, number: int | None) -> E:
        """The entry in a line, exactly as it was written. Raises AuditError."""
        place = "its last line" if number is None else f"its line {number}"
        try:
            entry = self.parse(line)
        except ValueError:
            raise self.broken(f"{place} cannot be read") from None
        if entry.line() != line:
            raise self.broken(f"{place} is not as it was written")
        return entry


class Journal(Generic[E]):
    """One such log in a home folder. One process has it open at a time, any of its threads may write."""

    def __init__(self, home: Path, kind: Kind[E]) -> None:
        """Cut off what a power cut tore, and see that the end is the one that was. Raises AuditError."""
        self._home, self._kind = home, kind
        self._lock = threading.Lock()
        chain.cut_torn(home / kind.log)
        self._head = _last(home, kind)
        self._file = os.open(home / kind.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._sync()
        chain.sync_folder(home)
        self._synced = Synced(self._sync, kind.log)

    @property
    def head(self) -> Head:
        """How far it goes."""
        with self._lock:
            return self._head

    def add(self, made: Callable[[Head], E]) -> None:
        """Add the entry that follows a head. Raises UserError when the disk takes no more."""
        with self._lock:
            entry = made(self._head)
            line = entry.line()
            self._append(line)
            self._head = Head(entry.number, chain.digest(line))
        self._synced.wrote()

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        self._synced.close()
        with self._lock:
            os.close(self._file)
            self._file = -1  # the number may soon be another file's

    def _append(self, line: bytes) -> None:
        try:
            written = os.write(self._file, line)
        except OSError as error:
            raise UserError("the audit log could not be written", error.strerror or "", "check the disk") from None
        if written != len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise UserError("the audit log could not be written", "the disk is full", "make room on it")

    def _sync(self) -> None:
        head = self.head
        os.fsync(self._file)
        chain.write_head(self._home / self._kind.head, head)


def read(home: Path, kind: Kind[E]) -> Iterator[E]:
    """The entries, first to last, which another process may be adding to. Raises AuditError."""
    path = home / kind.log
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):  # else it is being written
                yield kind.parsed(line, number)


def verify(home: Path, kind: Kind[E]) -> Head:
    """The head of the log, every line checked. Raises AuditError when it was edited or cut."""
    head = chain.read_head(home / kind.head, kind.broken)  # before the entries: they may grow meanwhile
    return chain.follow(read(home, kind), head, kind.head, kind.broken)


def _last(home: Path, kind: Kind[E]) -> Head:
    """The newest entry of a log without a torn line; it must be what the head says.

    Only the end is looked at, so that a long log costs a start nothing; `verify` reads all of it.
    """
    head = chain.read_head(home / kind.head, kind.broken)
    line = _last_line(home / kind.log)
    if line is None:
        if head and head.number:
            raise kind.broken(f"it has no entry, and had {head.number}")
        return chain.BEGINNING
    last = kind.parsed(line, None)
    if head is None or last.number < head.number:
        raise kind.broken(
            f"it has {last.number} entries, and had {head.number}" if head else f"its head, {kind.head}, is gone"
        )
    if last.number == head.number and last.digest != head.digest:
        raise kind.broken(f"its entry {head.number} is another one than it was")
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
