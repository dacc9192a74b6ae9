"""The facts that filters and groups need of each case: the numbers of its description and its patient.

They are derived from the rows of the gallery's file and stored a second time in packed, checksummed chunks, so that a
start does not read a million rows. A chunk with a wrong checksum is rebuilt from the rows.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped, UInt32

CHUNK = 1 << 13  # cases
_WIDTHS = (1, 2, 4)  # bytes of a description's number

Row = tuple[int, int]  # description, patient; both are 0 when no case has the number


class Facts(NamedTuple):
    """Two columns indexed by case number, 0 where no such case exists. Immutable: a change makes new arrays.

    Descriptions are few, so their numbers use the smallest integer type that holds them.
    """

    descriptions: Shaped[np.ndarray, " numbers"]
    patients: UInt32[np.ndarray, " numbers"]

    def description(self, number: int) -> int:
        """Return the number of a case's description; 0 when no such case exists."""
        return int(self.descriptions[number]) if number < len(self.descriptions) else 0

    def with_rows(self, rows: Mapping[int, Row]) -> "Facts":
        """Return a copy with some cases' rows changed."""
        size = _round_up(max(rows, default=-1) + 1)
        descriptions, patients = (np.pad(part, (0, max(0, size - len(part)))) for part in self)
        if rows:
            numbers = np.fromiter(rows, np.int64, len(rows))
            described, patients[numbers] = np.array(list(rows.values()), np.uint32).T
            descriptions = descriptions.astype(np.result_type(descriptions, np.min_scalar_type(described.max())))
            descriptions[numbers] = described
        return Facts(descriptions, patients)


def at(column: Shaped[np.ndarray, " numbers"], ids: Integer[np.ndarray, " cases"]) -> Shaped[np.ndarray, " cases"]:
    """Return a column's values for some cases; 0 or False for a case that is newer than the column."""
    found: Shaped[np.ndarray, " cases"] = np.where(ids < len(column), column[np.minimum(ids, len(column) - 1)], 0)
    return found.astype(column.dtype)


def distinct(numbers: UInt32[np.ndarray, " cases"]) -> int:
    """Count the different numbers other than 0. Numbers are assigned from 1, so a bitmap is faster than sorting."""
    is_there = np.zeros(int(numbers.max(initial=0)) + 1, bool)
    is_there[numbers] = True
    is_there[0] = False
    return int(np.count_nonzero(is_there))


def write(database: sqlite3.Connection, facts: Facts, numbers: Iterable[int]) -> None:
    """Store the chunks that hold some cases."""
    for chunk in sorted({number // CHUNK for number in numbers}):
        _keep(database, chunk, _pack(facts, chunk))


def read(database: sqlite3.Connection) -> tuple[Facts, list[int]]:
    """Read all facts; return them with the chunks that were rebuilt from the rows."""
    kept = {number: (checksum, data) for number, checksum, data in database.execute("SELECT * FROM facts")}
    (last,) = database.execute("SELECT max(id) FROM cases").fetchone()
    chunks = range(max([*kept, (last or 0) // CHUNK]) + 1)
    whole = {chunk: _unpack(data) for chunk, (checksum, data) in kept.items() if _is_whole(checksum, data)}
    mended = {chunk: _from_rows(database, chunk) for chunk in chunks if chunk not in whole}
    parts = [whole[chunk] if chunk in whole else mended[chunk] for chunk in chunks]
    facts = Facts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return facts, [chunk for chunk, made in mended.items() if chunk in kept or made.patients.any()]


def mend(database: sqlite3.Connection, chunks: Iterable[int]) -> None:
    """Rebuild chunks from the rows."""
    for chunk in chunks:
        _keep(database, chunk, _pack_of_rows(database, chunk))


def faults(database: sqlite3.Connection) -> list[int]:
    """Return the chunks that differ from the rows."""
    facts, mended = read(database)
    chunks = range(len(facts.patients) // CHUNK)
    return [chunk for chunk in chunks if chunk in mended or _pack(facts, chunk) != _pack_of_rows(database, chunk)]


def _keep(database: sqlite3.Connection, chunk: int, data: bytes) -> None:
    database.execute("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", (chunk, zlib.crc32(data), data))


def _from_rows(database: sqlite3.Connection, chunk: int) -> Facts:
    rows = database.execute(
        "SELECT id - ?1, description, patient FROM cases WHERE id BETWEEN ?1 AND ?2",
        (chunk * CHUNK, chunk * CHUNK + CHUNK - 1),
    )
    made = Facts(np.zeros(CHUNK, np.uint8), np.zeros(CHUNK, np.uint32))
    return made.with_rows({number: row for number, *row in rows})


def _pack_of_rows(database: sqlite3.Connection, chunk: int) -> bytes:
    return _pack(_from_rows(database, chunk), 0)


def _pack(facts: Facts, chunk: int) -> bytes:
    """Pack a chunk: patients, then descriptions in the fewest bytes that the chunk needs, mostly one each."""
    descriptions, patients = (part[chunk * CHUNK : (chunk + 1) * CHUNK] for part in facts)
    width = next(width for width in _WIDTHS if int(descriptions.max()) < 1 << (8 * width))
    return patients.astype("<u4").tobytes() + descriptions.astype(f"<u{width}").tobytes()


def _unpack(data: bytes) -> Facts:
    patients, descriptions = data[: 4 * CHUNK], data[4 * CHUNK :]
    width = len(descriptions) // CHUNK
    return Facts(np.frombuffer(descriptions, f"<u{width}"), np.frombuffer(patients, "<u4"))


def _is_whole(checksum: int, data: bytes) -> bool:
    return len(data) in [(4 + width) * CHUNK for width in _WIDTHS] and zlib.crc32(data) == checksum


def _round_up(size: int) -> int:
    return -(-size // CHUNK) * CHUNK
