"""A site's privacy ledger: what training has spent of its patients' privacy, kept for good.

An append-only file, one entry a line, each with the SHA-256 of the line before. Steps are reserved, and on the disk,
before they are trained; nothing gives them back. Beside it lies the head: how many entries there are, and the digest
of the last. The two together show what was edited or cut off; that both were rolled back shows a witness, who was told
an earlier head.

A round that was cut off before it made anything is trained again under its entry: the file `ledger.open` says so, until
the round's update is kept. It belongs to this very ledger file, unwritten since, and to no copy of it, one put back in
its place included: what was released under the entry meanwhile, a copy cannot know.
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
    delta: float  # at which the plan has its epsilon
    previous: str  # SHA-256 of the line before

    def line(self) -> bytes:
        """The entry as it stands in the file."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the line, 64 hexadecimal digits."""
        return chain.digest(self.line())


class Reservation(NamedTuple):
    """What a round asks for."""

    plan: str
    round: int
    rounds: int
    weights: str
    noise_multiplier: float
    sampling_rate: float
    steps: int
    delta: float


class BudgetExhaustedError(RefusedError):
    """What is left of the site's budget does not cover what is asked for."""


class LedgerError(UserError):
    """The ledger was changed by something other than this program."""


_ENTRY = TypeAdapter(LedgerEntry)


class Ledger:
    """The ledger in a site's home folder. One process has it open at a time."""

    def __init__(self, home: Path) -> None:
        """Read and verify it, and cut off what a power cut tore. Raises LedgerError."""
        self._file, self._head, self._open = home / LEDGER, home / HEAD, home / OPEN
        self.entries = read(home)
        chain.cut_torn(self._file)
        self._write_head()

    @property
    def head(self) -> ChainHead:
        """How far it goes; what a witness is told."""
        return ChainHead(self.entries[-1].number, self.entries[-1].digest) if self.entries else ChainHead(0, NOTHING)

    def of(self, data: str) -> list[LedgerEntry]:
        """What was reserved on a data set."""
        return [entry for entry in self.entries if entry.data == data]

    def reserve(self, data: str, asked: Reservation, allows: Callable[[Sequence[LedgerEntry]], None]) -> LedgerEntry:
        """Reserve a round's steps; on the disk when this returns.

        A round that the last entry is for is not reserved again while that entry is open: it was cut off before it made
        anything. Any other is: its update may have left, and a second one, with other noise, spends a second time.

        `allows` is shown the entries of the data set as they would then be, and raises BudgetExhaustedError.
        """
        newest = self.entries[-1] if self.entries else None
        if newest and self._is_open(newest) and newest == replace(newest, data=data, **asked._asdict()):
            return newest
        last = self.head
        entry = LedgerEntry(last.number + 1, round(time.time(), 3), data, *asked, last.digest)
        allows([*self.of(data), entry])
        chain.append(self._file, entry.line())
        self.entries.append(entry)
        write_private(self._open, self._mark(entry))  # after the entry, whose writing changes what the mark names
        self._write_head()
        return entry

    def close_entry(self) -> None:
        """The newest entry's round has made its update: from now on the entry is never used again."""
        self._open.unlink(missing_ok=True)
        private_files.sync_folder(self._open.parent)

    def _is_open(self, entry: LedgerEntry) -> bool:
        return self._open.exists() and self._open.read_bytes() == self._mark(entry)

    def _mark(self, entry: LedgerEntry) -> bytes:
        """An entry, and the file that it stands in, as it was last written.

        A copy of the folder is another file; one put back over the original, or just after that was removed, often has
        its number again, but never its time of change, which the system alone sets.
        """
        file = self._file.stat()
        return f"{entry.digest} {file.st_dev} {file.st_ino} {file.st_ctime_ns}\n".encode()

    def check_witness(self, seen: ChainHead) -> None:
        """Whether an earlier head is part of this ledger. Raises LedgerError when it is not."""
        if seen.number == 0 and seen.digest == NOTHING:
            return
        if not 1 <= seen.number <= len(self.entries) or self.entries[seen.number - 1].digest != seen.digest:
            raise _broken("it does not hold what the server saw of it before: an old copy took its place")

    def _write_head(self) -> None:
        chain.write_head(self._head, self.head)


def read(home: Path) -> list[LedgerEntry]:
    """The entries of the ledger in a home folder, which another process may have open. Raises LedgerError."""
    head = chain.read_head(home / HEAD, _broken)  # before the entries: they may grow meanwhile
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
            raise _broken(f"its line {number} is not as it was written")
        entries.append(entry)
    return entries


def _broken(why: str) -> LedgerError:
    do = f"put the newest copy of {LEDGER} and {HEAD} back; without them nobody can say what was spent"
    return LedgerError("the privacy ledger cannot be trusted", why, do)
