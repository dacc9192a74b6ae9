"""A site's privacy ledger: the privacy of its patients that training has spent.

The ledger is an append-only hash chain, one entry per line (`chain.py`). Steps are reserved, and synced to disk, before
they are trained; nothing gives them back. The head file holds the number of entries and the digest of the last. Ledger
and head together reveal edits and truncation; the server, which stored an earlier head, reveals a rollback of both.

A round that was interrupted before it released anything is trained again under its entry. The file `ledger.open` marks
such an entry until the round's update is stored. The mark is valid only for this ledger file since its last write, not
for a copy that was put back: a copy cannot know what was released under the entry afterwards.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from ynet.errors import RefusedError, UserError
from ynet.runtime import private_files
from ynet.runtime.home import write_private
from ynet.trust import chain
from ynet.trust.chain import NOTHING as NOTHING
from ynet.trust.chain import ChainHead as ChainHead

LEDGER, HEAD, OPEN = "ledger.jsonl", "ledger.head", "ledger.open"


@dataclass(frozen=True)
class LedgerEntry:
    """Steps reserved for one round of one plan."""

    number: int  # from 1
    time: float  # seconds since 1970
    data: str  # the data set's name: the same patients, the same name
    plan: str  # the plan's id
    round: int
    rounds: int  # of the plan
    weights: str  # SHA-256 of the weights that the round began with
    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float  # of the plan's epsilon
    previous: str  # SHA-256 of the previous line

    def line(self) -> bytes:
        """Return the entry's line in the file."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the line, 64 hexadecimal digits."""
        return chain.digest(self.line())


class Reservation(NamedTuple):
    """The steps that a round reserves."""

    plan: str
    round: int
    rounds: int
    weights: str
    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float


class BudgetExhaustedError(RefusedError):
    """The rest of the site's budget does not cover a reservation."""


class LedgerError(UserError):
    """The ledger was changed by something other than this program."""


_ENTRY = TypeAdapter(LedgerEntry)


class Ledger:
    """The ledger in a site's home folder. One process has it open at a time."""

    def __init__(self, home: Path) -> None:
        """Read and verify the ledger, and remove an incomplete last line.

        Raises:
            LedgerError: The ledger was changed.
        """
        self._file, self._head, self._open = home / LEDGER, home / HEAD, home / OPEN
        self.entries = read(home)
        chain.cut_torn(self._file)
        self._write_head()

    @property
    def head(self) -> ChainHead:
        """The head, which a witness stores."""
        return ChainHead(self.entries[-1].number, self.entries[-1].digest) if self.entries else ChainHead(0, NOTHING)

    def of(self, data: str) -> list[LedgerEntry]:
        """Return the entries of a data set."""
        return [entry for entry in self.entries if entry.data == data]

    def reserve(self, data: str, asked: Reservation, allows: Callable[[Sequence[LedgerEntry]], None]) -> LedgerEntry:
        """Reserve a round's steps and sync the entry to disk.

        A round whose entry is the last one and still open is not reserved again: it was interrupted before it released
        anything. Any other repeated round is: its update may have been released, and a second one has new noise.

        Args:
            data: The data set's name.
            asked: The steps.
            allows: Receives the data set's entries including the new one; raises BudgetExhaustedError.

        Raises:
            BudgetExhaustedError: From `allows`.
        """
        newest = self.entries[-1] if self.entries else None
        if newest and self._is_open(newest) and newest == replace(newest, data=data, **asked._asdict()):
            return newest
        last = self.head
        entry = LedgerEntry(last.number + 1, round(time.time(), 3), data, *asked, last.digest)
        allows([*self.of(data), entry])
        chain.append(self._file, entry.line())
        self.entries.append(entry)
        write_private(self._open, self._mark(entry))  # after the entry, because its write changes the mark
        self._write_head()
        return entry

    def close_entry(self) -> None:
        """Close the newest entry: its round has stored an update, and the entry is never used again."""
        self._open.unlink(missing_ok=True)
        private_files.sync_folder(self._open.parent)

    def _is_open(self, entry: LedgerEntry) -> bool:
        return self._open.exists() and self._open.read_bytes() == self._mark(entry)

    def _mark(self, entry: LedgerEntry) -> bytes:
        """Return the mark of an entry and of the ledger file since its last write.

        A copy of the file may get the same inode number, but never the same ctime, which only the kernel sets.
        """
        file = self._file.stat()
        return f"{entry.digest} {file.st_dev} {file.st_ino} {file.st_ctime_ns}\n".encode()

    def check_witness(self, seen: ChainHead) -> None:
        """Check that an earlier head, stored by a witness, is part of this ledger.

        Raises:
            LedgerError: It is not.
        """
        if seen.number == 0 and seen.digest == NOTHING:
            return
        if not 1 <= seen.number <= len(self.entries) or self.entries[seen.number - 1].digest != seen.digest:
            raise _broken("it does not contain the entry that the server saw before: it is an old copy")

    def _write_head(self) -> None:
        chain.write_head(self._head, self.head)


def read(home: Path) -> list[LedgerEntry]:
    """Read and verify the ledger in a home folder; another process may have it open.

    Raises:
        LedgerError: The ledger was changed.
    """
    head = chain.read_head(home / HEAD, _broken)  # before the entries, which may grow
    entries = _entries(home / LEDGER)
    chain.follow(entries, head, HEAD, _broken)
    return entries


def _entries(file: Path) -> list[LedgerEntry]:
    *lines, _ = (file.read_bytes() if file.exists() else b"").split(b"\n")
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = _ENTRY.validate_json(line)
        except ValidationError:
            raise _broken(f"its line {number} cannot be read") from None
        if entry.line() != line + b"\n":
            raise _broken(f"its line {number} was changed")
        entries.append(entry)
    return entries


def _broken(why: str) -> LedgerError:
    do = f"restore the newest copy of {LEDGER} and {HEAD}; without them the spent privacy is unknown"
    return LedgerError("the privacy ledger cannot be trusted", why, do)
