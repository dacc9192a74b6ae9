"""A site's gallery: its cases and their codes, kept in one SQLite file and searched from memory.

The file is the only truth; what is in memory can always be built again, and is when something changed.
"""

import hashlib
import hmac
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from ynet.data.manifest import Split
from ynet.errors import RefusedError, UserError
from ynet.index import CODE_BYTES, TOKEN_BYTES, Hit, Index
from ynet_client import gallery_file

Codes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class GalleryCase:
    """One case as the manifest has it."""

    image: str  # relative to the manifest's folder; names the case
    sha256: str  # of the image file, hexadecimal
    label: str
    patient: str  # kept only as a pseudonym
    split: Split
    attributes: Mapping[str, str] = field(default_factory=dict)


class CaseRow(NamedTuple):
    """One case as the gallery has it."""

    image: str
    sha256: str
    label: str
    patient: str  # pseudonym
    split: str
    attributes: dict[str, str]


class SyncCounts(NamedTuple):
    """What `sync_cases` found. A case whose image file changed counts as changed, and loses its codes."""

    added: int
    changed: int
    removed: int
    unchanged: int


class MissingCase(NamedTuple):
    """A case without a code under some model."""

    id: int
    image: str


class Coded(NamedTuple):
    """Codes and their cases' labels, for evaluation."""

    codes: Codes  # (n, bytes)
    labels: list[str]


class Stats(TypedDict):
    """What a gallery holds, as `ynet-client status` shows it."""

    cases: int
    patients: int
    indexed: int  # cases with a code under the model in use
    distinct_codes: int
    cases_per_label: dict[str, int]
    cases_per_split: dict[str, int]


@dataclass(frozen=True)
class _InMemory:
    """The gallery under the model in use, as it is searched."""

    index: Index
    case_ids: npt.NDArray[np.int64]  # ascending
    is_in_split: dict[str, npt.NDArray[np.bool_]]


