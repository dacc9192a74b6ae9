"""A hash chain in a file of lines: each line holds the SHA-256 of the previous one, and a head file that of the last.

Together they reveal edits and truncation. Only a witness who stored an earlier head reveals a rollback of both.
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
    """The fields of every chain's lines."""

    @property
    def number(self) -> int:
        """From 1."""

    @property
    def previous(self) -> str:
        """SHA-256 of the previous line."""

    @property
    def digest(self) -> str:
        """SHA-256 of the line."""


class ChainHead(NamedTuple):
    """The end of a chain: its number of lines and the last line's digest."""

    number: int
    digest: str

    def to_text(self) -> str:
        """Return the form that is sent to a witness: the number, a space, the digest."""
        return f"{self.number} {self.digest}"

    @staticmethod
    def from_text(text: str) -> "ChainHead":
        """Parse the form of `to_text`.

        Raises:
            ValueError: The text is not a head.
        """
        found = re.fullmatch(r"(\d{1,12}) ([0-9a-f]{64})", text, re.ASCII)
        if not found:
            raise ValueError("not the head of a chain")
        return ChainHead(int(found[1]), found[2])


BEGINNING = ChainHead(0, NOTHING)
_HEAD = TypeAdapter(ChainHead)
_PART = 1 << 16  # bytes per read
Broken = Callable[[str], Exception]


def digest(line: bytes) -> str:
    """Return the SHA-256 of a line including its newline, 64 hexadecimal digits."""
    return hashlib.sha256(line).hexdigest()


def follow(
    links: Iterable[ChainLink], head: ChainHead | None, head_file: str, broken: Broken, since: ChainHead = BEGINNING
) -> ChainHead:
    """Verify a whole chain against its stored head; return its actual head. Raises `broken(why)` where it is broken.

    `since` is the head that the first link follows.
    """
    last, seen = since, {since.number: since.digest}
    for expected, link in enumerate(links, start=since.number + 1):
        if link.number != expected or link.previous != last.digest:
            raise broken(f"its line {expected} does not follow the previous one")
        last = ChainHead(expected, link.digest)
        if head is not None and head.number == expected:
            seen[expected] = link.digest
    if head is None:
        if last.number:
            raise broken(f"its head, {head_file}, is missing")
        return last
    if head.number > last.number:
        raise broken(f"it has {last.number} entries, but had {head.number}")
    if seen.get(head.number) != head.digest:
        raise broken(f"its entry {head.number} was changed")
    return last


def read_head(file: Path, broken: Broken) -> ChainHead | None:
    """Read the head file; None where there is none. Raises `broken(why)` where it cannot be read."""
    if not file.exists():
        return None
    try:
        return ChainHead.from_text(_HEAD.validate_json(file.read_bytes()).to_text())
    except ValueError:
        raise broken(f"its head, {file.name}, cannot be read") from None


def write_head(file: Path, head: ChainHead) -> None:
    """Write a head file atomically."""
    write_private(file, json.dumps(head._asdict()).encode())


def cut_torn(file: Path) -> None:
    """Remove an incomplete last line, whose write was interrupted."""
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
    """Append a line and sync it to disk."""
    is_new = not file.exists()
    with open(file, "ab", opener=private_files.opener) as opened:
        opened.write(line)
        opened.flush()
        os.fsync(opened.fileno())
    if is_new:
        private_files.sync_folder(file.parent)
