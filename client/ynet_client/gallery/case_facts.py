"""What filters and groups need of each case, by its number: its description and its patient, both as numbers.

The truth is in the rows of the gallery's file; the same in packed, checksummed chunks beside them spares a start the
reading of a million rows. A chunk whose checksum is wrong is made anew from the rows.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, Shaped, UInt32

CHUNK = 1 << 13  # cases
_WIDTHS = (1, 2, 4)  # bytes of a description's number

Row = tuple[int, int]  # description, patient; both 0: no case has the number


class Facts(NamedTuple):
    """By case number; 0 where there is no such case. Never written to: a change makes new ones.

    Descriptions, of which there are few, are in as few bytes each as they need.
    """

    descriptions: Shaped[np.ndarray, " numbers"]
    patients: UInt32[np.ndarray, " numbers"]

    def description(self, number: int) -> int:
        """The description of one case; 0 when there is no such case."""
        return int(self.descriptions[number]) if number < len(self.descriptions) else 0

    def with_rows(self, rows: Mapping[int, Row]) -> "Facts":
        """The same with some cases' rows changed."""
        size = _round_up(max(rows, default=-1) + 1)
        descriptions, patients = (np.pad(part, (0, max(0, size - len(part)))) for part in self)
        if rows:
            numbers = np.fromiter(rows, np.int64, len(rows))
            described, patients[numbers] = np.array(list(rows.values()), np.uint32).T
            descriptions = descriptions.astype(np.result_type(descriptions, np.min_scalar_type(described.max())))
            descriptions[numbers] = described
        return Facts(descriptions, patients)


def at(column: Shaped[np.ndarray, " numbers"], ids: Integer[np.ndarray, " cases"]) -> Shaped[np.ndarray, " cases"]:
    """A column's values for some cases; 0, or False, for one that is newer than the column."""
    found: Shaped[np.ndarray, " cases"] = np.where(ids < len(column), column[np.minimum(ids, len(column) - 1)], 0)
    return found.astype(column.dtype)


def distinct(numbers: UInt32[np.ndarray, " cases"]) -> int:
    """How many different numbers there are, 0 aside: marked, not sorted, for they are given out from 1 on."""
    is_there = np.zeros(int(numbers.max(initial=0)) + 1, bool)
    is_there[numbers] = True
    is_there[0] = False
    return int(np.count_nonzero(is_there))


def write(database: sqlite3.Connection, facts: Facts, numbers: Iterable[int]) -> None:
    """Keep the chunks in which some cases are."""
    for chunk in sorted({number // CHUNK for number in numbers}):
        _keep(database, chunk, _pack(facts, chunk))


def read(database: sqlite3.Connection) -> tuple[Facts, list[int]]:
    """All facts, and the chunks that were made anew from the rows."""
    kept = {number: (checksum, data) for number, checksum, data in database.execute("SELECT * FROM facts")}
    (last,) = database.execute("SELECT max(id) FROM cases").fetchone()
    chunks = range(max([*kept, (last or 0) // CHUNK]) + 1)
    whole = {chunk: _unpack(data) for chunk, (checksum, data) in kept.items() if _is_whole(checksum, data)}
    mended = {chunk: _from_rows(database, chunk) for chunk in chunks if chunk not in whole}
    parts = [whole[chunk] if chunk in whole else mended[chunk] for chunk in chunks]
    facts = Facts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return facts, [chunk for chunk, made in mended.items() if chunk in kept or made.patients.any()]


def mend(database: sqlite3.Connection, chunks: Iterable[int]) -> None:
    """Make chunks anew from the rows."""
    for chunk in chunks:
        _keep(database, chunk, _pack_of_rows(database, chunk))


def faults(database: sqlite3.Connection) -> list[int]:
    """The chunks that are not what the rows say."""
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
    """Patients, then descriptions in as few bytes each as the chunk's need: mostly one."""
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