class Gallery:
    """The cases and codes in one file. Any thread may call."""

    def __init__(self, database: sqlite3.Connection, secret: bytes) -> None:
        self._database, self._secret = database, secret
        self._lock = threading.RLock()
        self._in_memory: _InMemory | None = None

    @classmethod
    def open(cls, path: Path, secret: bytes) -> "Gallery":
        """The gallery at `path`, made when there is none. `secret` makes tokens and pseudonyms this site's own.

        Raises UserError when the file is in use, is no gallery, is of another version, or has another secret.
        """
        database = gallery_file.open_file(path, _mac(secret, "check", ""))
        return cls(database, secret)

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._database.close()

    def sync_cases(self, cases: Iterable[GalleryCase]) -> SyncCounts:
        """Make the gallery hold exactly `cases`. Raises UserError when two of them contradict each other."""
        wanted = self._rows_by_image(cases)
        with self._writing() as database:
            had = {row[0]: tuple(row) for row in database.execute(f"SELECT {_COLUMNS} FROM cases")}  # noqa: S608
            removed = had.keys() - wanted.keys()
            added = wanted.keys() - had.keys()
            changed = {image for image in had.keys() & wanted.keys() if had[image] != wanted[image]}
            # Another file is another case: its old codes and tokens must not stand for it.
            replaced = {image for image in changed if had[image][1] != wanted[image][1]}
            database.executemany("DELETE FROM cases WHERE image = ?", [(image,) for image in removed | replaced])
            new = [row for image, row in wanted.items() if image in added or image in replaced]
            database.executemany(f"INSERT INTO cases ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", new)  # noqa: S608
            database.executemany(
                "UPDATE cases SET label = ?, patient = ?, split = ?, attributes = ? WHERE image = ?",
                [(*wanted[image][2:], image) for image in changed - replaced],
            )
            if added or changed or removed:
                self._in_memory = None
        return SyncCounts(len(added), len(changed), len(removed), len(wanted) - len(added) - len(changed))

    def missing(self, model_id: str) -> list[MissingCase]:
        """The cases that have no code under a model."""
        rows = self._read(
            "SELECT id, image FROM cases WHERE id NOT IN"
            " (SELECT case_id FROM codes JOIN models ON number = model WHERE models.id = ?) ORDER BY id",
            model_id,
        )
        return [MissingCase(*row) for row in rows]

    def add_codes(self, model_id: str, codes: Sequence[tuple[int, bytes]]) -> int:
        """Keep the codes of some cases under a model; on disk when this returns. Returns how many were kept.

        A case that went while it was encoded is passed over. Raises ValueError when a code is not as wide as the rest.
        """
        with self._writing() as database:
            number = _model_number(database, model_id, {len(code) for _, code in codes})
            rows = [
                (number, case_id, code, self._token(model_id, *case))
                for case_id, code in codes
                for case in database.execute("SELECT image, sha256 FROM cases WHERE id = ?", (case_id,))
            ]
            database.executemany("INSERT OR REPLACE INTO codes (model, case_id, code, token) VALUES (?, ?, ?, ?)", rows)
            if model_id == self.active_model:
                self._in_memory = None
        return len(rows)

    def activate(self, model_id: str) -> None:
        """Answer with this model from now on. Raises RefusedError while a case has no code under it.

        The codes of the model before stay, so that a token given out lately still names its case; older ones go.
        """
        with self._writing() as database:
            if missing := self.missing(model_id):
                raise RefusedError(
                    f"the gallery cannot switch to model {model_id[:16]}",
                    f"{len(missing)} cases have no code under it",
                    "run ynet-client index",
                )
            number = _model_number(database, model_id, set())
            if model_id != self.active_model:
                self._in_memory = None
                database.execute(
                    "UPDATE models SET activation = 1 + (SELECT max(activation) FROM models) WHERE number = ?",
                    (number,),
                )
            database.execute(
                "DELETE FROM models WHERE number NOT IN (SELECT number FROM models ORDER BY activation DESC LIMIT 2)"
            )

    @property
    def active_model(self) -> str | None:
        """The id of the model that queries are answered with."""
        rows = self._read("SELECT id FROM models WHERE activation > 0 ORDER BY activation DESC LIMIT 1")
        return str(rows[0][0]) if rows else None

    def search(
        self, model_id: str, code: bytes, k: int, *, split: str | None = None, exclude_sha256: str | None = None
    ) -> list[Hit]:
        """The k nearest cases by the law of `ynet.index`, of one split if given, without an image's own copies.

        Raises RefusedError when the model is not the one in use, UserError when the code does not fit.
        """
        with self._lock:
            self._refuse_other_model(model_id)
            loaded = self._loaded(len(code))
            excluded = self._cases_with(exclude_sha256) if exclude_sha256 else []
        allowed = None
        if split is not None:
            allowed = loaded.is_in_split.get(split, np.zeros(len(loaded.index), bool))
        if excluded:
            allowed = (True if allowed is None else allowed) & ~np.isin(loaded.case_ids, excluded)
        return loaded.index.search(code, k, allowed)

    def case_of(self, token: bytes) -> CaseRow:
        """The case that one of this site's own tokens names. Raises UserError when there is none (any more)."""
        rows = self._read(
            f"SELECT {_COLUMNS} FROM cases WHERE id = (SELECT case_id FROM codes WHERE token = ?)",  # noqa: S608
            token,
        )
        if not rows:
            why = "no case here has this token: it is another site's, or of an older model, or its case is gone"
            raise UserError("the case was not found", why, "ask the query again")
        image, sha256, label, patient, split, attributes = rows[0]
        return CaseRow(image, sha256.hex(), label, patient, split, json.loads(attributes))

    def codes(self, model_id: str, split: str | None = None) -> Coded:
        """All codes under any model, in the order of their cases."""
        rows = self._read(
            "SELECT code, label FROM codes JOIN models ON number = model JOIN cases ON cases.id = case_id"
            " WHERE models.id = ?1 AND (?2 IS NULL OR split = ?2) ORDER BY case_id",
            model_id,
            split,
        )
        return Coded(_stack([code for code, _ in rows]), [label for _, label in rows])

    def stats(self) -> Stats:
        """What the gallery holds."""
        with self._lock:
            (cases, patients), *_ = self._read("SELECT count(*), count(DISTINCT patient) FROM cases")
            index = self._loaded(CODE_BYTES[0]).index
            labels = self._read("SELECT label, count(*) FROM cases GROUP BY label ORDER BY label")
            splits = self._read("SELECT split, count(*) FROM cases GROUP BY split ORDER BY split")
        return Stats(
            cases=cases,
            patients=patients,
            indexed=len(index),
            distinct_codes=index.distinct,
            cases_per_label=dict(labels),
            cases_per_split=dict(splits),
        )

    def _rows_by_image(self, cases: Iterable[GalleryCase]) -> dict[str, tuple[Any, ...]]:
        pseudonyms: dict[str, str] = {}
        rows: dict[str, tuple[Any, ...]] = {}
        for case in cases:
            if case.patient not in pseudonyms:
                pseudonyms[case.patient] = _mac(self._secret, "patient", case.patient).hex()
            attributes = json.dumps(dict(case.attributes), sort_keys=True)
            pseudonym, digest = pseudonyms[case.patient], bytes.fromhex(case.sha256)
            row = (case.image, digest, case.label, pseudonym, case.split, attributes)
            if rows.setdefault(case.image, row) != row:
                what = "the gallery cannot take in the manifest"
                raise UserError(what, f"{case.image!r} stands in it twice, differently", "take one of the rows out")
        return rows

    def _refuse_other_model(self, model_id: str) -> None:
        active = self.active_model
        what = "the gallery cannot be searched"
        if active is None:
            raise RefusedError(what, "it has no model", "wait for the end of the first run (ynet-client status)")
        if active != model_id:
            why = f"the query is of model {model_id[:16]}, the gallery of {active[:16]}"
            raise RefusedError(what, why, "ask again when both sites have the same model")

    def _loaded(self, code_bytes: int) -> _InMemory:
        """The gallery in memory, built again if something changed; an empty one is as wide as the query."""
        if self._in_memory is None:
            rows = self._read(
                "SELECT case_id, code, token, label, split FROM codes JOIN cases ON id = case_id"
                " WHERE model = (SELECT number FROM models WHERE id = ?) ORDER BY case_id",
                self.active_model,
            )
            if not rows:
                return _build([], code_bytes if code_bytes in CODE_BYTES else CODE_BYTES[0])
            self._in_memory = _build(rows, len(rows[0][1]))
        return self._in_memory

    def _cases_with(self, sha256: str) -> list[int]:
        return [case_id for (case_id,) in self._read("SELECT id FROM cases WHERE sha256 = ?", bytes.fromhex(sha256))]

    def _token(self, model_id: str, image: str, sha256: bytes) -> bytes:
        """Of the image, not of its row: in a gallery built anew an old token must not name another case."""
        return _mac(self._secret, "case", f"{model_id}:{sha256.hex()}:{image}")

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, gallery_file.transaction(self._database):
            yield self._database


