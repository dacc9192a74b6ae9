"""A model's codes on disk: sorted segments, and a tail of newer codes.

A segment is a row of the gallery's file: codes in ascending order, with the cases' numbers, and a CRC-32 of
both. So a gallery of millions opens without sorting. Each code of the tail has its own checksum. Codes
with a wrong checksum are reported and not used; their cases are encoded again.
"""

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8, UInt32

from ynet.search import scan, sorted_codes
from ynet.search.ranking import CODE_BYTES

SEGMENT_CASES = 1 << 17
_MODELS = "SELECT number, id, code_bytes FROM models"


class CaseCode(NamedTuple):
    """The code of one case."""

    case_id: int
    code: bytes


class Codes(NamedTuple):
    """The codes of cases under one model, one row per case."""

    codes: UInt8[np.ndarray, "cases bytes"]
    ids: UInt32[np.ndarray, " cases"]


class StoredModel(NamedTuple):
    """A model that the gallery has or had codes of."""

    number: int
    id: str
    code_bytes: int  # 0 before the first code


class Damage(NamedTuple):
    """A segment, or some codes of the tail, with a wrong checksum."""

    model: int
    number: int | None  # of the segment; None for the tail
    cases: int
    in_tail: tuple[int, ...] = ()  # the case numbers

    def __str__(self) -> str:
        return f"{'tail' if self.number is None else f'segment {self.number}'} ({self.cases} cases)"


def in_use(database: sqlite3.Connection) -> StoredModel | None:
    """Return the model that answers queries; None before there is one."""
    row = database.execute(f"{_MODELS} WHERE activation > 0 ORDER BY activation DESC LIMIT 1").fetchone()
    return StoredModel(*row) if row else None


def models(database: sqlite3.Connection) -> list[StoredModel]:
    """Return the model in use, the previous one, and one that is being encoded."""
    return [StoredModel(*row) for row in database.execute(f"{_MODELS} ORDER BY activation DESC")]


def known(database: sqlite3.Connection, model_id: str, codes: Sequence[CaseCode] = ()) -> StoredModel:
    """Return a model's row, created when it is new. Raises ValueError when code widths differ."""
    database.execute("INSERT OR IGNORE INTO models (id) VALUES (?)", (model_id,))
    model = StoredModel(*database.execute(f"{_MODELS} WHERE id = ?", (model_id,)).fetchone())
    widths = {len(one.code) for one in codes}
    if not widths or widths == {model.code_bytes}:
        return model
    code_bytes, *others = sorted(widths)
    if others or model.code_bytes or code_bytes not in CODE_BYTES:
        raise ValueError(f"codes of {sorted(widths)} bytes for a model whose codes have {model.code_bytes}")
    database.execute("UPDATE models SET code_bytes = ? WHERE number = ?", (code_bytes, model.number))
    return model._replace(code_bytes=code_bytes)


def use(database: sqlite3.Connection, model: StoredModel) -> None:
    """Answer with a model from now on. Other models' codes are deleted; the previous id stays, for its tokens."""
    database.execute(
        "UPDATE models SET activation = 1 + (SELECT max(activation) FROM models) WHERE number = ?", (model.number,)
    )
    for table in ("segments", "tail"):
        database.execute(f"DELETE FROM {table} WHERE model <> ?", (model.number,))  # noqa: S608
    database.execute(
        "DELETE FROM models WHERE number NOT IN (SELECT number FROM models ORDER BY activation DESC LIMIT 2)"
    )


def add(database: sqlite3.Connection, model: StoredModel, codes: Sequence[CaseCode]) -> None:
    """Store codes in the tail; they take precedence over codes of the same cases in segments."""
    rows = [(model.number, *one, checksum_of(one)) for one in codes]
    database.executemany("INSERT OR REPLACE INTO tail VALUES (?, ?, ?, ?)", rows)


