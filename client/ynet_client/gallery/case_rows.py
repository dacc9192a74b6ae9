"""The cases' rows in a gallery's file: taken in from the manifest, and taken out again."""

import datetime as dt
import hashlib
import hmac
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

from ynet.data.manifest import Split
from ynet.errors import UserError
from ynet_client.gallery.case_facts import Row

DIGEST_BYTES = 16


@dataclass(frozen=True)
class GalleryCase:
    """One case as the manifest has it."""

    image: str  # relative to the manifest's folder; names the case
    sha256: str  # of the image file, hexadecimal
    label: str
    patient: str  # kept only as a pseudonym
    split: Split
    attributes: Mapping[str, str] = field(default_factory=dict)


class SyncCounts(NamedTuple):
    """What `sync_cases` found. A case whose image file changed counts as changed, and loses its codes."""

    added: int
    changed: int
    removed: int
    unchanged: int
    forgotten: int = 0  # left out: their patients are not to come back


class Description(NamedTuple):
    """What many cases share."""

    label: str
    split: str
    attributes: str  # JSON, keys sorted


class RowChanges(NamedTuple):
    """What changed in the rows."""

    counts: SyncCounts
    rows: dict[int, Row]  # of the cases that are new or changed, and zeros of those that went
    gone: list[int]
    is_regrouped: bool  # a case that stays has another patient


class _Wanted(NamedTuple):
    digest: bytes
    description: int
    patient: int


def pseudonym(secret: bytes, patient: str) -> bytes:
    """What stands for a patient in the file: 16 bytes of HMAC-SHA256 that only this site can make."""
    return hmac.new(secret, f"patient\0{patient}".encode(), hashlib.sha256).digest()[:DIGEST_BYTES]


def digest(sha256: str) -> bytes:
    """What is kept of an image file's SHA-256."""
    return bytes.fromhex(sha256[: 2 * DIGEST_BYTES])


def sync(database: sqlite3.Connection, cases: Iterable[GalleryCase], secret: bytes) -> RowChanges:
    """Make the rows those of `cases`, but for patients that were forgotten.

    Another file under the same name is another case: old codes and tokens must not stand for it. Raises UserError when
    two cases contradict each other.
    """
    wanted, left_out = _wanted(database, cases, secret)
    had: dict[str, tuple[int, _Wanted]] = {}
    for case_id, image, *row in database.execute("SELECT id, image, digest, description, patient FROM cases"):
        had[image] = (case_id, _Wanted(*row))
    replaced = {image for image in had.keys() & wanted.keys() if had[image][1].digest != wanted[image].digest}
    described = {image for image in had.keys() & wanted.keys() if had[image][1] != wanted[image]} - replaced
    removed, added = had.keys() - wanted.keys(), wanted.keys() - had.keys()
    gone = sorted(had[image][0] for image in removed | replaced)
    remove(database, gone)
    new = _insert(database, ((image, row) for image, row in wanted.items() if image in added or image in replaced))
    changed = {had[image][0]: (wanted[image].description, wanted[image].patient) for image in described}
    database.executemany(
        "UPDATE cases SET description = ?, patient = ? WHERE id = ?",
        [(*row, case_id) for case_id, row in changed.items()],
    )
    changes = len(replaced) + len(described)
    counts = SyncCounts(len(added), changes, len(removed), len(wanted) - len(added) - changes, left_out)
    is_regrouped = any(had[image][1].patient != wanted[image].patient for image in described)
    return RowChanges(counts, {**dict.fromkeys(gone, (0, 0)), **changed, **new}, gone, is_regrouped)


def remove(database: sqlite3.Connection, case_ids: Sequence[int]) -> None:
    """Take cases out, and their codes that are in no segment; those in one are dead until it is written anew."""
    numbers = [(case_id,) for case_id in case_ids]
    database.executemany("DELETE FROM cases WHERE id = ?", numbers)
    for (model,) in database.execute("SELECT number FROM models").fetchall():
        database.executemany(f"DELETE FROM tail WHERE model = {int(model)} AND case_id = ?", numbers)  # noqa: S608
    database.executemany("INSERT OR IGNORE INTO dead VALUES (?)", numbers)


