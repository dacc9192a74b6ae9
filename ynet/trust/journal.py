"""A tamper-evident log: an append-only hash chain of lines (`chain.py`) with a head file.

`add` returns once the line is in the OS cache, so a killed process loses no line. fsync of the lines and of the head
follows within one second; a power cut may lose that second. A large file is rotated into a segment (`segments.py`), and
the chain continues in a new file.
"""

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from ynet.errors import RefusedError, UserError
from ynet.runtime import private_files
from ynet.runtime.background_sync import BackgroundSync
from ynet.runtime.home import write_private
from ynet.trust import chain, segments
from ynet.trust.chain import ChainHead, ChainLink

log = logging.getLogger("ynet.journal")
SEGMENT_BYTES, MOST_SEGMENTS = 16 << 20, 64
"""The size at which a file is rotated, and the number of older segments that are kept (1 GiB in all)."""


class JournalEntry(ChainLink, Protocol):
    """An entry that can be written."""

    def line(self) -> bytes:
        """Return the entry's line in the file, with its newline."""


E = TypeVar("E", bound=JournalEntry)


class AuditError(RefusedError):
    """The audit log was changed by something other than this program. Exit code 3."""


class Kind(NamedTuple, Generic[E]):
    """The files and the entries of one kind of log."""

    log: str  # the names of its files
    head: str
    parse: Callable[[bytes], E]  # raises ValueError
    letting_go: Callable[[ChainHead, str], E]  # makes the entry that records which entries were deleted
    let_go: Callable[[E], str]  # what such an entry records; empty for any other entry

    def broken(self, why: str) -> AuditError:
        """Return the error for a changed log."""
        do = f"find out who did it; keep {self.log} and {self.head} elsewhere, and start a new log by taking them out"
        return AuditError("the audit log cannot be trusted", why, f"{do} of the folder")

    def parsed(self, line: bytes, number: int | None) -> E:
        """Parse a line, which must be exactly as it was written.

        Raises:
            AuditError: It is not.
        """
        which = "its last line" if number is None else f"its line {number}"
        try:
            entry = self.parse(line)
        except ValueError:
            raise self.broken(f"{which} cannot be read") from None
        if entry.line() != line:
            raise self.broken(f"{which} was changed")
        return entry