def tail(database: sqlite3.Connection, model: StoredModel) -> tuple[Codes, list[Damage]]:
    """Return the codes of the tail, and the damaged ones."""
    whole, damaged_ids = list[CaseCode](), list[int]()
    rows = database.execute("SELECT case_id, code, checksum FROM tail WHERE model = ?", (model.number,))
    for case_id, code, kept in rows:
        one = CaseCode(case_id, code)
        if len(code) == model.code_bytes and checksum_of(one) == kept:
            whole.append(one)
        else:
            damaged_ids.append(case_id)
    damaged = [Damage(model.number, None, len(damaged_ids), tuple(damaged_ids))] if damaged_ids else []
    return stack(whole, model), damaged


def stack(codes: Sequence[CaseCode], model: StoredModel) -> Codes:
    """Convert codes to arrays."""
    bits = b"".join(one.code for one in codes)
    return Codes(
        np.frombuffer(bits, np.uint8).reshape(len(codes), model.code_bytes),
        np.array([one.case_id for one in codes], np.uint32),
    )


def segments(database: sqlite3.Connection, model: StoredModel) -> tuple[Codes, list[Damage]]:
    """Return a model's sorted codes, and the damaged segments."""
    whole: list[Sequence[bytes]] = [(b"", b"")]
    damaged = []
    for number, cases, is_whole, blobs in _segments(database, model):
        if is_whole:
            whole.append(blobs)
        else:
            damaged.append(Damage(model.number, number, cases))
    codes, ids = (b"".join(parts) for parts in zip(*whole, strict=True))
    count = len(ids) // 4
    return Codes(
        np.frombuffer(codes, np.uint8).reshape(count, model.code_bytes),
        np.frombuffer(ids, "<u4"),
    ), damaged


def drop(database: sqlite3.Connection, damaged: Sequence[Damage]) -> None:
    """Delete damaged codes, so that their cases count as not encoded."""
    for one in damaged:
        database.execute("DELETE FROM segments WHERE model = ? AND number = ?", (one.model, one.number))
        rows = [(one.model, case_id) for case_id in one.in_tail]
        database.executemany("DELETE FROM tail WHERE model = ? AND case_id = ?", rows)


def compact(database: sqlite3.Connection, model: StoredModel, is_case: Bool[np.ndarray, " numbers"]) -> list[Damage]:
    """Rewrite a model's segments: merge the tail, drop codes of removed cases.

    Returns the damaged parts, whose cases have no code now.
    """
    if not model.code_bytes:
        return []
    old, damaged = segments(database, model)
    new, lost = tail(database, model)
    is_kept = is_case[old.ids] & ~np.isin(old.ids, new.ids)
    together = Codes(*(np.concatenate([before[is_kept], since]) for before, since in zip(old, new, strict=True)))
    order = sorted_codes.in_order(scan.words(together.codes))
    _write(database, model, Codes(*(part[order] for part in together)))
    database.execute("DELETE FROM tail WHERE model = ?", (model.number,))
    database.execute("DELETE FROM dead")
    return damaged + lost


def _write(database: sqlite3.Connection, model: StoredModel, codes: Codes) -> None:
    database.execute("DELETE FROM segments WHERE model = ?", (model.number,))
    for number, start in enumerate(range(0, len(codes.ids), SEGMENT_CASES)):
        end = min(start + SEGMENT_CASES, len(codes.ids))
        blobs = [np.ascontiguousarray(part[start:end]).tobytes() for part in codes]
        row = (model.number, number, end - start, checksum(*blobs), *blobs)
        database.execute("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?)", row)


def _segments(database: sqlite3.Connection, model: StoredModel) -> Iterator[tuple[int, int, bool, Sequence[bytes]]]:
    widths = (model.code_bytes, 4)
    rows = database.execute(
        "SELECT number, cases, checksum, codes, ids FROM segments WHERE model = ? ORDER BY number",
        (model.number,),
    )
    for number, cases, kept, *blobs in rows:
        fits = [len(blob) for blob in blobs] == [cases * width for width in widths]
        yield number, cases, fits and checksum(*blobs) == kept, blobs


def checksum_of(one: CaseCode) -> int:
    """Return the checksum of a code of the tail."""
    return zlib.crc32(one.code, one.case_id & 0xFFFFFFFF)


def checksum(*blobs: bytes) -> int:
    """Return the checksum of a segment's columns."""
    value = 0
    for blob in blobs:
        value = zlib.crc32(blob, value)
    return value
