"""A hash chain in a file of lines: each line holds the SHA-256 of the one before, and a head beside it the last.

The two together show what was edited or cut off. That both were rolled back shows only a witness who was told a head.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

from pydantic import TypeAdapter

from ynet.runtime import private_files
from ynet.runtime.home import write_private

NOTHING = "0" * 64  # the digest before the first line


class ChainLink(Protocol):
    """What one line holds, at the least."""

    @property
    def number(self) -> int:
        """From 1."""

    @property
    def previous(self) -> str:
        """SHA-256 of the line before."""

    @property
    def digest(self) -> str:
        """SHA-256 of the line."""


class ChainHead(NamedTuple):
    """How far a chain goes."""

    number: int
    digest: str

    def to_text(self) -> str:
        """As it is told to a witness: the number, a space, the digest."""
        return f"{self.number} {self.digest}"

    @staticmethod
    def from_text(text: str) -> "ChainHead":
        """What `to_text` wrote. Raises ValueError."""
        found = re.fullmatch(r"(\d{1,12}) ([0-9a-f]{64})", text, re.ASCII)
        if not found:
            raise ValueError("no head of a chain")
        return ChainHead(int(found[1]), found[2])


BEGINNING = ChainHead(0, NOTHING)
_HEAD = TypeAdapter(ChainHead)
_PART = 1 << 16  # bytes read at a time
Broken = Callable[[str], Exception]


def digest(line: bytes) -> str:
    """SHA-256 of a line with its end, 64 hexadecimal digits."""
    return hashlib.sha256(line).hexdigest()


def follow(
    links: Iterable[ChainLink], head: ChainHead | None, head_file: str, broken: Broken, since: ChainHead = BEGINNING
) -> ChainHead:
    """The head of a whole chain that must hold `head`, as it was written down. Raises what `broken(why)` makes.

    `since`: what its first link follows.
    """
    last, seen = since, {since.number: since.digest}
    for expected, link in enumerate(links, start=since.number + 1):
        if link.number != expected or link.previous != last.digest:
            raise broken(f"its line {expected} does not follow from the one before")
        last = ChainHead(expected, link.digest)
        if head is not None and head.number == expected:
            seen[expected] = link.digest
    if head is None:
        if last.number:
            raise broken(f"its head, {head_file}, is gone")
        return last
    if head.number > last.number:
        raise broken(f"it has {last.number} entries, and had {head.number}")
    if seen.get(head.number) != head.digest:
        raise broken(f"its entry {head.number} is another one than it was")
    return last


def read_head(file: Path, broken: Broken) -> ChainHead | None:
    """The head that was written down, or None. Raises what `broken(why)` makes."""
    if not file.exists():
        return None
    try:
        return ChainHead.from_text(_HEAD.validate_json(file.read_bytes()).to_text())
    except ValueError:
        raise broken(f"its head, {file.name}, cannot be read") from None


def write_head(file: Path, head: ChainHead) -> None:
    """Write a head down, whole or not at all."""
    write_private(file, json.dumps(head._asdict()).encode())


def cut_torn(file: Path) -> None:
    """Take away a last line without an end: one that was cut off while it was written, and so never counted."""
    if not file.exists():
        return
    with file.open("rb+") as opened:
        size = end = opened.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - _PART)
            opened.seek(start)
            if newline := opened.read(end - start).rfind(b"\n") + 1:
                end = start + newline
                break
            end = start
        if end != size:
            opened.truncate(end)
            os.fsync(opened.fileno())


def append(file: Path, line: bytes) -> None:
    """Add a line; on the disk when this returns."""
    is_new = not file.exists()
    with open(file, "ab", opener=private_files.opener) as opened:
        opened.write(line)
        opened.flush()
        os.fsync(opened.fileno())
    if is_new:
        private_files.sync_folder(file.parent)
