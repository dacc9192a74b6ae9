"""A site's gallery: its cases and their codes, kept in one SQLite file and searched from memory.

The file is the only truth. A change is first on disk, then in memory; what is in memory can always be built again.
"""

import contextlib
import datetime as dt
import hashlib
import hmac
import json
import logging
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
from jaxtyping import Bool, UInt32

from ynet.errors import RefusedError, UserError
from ynet.runtime import memory
from ynet.search import scan, sorted_codes
from ynet.search.live_index import LiveIndex
from ynet.search.ranking import CODE_BYTES, Hit
from ynet.search.snapshot import Neighbour, View
from ynet_client.gallery import case_facts, case_rows, gallery_file, stored_codes
from ynet_client.gallery.case_facts import Facts, at
from ynet_client.gallery.case_rows import GalleryCase, SyncCounts
from ynet_client.gallery.case_tokens import Tokens
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.stored_codes import CaseCode, Codes, Damage, Model

log = logging.getLogger("ynet.gallery")
FILE = "gallery.sqlite"
COPY_PAGES = 256  # between which others have their turn
MOST_TAIL = 1 << 16  # codes outside of segments, or an eighth of all if that is more
ALL = Filters()


class CaseRow(NamedTuple):
    """One case as the gallery has it."""

    id: int
    image: str
    label: str
    split: str
    attributes: dict[str, str]
    patient: int  # a number that means something in this gallery only


class MissingCase(NamedTuple):
    """A case without a code under some model."""

    id: int
    image: str


class GroupSize(NamedTuple):
    """How many a filter leaves."""

    cases: int
    patients: int


class Forgotten(NamedTuple):
    """What was known of a patient and is no longer."""

    pseudonym: str
    images: list[str]


class Stats(TypedDict):
    """What a gallery holds, as `ynet-client status` shows it."""

    cases: int
    patients: int
    indexed: int  # cases with a code under the model in use
    distinct_codes: int
    cases_per_label: dict[str, int]
    cases_per_split: dict[str, int]
    damaged: list[str]  # parts of the file that were not as they were written, and wait to be encoded again


class Verified(TypedDict):
    """What `ynet-client index --verify` found."""

    cases: int
    codes: int
    segments: int
    damaged: list[str]


class _Searched(NamedTuple):
    """The model in use and its codes."""

    model: Model
    tokens: Tokens
    postings: LiveIndex


class _Counted(NamedTuple):
    """How large one state of the gallery is. Neither of the two ever changes: another state has others."""

    view: View
    facts: Facts
    size: GroupSize