_COLUMNS = "image, sha256, label, patient, split, attributes"


def _model_number(database: sqlite3.Connection, model_id: str, widths: set[int]) -> int:
    """The number of a model, given one when it is new. Raises ValueError when codes do not fit the model's."""
    database.execute("INSERT OR IGNORE INTO models (id) VALUES (?)", (model_id,))
    number, known = database.execute("SELECT number, code_bytes FROM models WHERE id = ?", (model_id,)).fetchone()
    if not widths <= ({known} if known else set(CODE_BYTES)) or len(widths) > 1:
        raise ValueError(f"codes of {sorted(widths)} bytes for a model whose codes have {known or CODE_BYTES}")
    for width in widths:
        database.execute("UPDATE models SET code_bytes = ? WHERE number = ?", (width, number))
    return int(number)


def _build(rows: Sequence[tuple[Any, ...]], code_bytes: int) -> _InMemory:
    ids, codes, tokens, labels, splits = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    index = Index(
        np.frombuffer(b"".join(codes), np.uint8).reshape(len(rows), code_bytes),
        np.frombuffer(b"".join(tokens), np.uint8).reshape(len(rows), TOKEN_BYTES),
        labels,
    )
    split_of = np.array(splits)
    return _InMemory(index, np.array(ids, np.int64), {split: split_of == split for split in set(splits)})


def _stack(codes: Sequence[bytes]) -> Codes:
    width = len(codes[0]) if codes else 0
    return np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), width)


def _mac(secret: bytes, purpose: str, name: str) -> bytes:
    """What a name is turned into so that only this site can turn it so: 16 bytes of HMAC-SHA256."""
    return hmac.new(secret, f"{purpose}\0{name}".encode(), hashlib.sha256).digest()[:TOKEN_BYTES]
