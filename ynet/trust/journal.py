"""A log that cannot lie: an append-only file of lines, each with the SHA-256 of the one before, and its head beside it.

A line is with the system when `add` returns: a process that is killed loses none. The disk has it, and the head
that shows what was cut off, at most a second later: a power cut may lose that second. A file that has grown large is
put aside as a segment (segments.py), and the chain goes on in a new one.
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
"""Of one file of a log, before another is begun; and of those put aside that are kept, 1 GiB in all."""


class JournalEntry(ChainLink, Protocol):
    """An entry that knows its line."""

    def line(self) -> bytes:
        """As it stands in the file, with its end."""


E = TypeVar("E", bound=JournalEntry)


class AuditError(RefusedError):
    """The audit log was changed by something other than this program: it proves nothing. Exit code 3."""


class Kind(NamedTuple, Generic[E]):
    """What sort of log it is."""

    log: str  # the names of its files
    head: str
    parse: Callable[[bytes], E]  # raises ValueError
    letting_go: Callable[[ChainHead, str], E]  # the entry after a head that says which entries were let go
    let_go: Callable[[E], str]  # what such an entry says, and of any other nothing

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

    def __init__(
        self,
        home: Path,
        kind: Kind[E],
        make_room: Callable[[], bool] = lambda: False,
        segment_bytes: int = SEGMENT_BYTES,
        most_segments: int = MOST_SEGMENTS,
    ) -> None:
        """Cut off what a power cut tore, and see that the end is the one that was. Raises AuditError.

        `make_room` is asked when the disk is full; whether it made any.
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
        self._synced = BackgroundSync(self._sync, kind.log)

    @property
    def head(self) -> ChainHead:
        """How far it goes."""
        with self._lock:
            return self._head

    def add(self, made: Callable[[ChainHead], E]) -> None:
        """Add the entry that follows a head. Raises UserError when the disk takes no more."""
        with self._lock:
            self._add(made)
            if os.fstat(self._file).st_size >= self._segment_bytes:
                try:
                    self._begin_another()
                except (OSError, UserError):  # the line is written; the next one tries again
                    log.exception("the log's file could not be put aside")
        self._synced.wrote()

    def close(self) -> None:
        """Everything is on the disk when this returns."""
        self._synced.close()
        with self._lock:
            os.close(self._file)
            self._file = -1  # the number may soon be another file's

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
            raise UserError("the audit log could not be written", why, "make room on the disk, or check it")

    def _tried(self, line: bytes) -> str:
        """Write a line, whole or not at all; why it could not be."""
        try:
            written = os.write(self._file, line)
        except OSError as error:
            return error.strerror or "the disk is broken"
        if written == len(line):
            return ""
        os.ftruncate(self._file, os.fstat(self._file).st_size - written)
        return "the disk is full"

    def _begin_another(self) -> None:
        """Put the file aside, whole; and where there are too many, let the oldest go, which the log then says."""
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
    """The entries, first to last, which another process may be adding to. Raises AuditError."""
    for number, line in enumerate(segments.lines(home / kind.log), start=1):
        yield kind.parsed(line, number)


def verify(home: Path, kind: Kind[E]) -> ChainHead:
    """The head of the log, every line of all its files checked. Raises AuditError when it was edited or cut.

    Where its beginning is not there, an entry must say that it was let go.
    """
    head = chain.read_head(home / kind.head, kind.broken)  # before the entries: they may grow meanwhile
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
        raise kind.broken(f"its first {since.number} entries are gone, and it does not say that they were let go")
    return found


def lay(home: Path, aside: Path, kind: Kind[E], *heads: str) -> None:
    """Copy a log's heads, and then the file that is written to: between the two it may have grown, never shrunk.

    `heads`: files beside the head that say how far the log goes.
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
    """The newest entry of a log without a torn line; it must be what the head says.

    Only the end is looked at, so that a long log costs a start nothing; `verify` reads all of it.
    """
    head = chain.read_head(home / kind.head, kind.broken)
    files = [*segments.listed(home / kind.log), home / kind.log]
    line = next((found for found in map(segments.last_line, reversed(files)) if found is not None), None)
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
    return ChainHead(last.number, last.digest)
