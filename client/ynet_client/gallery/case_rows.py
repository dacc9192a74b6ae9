"""The rows of cases in a gallery's file: synchronised with the manifest, and removed."""

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

    image: str  # relative to the manifest's folder; identifies the case
    sha256: str  # of the image file, hexadecimal
    label: str
    patient: str  # stored only as a pseudonym
    split: Split
    attributes: Mapping[str, str] = field(default_factory=dict)


class SyncCounts(NamedTuple):
    """The result of `sync_cases`. A case whose image file changed counts as changed and loses its codes."""

    added: int
    changed: int
    removed: int
    unchanged: int
    forgotten: int = 0  # left out, because their patients were forgotten


class Description(NamedTuple):
    """The values that many cases share."""

    label: str
    split: str
    attributes: str  # JSON, keys sorted


class RowChanges(NamedTuple):
    """The changes in the rows."""

    counts: SyncCounts
    rows: dict[int, Row]  # of new or changed cases, and zeros for removed ones
    gone: list[int]
    is_regrouped: bool  # a remaining case has another patient now


class _Wanted(NamedTuple):
    digest: bytes
    description: int
    patient: int


def pseudonym(secret: bytes, patient: str) -> bytes:
    """Return the patient's pseudonym in the file: 16 bytes of HMAC-SHA256 that only this site can compute."""
    return hmac.new(secret, f"patient\0{patient}".encode(), hashlib.sha256).digest()[:DIGEST_BYTES]


def digest(sha256: str) -> bytes:
    """Return the stored prefix of an image file's SHA-256."""
    return bytes.fromhex(sha256[: 2 * DIGEST_BYTES])


def sync(database: sqlite3.Connection, cases: Iterable[GalleryCase], secret: bytes) -> RowChanges:
    """Make the rows those of `cases`, except cases of forgotten patients.

    A changed file under the same name is a new case, so that old codes and tokens do not refer to it. Raises UserError
    when two cases contradict each other.
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
    """Remove cases and their codes in the tail; codes in a segment are marked dead until it is rewritten."""
    numbers = [(case_id,) for case_id in case_ids]
    database.executemany("DELETE FROM cases WHERE id = ?", numbers)
    for (model,) in database.execute("SELECT number FROM models").fetchall():
        database.executemany(f"DELETE FROM tail WHERE model = {int(model)} AND case_id = ?", numbers)  # noqa: S608
    database.executemany("INSERT OR IGNORE INTO dead VALUES (?)", numbers)


def forget(database: sqlite3.Connection, pseudonym: bytes, case_ids: Sequence[int], now: dt.datetime) -> None:
    """Remove a patient's cases and record the pseudonym, so that later manifests leave the patient out."""
    database.execute("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", (pseudonym, now.isoformat(timespec="seconds")))
    remove(database, case_ids)
    database.execute("DELETE FROM patients WHERE pseudonym = ?", (pseudonym,))


def forgotten(database: sqlite3.Connection) -> set[bytes]:
    """Return the pseudonyms of forgotten patients."""
    return {name for (name,) in database.execute("SELECT pseudonym FROM forgotten")}


def of_patient(database: sqlite3.Connection, pseudonym: bytes) -> list[int]:
    """Return the numbers of a patient's cases."""
    rows = database.execute(
        "SELECT id FROM cases WHERE patient = (SELECT number FROM patients WHERE pseudonym = ?) ORDER BY id",
        (pseudonym,),
    )
    return [case_id for (case_id,) in rows]


def with_digest(database: sqlite3.Connection, sha256: str) -> list[int]:
    """Return the numbers of the cases whose image file has a SHA-256."""
    kept = digest(sha256)
    rows = database.execute(
        "SELECT id FROM cases WHERE substr(digest, 1, 3) = substr(?1, 1, 3) AND digest = ?1", (kept,)
    )
    return [case_id for (case_id,) in rows]


def descriptions(database: sqlite3.Connection) -> dict[int, Description]:
    """Return all descriptions by number."""
    rows = database.execute("SELECT number, label, split, attributes FROM descriptions")
    return {number: Description(*row) for number, *row in rows}


def _wanted(
    database: sqlite3.Connection, cases: Iterable[GalleryCase], secret: bytes
) -> tuple[dict[str, _Wanted], int]:
    """Return the rows for the cases, by image, and the number of cases of forgotten patients."""
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
            raise UserError(what, f"{case.image!r} is in two rows that differ", "remove one of the rows")
    patients.keep()
    return rows, left_out


class _Patients:
    """The patients' numbers: those in the file, and new ones for new patients."""

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
        """Write the new numbers to the file in key order, so that each page is written once."""
        self._database.executemany("INSERT INTO patients VALUES (?, ?)", sorted(self._new))


def _number_of_description(database: sqlite3.Connection, *shared: str) -> int:
    database.execute("INSERT OR IGNORE INTO descriptions (label, split, attributes) VALUES (?, ?, ?)", shared)
    find = "SELECT number FROM descriptions WHERE label = ? AND split = ? AND attributes = ?"
    return int(database.execute(find, shared).fetchone()[0])


def _insert(database: sqlite3.Connection, new: Iterable[tuple[str, _Wanted]]) -> dict[int, Row]:
    """Insert cases under numbers that were never used, and return their rows by number."""
    (last,) = database.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'cases'").fetchone()
    inserted: dict[int, Row] = {}

    def numbered() -> Iterator[tuple[int, str, bytes, int, int]]:
        for case_id, (image, row) in enumerate(new, start=(last or 0) + 1):
            inserted[case_id] = (row.description, row.patient)
            yield case_id, image, *row

    statement = "INSERT INTO cases (id, image, digest, description, patient) VALUES (?, ?, ?, ?, ?)"
    database.executemany(statement, numbered())
    return inserted