class Gallery:
    """The cases and codes in one file. Any thread may call; a search of codes waits for no writer."""

    def __init__(self, database: sqlite3.Connection, secret: bytes) -> None:
        self._database, self._secret = database, secret
        self._lock = threading.RLock()
        (self._salt,) = database.execute("SELECT salt FROM site").fetchone()
        self._facts, mended = case_facts.read(database)
        self._descriptions = case_rows.descriptions(database)
        self._damaged: list[str] = []
        self._searched: _Searched | None = None
        self._counted: _Counted | None = None
        self._mend_facts(mended)
        self._load()

    @classmethod
    def open(cls, path: Path, secret: bytes) -> "Gallery":
        """The gallery at `path`, made when there is none. `secret` makes tokens and pseudonyms this site's own.

        Raises UserError when the file is in use, is no gallery, is broken, of another version, or has another secret.
        """
        check = hmac.new(secret, b"check\0", hashlib.sha256).digest()[:16]
        database = gallery_file.open_file(path, check)
        try:
            gallery = cls(database, secret)
            memory.give_back()  # what was read, before it was put in place
            return gallery
        except sqlite3.DatabaseError as error:
            database.close()
            raise UserError(f"the gallery {path} cannot be opened", str(error), gallery_file.REBUILD) from None

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._database.close()

    # --- cases

    def sync_cases(self, cases: Iterable[GalleryCase]) -> SyncCounts:
        """Make the gallery hold exactly `cases`, but for patients that were forgotten.

        Raises UserError when two of them contradict each other.
        """
        with self._lock:
            with self._writing() as database:
                synced = case_rows.sync(database, cases, self._secret)
                facts = self._facts.with_rows(synced.rows)
                case_facts.write(database, facts, synced.rows)
                descriptions = case_rows.descriptions(database)
            self._descriptions, self._facts = descriptions, facts
            if synced.is_regrouped:
                self._load()
            elif self._searched:
                self._searched.postings.remove(np.array(synced.gone, np.uint32))
            self._forget_damage_that_is_mended()
        return synced.counts

    def known(self, patient: str) -> Forgotten:
        """What there is of a patient: who it is here, and the images."""
        name = case_rows.pseudonym(self._secret, patient)
        with self._lock:
            gone = case_rows.of_patient(self._database, name)
            return Forgotten(name.hex(), [self._row(case_id).image for case_id in gone])

    def forget(self, patient: str, now: dt.datetime) -> Forgotten:
        """Take out a patient's cases and codes; as `forget_named`."""
        return self.forget_named(case_rows.pseudonym(self._secret, patient), now)

    def forget_named(self, name: bytes, now: dt.datetime) -> Forgotten:
        """Take out the cases and codes of a pseudonym, from memory and from every page of the file, for good.

        The patient is left out of every manifest from then on; the pseudonym, that only this site can make, remains to
        know it by. Forgetting again finishes what a crash broke off. Raises UserError when the disk fails.
        """
        with self._lock:
            with self._writing() as database:
                gone = case_rows.of_patient(database, name)
                images = [self._row(case_id).image for case_id in gone]
                case_rows.forget(database, name, gone, now)
                facts = self._facts.with_rows(dict.fromkeys(gone, (0, 0)))
                case_facts.write(database, facts, gone)
            self._facts = facts
            self.compact()
            gallery_file.empty_log(self._database)
        return Forgotten(name.hex(), images)

    def forgotten(self, patients: Iterable[str]) -> set[str]:
        """Which of some patients were forgotten."""
        with self._lock:
            names = case_rows.forgotten(self._database)
        return {patient for patient in set(patients) if case_rows.pseudonym(self._secret, patient) in names}

    def case_of(self, token: bytes) -> CaseRow:
        """The case that one of this site's own tokens names. Raises UserError when there is none (any more)."""
        with self._lock:
            for model in stored_codes.models(self._database):
                case_id = self._tokens(model).case_id(token)
                if case_id is not None and self._is_case(case_id):
                    return self._row(case_id)
        why = "no case here has this token: it is another site's, or of an older model, or its case is gone"
        raise UserError("the case was not found", why, "ask the query again")

    # --- codes

    def missing(self, model_id: str) -> list[MissingCase]:
        """The cases that have no code under a model."""
        with self._lock:
            live = np.flatnonzero(self._facts.patients)
            wanted = set(live[~np.isin(live, self._coded(model_id))].tolist())
            rows = self._database.execute("SELECT id, image FROM cases ORDER BY id") if wanted else ()
            return [MissingCase(*row) for row in rows if row[0] in wanted]

    def add_codes(self, model_id: str, codes: Sequence[CaseCode]) -> int:
        """Keep the codes of some cases under a model; on disk when this returns. Returns how many were kept.

        A case that went while it was encoded is passed over. Raises ValueError when a code is not as wide as the rest.
        """
        with self._lock:
            with self._writing() as database:
                kept = [one for one in codes if self._is_case(one.case_id)]
                model = stored_codes.known(database, model_id, codes)
                stored_codes.add(database, model, kept)
            if model_id == self.active_model:
                self._take_in(model, stored_codes.stack(kept, model))
                self._forget_damage_that_is_mended()
        return len(kept)

    def activate(self, model_id: str) -> None:
        """Answer with this model from now on. Raises RefusedError while a case has no code under it.

        Tokens of the model before still name their cases; its codes go.
        """
        with self._lock:
            if missing := self.missing(model_id):
                what, why = f"the gallery cannot switch to model {model_id[:16]}", f"{len(missing)} cases have no code"
                raise RefusedError(what, f"{why} under it", "run ynet-client index")
            if model_id == self.active_model:
                return
            with self._writing() as database:
                model = stored_codes.known(database, model_id)
                stored_codes.compact(database, model, self._facts.patients > 0)
                stored_codes.use(database, model)
            gallery_file.give_back_pages(self._database)
            self._load()
            self._forget_damage_that_is_mended()

    def compact(self) -> None:
        """Write the codes of the model in use anew, in order and without those of cases that went."""
        with self._lock:
            if self._searched is None:
                return
            with self._writing() as database:
                self._found_damaged(stored_codes.compact(database, self._searched.model, self._facts.patients > 0))
            gallery_file.give_back_pages(self._database)
            self._load()

    @property
    def active_model(self) -> str | None:
        """The id of the model that queries are answered with."""
        searched = self._searched
        return searched.model.id if searched else None

    # --- queries

    def search(
        self,
        model_id: str,
        codes: Sequence[bytes],
        k: int,
        *,
        details: Sequence[bytes] = (),
        filters: Filters = ALL,
        radius: int | None = None,
        is_one_per_patient: bool = False,
        exclude_sha256: Sequence[str] = (),
    ) -> list[list[Hit]]:
        """For each code the k nearest cases by the law of `ynet.search.ranking`, of those that the filters leave.

        `details`: the detail codes of the queries, one for each or none; `radius`: none farther, in bits;
        `is_one_per_patient`: of each patient the best; `exclude_sha256`: for each code, or none, the image whose copies
        are no hits. Raises RefusedError when the model is not the one in use, UserError when the codes do not fit.
        """
        searched, facts = self._answering(model_id), self._facts
        width = searched.model.code_bytes
        if not width:
            return [[] for _ in codes]
        if odd := next((code for code in codes if len(code) != width), None):
            why = f"the code has {8 * len(odd)} bits, the gallery's have {8 * width}"
            raise UserError("the gallery cannot be searched", why, "ask with the model that the gallery has")
        fit = [int.from_bytes(one, "little") if len(one) == searched.model.detail_bytes else None for one in details]
        view = searched.postings.view()

        def found(numbers: Sequence[int], excluded: Sequence[int]) -> list[list[Neighbour]]:
            is_kept = self._kept(filters, facts, excluded)
            return view.search_many(
                [codes[number] for number in numbers],
                k,
                [fit[number] for number in numbers] if fit else None,
                allowed=None if is_kept is None else at(is_kept, view.ids),
                radius=radius,
                is_one_per_group=is_one_per_patient,
            )

        copies = self._with_digests(exclude_sha256)
        alone = [number for number in range(len(codes)) if number not in copies]
        each = dict(zip(alone, found(alone, ()), strict=True)) if alone else {}
        each |= {number: found([number], excluded)[0] for number, excluded in copies.items()}
        return [[hit for one in each[number] if (hit := self._hit(one, facts))] for number in range(len(codes))]

    def count(self, model_id: str, filters: Filters) -> GroupSize:
        """How many cases that can be found, and how many patients, the filters leave.

        Without filters it is counted once for each state of the gallery: disclosure control asks for every query.
        """
        view, facts = self._answering(model_id).postings.view(), self._facts
        counted = self._counted
        if filters == ALL and counted and counted.view is view and counted.facts is facts:
            return counted.size
        is_kept = self._kept(filters, facts, ())
        kept = view.live_ids if is_kept is None else view.live_ids[at(is_kept, view.live_ids)]
        size = GroupSize(len(kept), case_facts.distinct(at(facts.patients, kept)))
        if filters == ALL:
            self._counted = _Counted(view, facts, size)
        return size

    @property
    def indexed(self) -> int:
        """The cases that are searched."""
        with self._lock:
            searched = self._searched
        return len(searched.postings) if searched else 0

    @property
    def damaged_parts(self) -> int:
        """How many parts of its file were not as they were written, and wait to be encoded again."""
        return len(self._damaged)

    def stats(self) -> Stats:
        """What the gallery holds."""
        with self._lock:
            facts, searched, descriptions = self._facts, self._searched, self._descriptions
        per_label, per_split = dict[str, int](), dict[str, int]()
        numbers, counts = np.unique(facts.descriptions[facts.patients > 0], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            for per, key in ((per_label, descriptions[number].label), (per_split, descriptions[number].split)):
                per[key] = per.get(key, 0) + count
        return Stats(
            cases=int(counts.sum()),
            patients=case_facts.distinct(facts.patients[facts.patients > 0]),
            indexed=len(searched.postings) if searched else 0,
            distinct_codes=searched.postings.distinct if searched else 0,
            cases_per_label=dict(sorted(per_label.items())),
            cases_per_split=dict(sorted(per_split.items())),
            damaged=list(self._damaged),
        )

    def verify(self) -> Verified:
        """Read the whole file again and hold it against its checksums and rows; damage is named, and dropped.

        The cases of a damaged segment count as not encoded from then on. Raises UserError when the file is broken.
        """
        with self._lock:
            gallery_file.let_go_of_pages(self._database)
            gallery_file.check_integrity(self._database)
            self._mend_facts(case_facts.faults(self._database))
            self._facts, _ = case_facts.read(self._database)
            self._load()
            (segments,) = self._database.execute("SELECT count(*) FROM segments").fetchone()
            stats = self.stats()
            return Verified(cases=stats["cases"], codes=stats["indexed"], segments=segments, damaged=stats["damaged"])

    def copy_to(self, folder: Path) -> None:
        """Copy the file, as it is at one moment, into a folder. Searches and writes go on meanwhile."""
        (folder / FILE).touch(mode=0o600)
        with contextlib.closing(sqlite3.connect(folder / FILE)) as copied:
            self._database.backup(copied, pages=COPY_PAGES)

    # --- within

    def _load(self) -> None:
        """Read the codes of the model in use; damaged ones are named, and dropped."""
        model = stored_codes.in_use(self._database)
        if model is None:
            return
        codes, damaged = stored_codes.segments(self._database, model)
        since, lost = stored_codes.tail(self._database, model)
        if damaged + lost:
            with self._writing() as database:
                stored_codes.drop(database, damaged + lost)
            self._found_damaged(damaged + lost)
        if not model.code_bytes:  # the gallery has no case yet
            codes = codes._replace(codes=np.zeros((0, CODE_BYTES[0]), np.uint8))
        tokens = self._tokens(model)
        groups, details = self._facts.patients[codes.ids], self._details(model, codes)
        base = sorted_codes.of_sorted(scan.words(codes.codes), codes.ids, details, groups)
        made = LiveIndex(base, 8 * codes.codes.shape[1], tokens.of, tokens.key)
        made.remove(np.array([case_id for (case_id,) in self._database.execute("SELECT case_id FROM dead")], np.uint32))
        self._add(made, model, since)
        self._searched, self._counted = _Searched(model, tokens, made), None  # which would keep the old codes

    def _mend_facts(self, faulty: Sequence[int]) -> None:
        """Write chunks of facts anew from the rows, in the file."""
        if faulty:
            with self._writing() as database:
                case_facts.mend(database, faulty)
            self._damaged += [f"facts {chunk} (made anew)" for chunk in faulty]

    def _forget_damage_that_is_mended(self) -> None:
        """What was damaged is named until every case has a code again."""
        if self._damaged and not (self._searched and self.missing(self._searched.model.id)):
            self._damaged = []

    def _take_in(self, model: Model, codes: Codes) -> None:
        """Codes of the model in use that are on disk, into memory."""
        searched = self._searched
        if searched is None or not searched.model.code_bytes:
            self._load()
            return
        self._add(searched.postings, model, codes)
        if searched.postings.tail > max(MOST_TAIL, len(searched.postings) // 8):
            self.compact()

    def _add(self, to: LiveIndex, model: Model, codes: Codes) -> None:
        if len(codes.ids):
            to.add(codes.codes, codes.ids, self._details(model, codes), self._facts.patients[codes.ids])

    def _details(self, model: Model, codes: Codes) -> UInt32[np.ndarray, " cases"] | None:
        return codes.details.view(f"<u{model.detail_bytes}")[:, 0] if model.detail_bytes else None

    def _found_damaged(self, damaged: Sequence[Damage]) -> None:
        self._damaged += [str(one) for one in damaged]
        for one in damaged:
            log.warning("gallery: %s is not as it was written; its cases wait to be encoded again", one)

    def _coded(self, model_id: str) -> UInt32[np.ndarray, " cases"]:
        """The cases that have a code under a model."""
        searched = self._searched
        if searched and searched.model.id == model_id:
            return searched.postings.live_ids
        model = next((model for model in stored_codes.models(self._database) if model.id == model_id), None)
        return stored_codes.tail(self._database, model)[0].ids if model else np.zeros(0, np.uint32)

    def _answering(self, model_id: str) -> _Searched:
        """What answers. Raises RefusedError for another model."""
        searched, what = self._searched, "the gallery cannot be searched"
        if searched is None:
            raise RefusedError(what, "it has no model", "wait for the end of the first run (ynet-client status)")
        if searched.model.id != model_id:
            why = f"the query is of model {model_id[:16]}, the gallery of {searched.model.id[:16]}"
            raise RefusedError(what, why, "ask again when both sites have the same model")
        return searched

    def _kept(self, filters: Filters, facts: Facts, excluded: Sequence[int]) -> Bool[np.ndarray, " numbers"] | None:
        """Which cases, by number, may be found; None for all."""
        if filters == ALL and not excluded:
            return None
        descriptions = self._descriptions
        fits = np.zeros(max(descriptions, default=0) + 1, bool)
        for number, shared in descriptions.items():
            fits[number] = filters.admits(shared.label, shared.split, json.loads(shared.attributes))
        is_kept: Bool[np.ndarray, " numbers"] = fits[facts.descriptions]
        is_kept[list(excluded)] = False
        return is_kept

    def _hit(self, found: Neighbour, facts: Facts) -> Hit | None:
        """What is told of a case; None of one that went while it was searched for."""
        number = facts.description(found.case_id) or self._facts.description(found.case_id)
        if number == 0:
            return None
        label = self._descriptions[number].label
        return Hit(distance=found.distance, detail=found.detail, token=found.token, label=label, ties=found.ties)

    def _tokens(self, model: Model) -> Tokens:
        return Tokens(self._secret, self._salt, model.id)

    def _with_digests(self, sha256: Sequence[str]) -> dict[int, list[int]]:
        """The cases that are copies of each image that has any, by its place."""
        if not sha256:
            return {}
        with self._lock:
            found = ((place, case_rows.with_digest(self._database, one)) for place, one in enumerate(sha256))
            return {place: ids for place, ids in found if ids}

    def _is_case(self, case_id: int) -> bool:
        return case_id < len(self._facts.patients) and bool(self._facts.patients[case_id])

    def _row(self, case_id: int) -> CaseRow:
        row = self._database.execute("SELECT image, description FROM cases WHERE id = ?", (case_id,)).fetchone()
        shared = self._descriptions[row[1]]
        patient = int(self._facts.patients[case_id])
        return CaseRow(case_id, row[0], shared.label, shared.split, json.loads(shared.attributes), patient)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, gallery_file.transaction(self._database):
            yield self._database