def forget(database: sqlite3.Connection, pseudonym: bytes, case_ids: Sequence[int], now: dt.datetime) -> None:
    """Take a patient's cases out, and remember that the patient is not to come back."""
    database.execute("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", (pseudonym, now.isoformat(timespec="seconds")))
    remove(database, case_ids)
    database.execute("DELETE FROM patients WHERE pseudonym = ?", (pseudonym,))


def forgotten(database: sqlite3.Connection) -> set[bytes]:
    """The pseudonyms of patients that are not to come back."""
    return {name for (name,) in database.execute("SELECT pseudonym FROM forgotten")}


def of_patient(database: sqlite3.Connection, pseudonym: bytes) -> list[int]:
    """The numbers of a patient's cases."""
    rows = database.execute(
        "SELECT id FROM cases WHERE patient = (SELECT number FROM patients WHERE pseudonym = ?) ORDER BY id",
        (pseudonym,),
    )
    return [case_id for (case_id,) in rows]


def with_digest(database: sqlite3.Connection, sha256: str) -> list[int]:
    """The numbers of the cases whose file has a SHA-256."""
    kept = digest(sha256)
    rows = database.execute(
        "SELECT id FROM cases WHERE substr(digest, 1, 3) = substr(?1, 1, 3) AND digest = ?1", (kept,)
    )
    return [case_id for (case_id,) in rows]


def descriptions(database: sqlite3.Connection) -> dict[int, Description]:
    """All descriptions, by number."""
    rows = database.execute("SELECT number, label, split, attributes FROM descriptions")
    return {number: Description(*row) for number, *row in rows}


def _wanted(
    database: sqlite3.Connection, cases: Iterable[GalleryCase], secret: bytes
) -> tuple[dict[str, _Wanted], int]:
    """The rows that the cases ask for, by image; how many cases are of patients that were forgotten."""
    barred = forgotten(database)
    number_of_description = cache(partial(_number_of_description, database))
    name_of = cache(partial(pseudonym, secret))
    patients = _Patients(database)
    rows: dict[str, _Wanted] = {}
    left_out = 0
    for case in cases:
        name = name_of(case.patient)
        if name in barred:
            left_out += 1
            continue
        attributes = json.dumps(dict(case.attributes), sort_keys=True) if case.attributes else "{}"
        row = _Wanted(
            digest(case.sha256), number_of_description(case.label, case.split, attributes), patients.number(name)
        )
        if rows.setdefault(case.image, row) is not row and rows[case.image] != row:
            what = "the gallery cannot take in the manifest"
            raise UserError(what, f"{case.image!r} stands in it twice, differently", "take one of the rows out")
    patients.keep()
    return rows, left_out


class _Patients:
    """The patients' numbers: those of the file, and new ones for those that it does not have."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._numbers: dict[bytes, int] = dict(database.execute("SELECT pseudonym, number FROM patients"))
        self._last, self._new = max(self._numbers.values(), default=0), list[tuple[bytes, int]]()

    def number(self, name: bytes) -> int:
        number = self._numbers.get(name)
        if number is None:
            self._last = number = self._numbers[name] = self._last + 1
            self._new.append((name, number))
        return number

    def keep(self) -> None:
        """Write the new ones into the file, in its own order: each page of it once."""
        self._database.executemany("INSERT INTO patients VALUES (?, ?)", sorted(self._new))


def _number_of_description(database: sqlite3.Connection, *shared: str) -> int:
    database.execute("INSERT OR IGNORE INTO descriptions (label, split, attributes) VALUES (?, ?, ?)", shared)
    find = "SELECT number FROM descriptions WHERE label = ? AND split = ? AND attributes = ?"
    return int(database.execute(find, shared).fetchone()[0])


def _insert(database: sqlite3.Connection, new: Iterable[tuple[str, _Wanted]]) -> dict[int, Row]:
    """Insert cases under numbers that no case ever had; their rows by number."""
    (last,) = database.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'cases'").fetchone()
    inserted: dict[int, Row] = {}

    def numbered() -> Iterator[tuple[int, str, bytes, int, int]]:
        for case_id, (image, row) in enumerate(new, start=(last or 0) + 1):
            inserted[case_id] = (row.description, row.patient)
            yield case_id, image, *row

    statement = "INSERT INTO cases (id, image, digest, description, patient) VALUES (?, ?, ?, ?, ?)"
    database.executemany(statement, numbered())
    return inserted