class Journal(Generic[E]):
    """One log in a home folder. One process has it open; any of its threads may write."""

    def __init__(
        self,
        home: Path,
        kind: Kind[E],
        make_room: Callable[[], bool] = lambda: False,
        segment_bytes: int = SEGMENT_BYTES,
        most_segments: int = MOST_SEGMENTS,
    ) -> None:
        """Open the log, remove an incomplete last line, and check the end against the head.

        `make_room` is called when the disk is full; it returns whether it freed space.

        Raises:
            AuditError: The log was changed.
        """
        self._home, self._kind, self._make_room = home, kind, make_room
        self._segment_bytes, self._most_segments = segment_bytes, most_segments
        self._lock = threading.Lock()
        chain.cut_torn(home / kind.log)
        segments.drop_double(home / kind.log)
        self._head = _last(home, kind)
        self._file = self._open()
        self._sync()
        private_files.sync_folder(home)
        self._background = BackgroundSync(self._sync, kind.log)

    @property
    def head(self) -> ChainHead:
        """The head of the log."""
        with self._lock:
            return self._head

    def add(self, made: Callable[[ChainHead], E]) -> None:
        """Append the entry that `made` returns for the current head.

        Raises:
            UserError: The disk is full.
        """
        with self._lock:
            self._add(made)
            if os.fstat(self._file).st_size >= self._segment_bytes:
                try:
                    self._begin_another()
                except (OSError, UserError):  # the line is written; the next one tries again
                    log.exception("the log's file could not be rotated")
        self._background.wrote()

    def close(self) -> None:
        """Sync everything to disk and close the log."""
        self._background.close()
        with self._lock:
            os.close(self._file)
            self._file = -1  # the descriptor may be reused

    def _open(self) -> int:
        return os.open(self._home / self._kind.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _add(self, made: Callable[[ChainHead], E]) -> None:
        entry = made(self._head)
        line = entry.line()
        self._append(line)
        self._head = ChainHead(entry.number, chain.digest(line))

    def _append(self, line: bytes) -> None:
        why = self._tried(line)
        if why and self._make_room():
            why = self._tried(line)
        if why:
            raise UserError("the audit log could not be written", why, "free space on the disk, or check it")

    def _tried(self, line: bytes) -> str:
        """Write a line completely or not at all; return why it failed."""
        try:
            written = os.write(self._file, line)
        except OSError as error:
            return error.strerror or "the disk is broken"
        if written == len(line):
            return ""
        os.ftruncate(self._file, os.fstat(self._file).st_size - written)
        return "the disk is full"

    def _begin_another(self) -> None:
        """Rotate the file; delete the oldest segments beyond the limit, and record that in the log."""
        path = self._home / self._kind.log
        os.fsync(self._file)
        path.rename(segments.path_of(path, self._head.number))
        old, self._file = self._file, self._open()
        os.close(old)
        private_files.sync_folder(self._home)
        aside = segments.listed(path)
        while len(aside) > self._most_segments:
            oldest = aside.pop(0)
            last = self._kind.parsed(segments.last_line(oldest) or b"", None)
            said = ChainHead(last.number, last.digest).to_text()
            self._add(lambda before, said=said: self._kind.letting_go(before, said))  # type: ignore[misc]
            os.fsync(self._file)
            oldest.unlink()

    def _sync(self) -> None:
        with self._lock:
            head, file = self._head, os.dup(self._file)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        try:
            chain.write_head(self._home / self._kind.head, head)
        except OSError:
            if not self._make_room():
                raise
            chain.write_head(self._home / self._kind.head, head)


def read(home: Path, kind: Kind[E]) -> Iterator[E]:
    """Yield the entries, first to last; another process may append to them.

    Raises:
        AuditError: A line was changed.
    """
    for number, line in enumerate(segments.lines(home / kind.log), start=1):
        yield kind.parsed(line, number)


def verify(home: Path, kind: Kind[E]) -> ChainHead:
    """Verify every line of the log; return its head.

    If the beginning is missing, an entry must record that it was deleted.

    Raises:
        AuditError: The log was edited or truncated.
    """
    head = chain.read_head(home / kind.head, kind.broken)  # before the entries, which may grow
    entries, let_go, since = read(home, kind), set[str](), chain.BEGINNING
    first = list(itertools.islice(entries, 1))
    for entry in first:
        since = ChainHead(entry.number - 1, entry.previous)

    def followed() -> Iterator[E]:
        for entry in itertools.chain(first, entries):
            let_go.add(kind.let_go(entry))
            yield entry

    found = chain.follow(followed(), head, kind.head, kind.broken, since)
    if since.number and since.to_text() not in let_go:
        raise kind.broken(f"its first {since.number} entries are missing, and it does not record their deletion")
    return found


def lay(home: Path, aside: Path, kind: Kind[E], *heads: str) -> None:
    """Copy a log's heads, then its current file, which may have grown in between but never shrinks.

    `heads` are further files with heads of the log.
    """
    path = home / kind.log
    while True:
        before = segments.listed(path)
        for name in (*heads, kind.head, kind.log):
            if (home / name).exists():
                write_private(aside / name, (home / name).read_bytes())
        if segments.listed(path) == before:
            chain.cut_torn(aside / kind.log)
            return


def _last(home: Path, kind: Kind[E]) -> ChainHead:
    """Return the head of a log whose last line is complete, after a check against the head file.

    Reads only the end, so that the start does not depend on the log's length; `verify` reads everything.
    """
    head = chain.read_head(home / kind.head, kind.broken)
    files = [*segments.listed(home / kind.log), home / kind.log]
    line = next((found for found in map(segments.last_line, reversed(files)) if found is not None), None)
    if line is None:
        if head and head.number:
            raise kind.broken(f"it has no entry, but had {head.number}")
        return chain.BEGINNING
    last = kind.parsed(line, None)
    if head is None or last.number < head.number:
        raise kind.broken(
            f"it has {last.number} entries, but had {head.number}" if head else f"its head, {kind.head}, is missing"
        )
    if last.number == head.number and last.digest != head.digest:
        raise kind.broken(f"its entry {head.number} was changed")
    return ChainHead(last.number, last.digest)
