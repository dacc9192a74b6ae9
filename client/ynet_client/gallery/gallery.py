"""A site's gallery: its cases and their codes, stored in one SQLite file and searched in memory.

Every change is committed to the file first and then applied in memory, so that memory can always be rebuilt from the
file.
"""

import datetime as dt
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt32

from ynet.errors import RefusedError, UserError
from ynet.runtime import memory
from ynet.search.ranking import Hit
from ynet.search.snapshot import Neighbour, View
from ynet_client import database as databases
from ynet_client.gallery import case_facts, case_rows, gallery_file, loaded_codes, stored_codes
from ynet_client.gallery.case_rows import GalleryCase, SyncCounts
from ynet_client.gallery.case_tokens import Tokens
from ynet_client.gallery.damage_report import DamageReport
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.gallery_results import CaseRow, Forgotten, GroupSize, MissingCase, Stats, Verified
from ynet_client.gallery.known_cases import ALL, KnownCases
from ynet_client.gallery.loaded_codes import LoadedCodes
from ynet_client.gallery.stored_codes import CaseCode, Codes, StoredModel

FILE = "gallery.sqlite"
MOST_TAIL = 1 << 16
"""Codes outside of segments before a compaction, or an eighth of all codes if that is more."""


class _Counted(NamedTuple):
    """The size of one state of the gallery. View and cases are immutable, so a new state has other objects."""

    view: View
    cases: KnownCases
    size: GroupSize


class Gallery:
    """The cases and codes in one file. Any thread may call; a search of codes does not wait for a writer."""

    def __init__(self, database: sqlite3.Connection, secret: bytes) -> None:
        self._database, self._secret = database, secret
        self._lock = threading.RLock()
        (self._salt,) = database.execute("SELECT salt FROM site").fetchone()
        facts, mended = case_facts.read(database)
        self._cases = KnownCases(facts, case_rows.descriptions(database))
        self._damage = DamageReport()
        self._loaded: LoadedCodes | None = None
        self._counted: _Counted | None = None
        self._mend_facts(mended)
        self._load()

    @classmethod
    def open(cls, path: Path, secret: bytes) -> "Gallery":
        """Open the gallery at `path`; create it when the file is missing.

        Args:
            path: the SQLite file.
            secret: the key of this site's case tokens and patient pseudonyms.

        Raises:
            UserError: the file is in use, is no gallery, is broken, or has another version or another secret.

        """
        database = gallery_file.open_file(path, secret)
        try:
            gallery = cls(database, secret)
            memory.give_back()  # the buffers of reading
            return gallery
        except sqlite3.DatabaseError as error:
            database.close()
            raise UserError(f"the gallery {path} cannot be opened", str(error), gallery_file.REBUILD) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    # --- cases

    def sync_cases(self, cases: Iterable[GalleryCase]) -> SyncCounts:
        """Make the gallery hold exactly `cases`, except those of forgotten patients.

        Raises UserError when two of them contradict each other.
        """
        with self._lock:
            with self._writing() as database:
                synced = case_rows.sync(database, cases, self._secret)
                facts = self._cases.facts.with_rows(synced.rows)
                case_facts.write(database, facts, synced.rows)
                descriptions = case_rows.descriptions(database)
            self._cases = KnownCases(facts, descriptions)
            if synced.is_regrouped:
                self._load()
            elif self._loaded:
                self._loaded.live_index.remove(np.array(synced.gone, np.uint32))
            self._clear_mended_damage()
        return synced.counts

    def known(self, patient: str) -> Forgotten:
        """Return a patient's pseudonym and images."""
        name = case_rows.pseudonym(self._secret, patient)
        with self._lock:
            case_ids = case_rows.of_patient(self._database, name)
            return Forgotten(name.hex(), [self._row(case_id).image for case_id in case_ids])

    def forget(self, patient: str, now: dt.datetime) -> Forgotten:
        """Remove a patient's cases and codes, as `forget_named` does."""
        return self.forget_named(case_rows.pseudonym(self._secret, patient), now)

    def forget_named(self, name: bytes, now: dt.datetime) -> Forgotten:
        """Remove the cases and codes of a pseudonym from memory and overwrite them in the file.

        The pseudonym stays in the file, so that `sync_cases` leaves the patient out of every later manifest. A second
        call completes one that a crash interrupted. Raises UserError when the disk fails.
        """
        with self._lock:
            with self._writing() as database:
                gone = case_rows.of_patient(database, name)
                images = [self._row(case_id).image for case_id in gone]
                case_rows.forget(database, name, gone, now)
                facts = self._cases.facts.with_rows(dict.fromkeys(gone, (0, 0)))
                case_facts.write(database, facts, gone)
            self._cases = self._cases._replace(facts=facts)
            self.compact()
            gallery_file.empty_log(self._database)
        return Forgotten(name.hex(), images)

    def forgotten(self, patients: Iterable[str]) -> set[str]:
        """Return those of the patients that were forgotten."""
        with self._lock:
            names = case_rows.forgotten(self._database)
        return {patient for patient in set(patients) if case_rows.pseudonym(self._secret, patient) in names}

    def case_of(self, token: bytes) -> CaseRow:
        """Return the case that one of this site's tokens names. Raises UserError when no such case exists."""
        with self._lock:
            for model in stored_codes.models(self._database):
                case_id = self._tokens(model).case_id(token)
                if case_id is not None and self._cases.has(case_id):
                    return self._row(case_id)
        why = "no case here has this token: it is another site's, or of an older model, or its case was removed"
        raise UserError("the case was not found", why, "repeat the query")

    # --- codes

    def missing(self, model_id: str) -> list[MissingCase]:
        """Return the cases that have no code under a model."""
        with self._lock:
            live = np.flatnonzero(self._cases.facts.patients)
            wanted = set(live[~np.isin(live, self._coded(model_id))].tolist())
            rows = self._database.execute("SELECT id, image FROM cases ORDER BY id") if wanted else ()
            return [MissingCase(*row) for row in rows if row[0] in wanted]

    def add_codes(self, model_id: str, codes: Sequence[CaseCode]) -> int:
        """Store codes of cases under a model and return how many were stored. They are on disk on return.

        A case that was removed during its encoding is skipped. Raises ValueError when code widths differ.
        """
        with self._lock:
            with self._writing() as database:
                kept = [one for one in codes if self._cases.has(one.case_id)]
                model = stored_codes.known(database, model_id, codes)
                stored_codes.add(database, model, kept)
            if model_id == self.active_model:
                self._add(stored_codes.stack(kept, model))
                self._clear_mended_damage()
        return len(kept)

    def activate(self, model_id: str) -> None:
        """Answer queries with this model from now on, and delete the codes of all others.

        Tokens of the previous model still name their cases. Raises RefusedError while a case has no code under it.
        """
        with self._lock:
            if missing := self.missing(model_id):
                what, why = f"the gallery cannot switch to model {model_id[:16]}", f"{len(missing)} cases have no code"
                raise RefusedError(what, f"{why} under it", "run ynet-client index")
            if model_id == self.active_model:
                return
            with self._writing() as database:
                model = stored_codes.known(database, model_id)
                stored_codes.compact(database, model, self._cases.facts.patients > 0)
                stored_codes.use(database, model)
            gallery_file.give_back_pages(self._database)
            self._load()
            self._clear_mended_damage()

    def compact(self) -> None:
        """Rewrite the codes of the model in use: sorted, and without those of removed cases."""
        with self._lock:
            if self._loaded is None:
                return
            with self._writing() as database:
                is_case = self._cases.facts.patients > 0
                self._damage.add(stored_codes.compact(database, self._loaded.model, is_case))
            gallery_file.give_back_pages(self._database)
            self._load()

    @property
    def active_model(self) -> str | None:
        """The id of the model that answers queries."""
        loaded = self._loaded
        return loaded.model.id if loaded else None

    # --- queries

    def search(
        self,
        model_id: str,
        codes: Sequence[bytes],
        k: int,
        *,
        filters: Filters = ALL,
        radius: int | None = None,
        is_one_per_patient: bool = False,
        exclude_sha256: Sequence[str] = (),
    ) -> list[list[Hit]]:
        """Find for each code the k nearest cases, in the order that `ynet.search.ranking` defines.

        Args:
            model_id: the model of the codes.
            codes: one code per query.
            k: the number of hits per query.
            filters: what a case must be.
            radius: the largest distance in bits; None for any.
            is_one_per_patient: return the best case of each patient only.
            exclude_sha256: one digest per query, or none; cases whose image has it are no hits.

        Raises:
            RefusedError: the model is not the one in use.
            UserError: a code is not as wide as the gallery's.

        """
        loaded, cases = self._answering(model_id), self._cases
        found = loaded.search(
            cases,
            codes,
            k,
            filters=filters,
            radius=radius,
            is_one_per_patient=is_one_per_patient,
            copies=self._with_digests(exclude_sha256),
        )
        return [[hit for one in each if (hit := self._hit(one, cases))] for each in found]

    def count(self, model_id: str, filters: Filters) -> GroupSize:
        """Count the cases that can be found and their patients, after filtering.

        Disclosure control needs the count without filters for every query: it is cached per state of the gallery.
        """
        loaded, cases, counted = self._answering(model_id), self._cases, self._counted
        if filters != ALL:
            return loaded.count(cases, filters)
        view = loaded.live_index.view()
        if counted is None or counted.view is not view or counted.cases is not cases:
            self._counted = counted = _Counted(view, cases, loaded.count(cases, ALL))
        return counted.size

    @property
    def indexed(self) -> int:
        """The number of cases that can be found."""
        with self._lock:
            loaded = self._loaded
        return len(loaded.live_index) if loaded else 0

    @property
    def damaged_parts(self) -> int:
        """The number of parts of the file that failed their checksum and must be encoded again."""
        return len(self._damage.parts)

    def stats(self) -> Stats:
        """Return the content of the gallery in figures."""
        with self._lock:
            cases, loaded = self._cases, self._loaded
        per_label, per_split = cases.per_label_and_split()
        return Stats(
            cases=sum(per_split.values()),
            patients=cases.patients(),
            indexed=len(loaded.live_index) if loaded else 0,
            distinct_codes=loaded.live_index.distinct if loaded else 0,
            cases_per_label=per_label,
            cases_per_split=per_split,
            damaged=list(self._damage.parts),
        )

    def verify(self) -> Verified:
        """Read the whole file again and compare it with its checksums and rows; drop and report what is damaged.

        The cases of a damaged segment then count as not encoded. Raises UserError when the file is broken.
        """
        with self._lock:
            gallery_file.let_go_of_pages(self._database)
            gallery_file.check_integrity(self._database)
            self._mend_facts(case_facts.faults(self._database))
            self._cases = self._cases._replace(facts=case_facts.read(self._database)[0])
            self._load()
            (segments,) = self._database.execute("SELECT count(*) FROM segments").fetchone()
            stats = self.stats()
            return Verified(cases=stats["cases"], codes=stats["indexed"], segments=segments, damaged=stats["damaged"])

    def copy_to(self, folder: Path) -> None:
        """Copy a consistent state of the file into a folder; searches and writes continue during the copy."""
        databases.copy(self._database, folder / FILE)

    # --- private

    def _load(self) -> None:
        """Load the codes of the model in use from the file; drop and report damaged ones."""
        model = stored_codes.in_use(self._database)
        if model is None:
            return
        loaded, damaged = loaded_codes.load(self._database, model, self._tokens(model), self._cases)
        if damaged:
            with self._writing() as database:
                stored_codes.drop(database, damaged)
            self._damage.add(damaged)
        self._loaded, self._counted = loaded, None  # `_counted` would keep the old codes in memory

    def _add(self, codes: Codes) -> None:
        """Add codes of the model in use, which are on disk, in memory."""
        if self._loaded is None or not self._loaded.model.code_bytes:
            self._load()
            return
        self._loaded.add(codes, self._cases)
        if self._loaded.live_index.tail > max(MOST_TAIL, len(self._loaded.live_index) // 8):
            self.compact()

    def _mend_facts(self, faulty: Sequence[int]) -> None:
        """Rewrite chunks of facts in the file from the rows."""
        if faulty:
            with self._writing() as database:
                case_facts.mend(database, faulty)
            self._damage.add_rebuilt(faulty)

    def _clear_mended_damage(self) -> None:
        if self._damage.parts and not (self._loaded and self.missing(self._loaded.model.id)):
            self._damage.clear()

    def _coded(self, model_id: str) -> UInt32[np.ndarray, " cases"]:
        """Return the numbers of the cases that have a code under a model."""
        if self._loaded and self._loaded.model.id == model_id:
            return self._loaded.live_index.live_ids
        model = next((model for model in stored_codes.models(self._database) if model.id == model_id), None)
        return stored_codes.tail(self._database, model)[0].ids if model else np.zeros(0, np.uint32)

    def _answering(self, model_id: str) -> LoadedCodes:
        """Return the loaded codes. Raises RefusedError when they are of another model."""
        loaded, what = self._loaded, "the gallery cannot be searched"
        if loaded is None:
            raise RefusedError(what, "it has no model", "wait for the end of the first run (ynet-client status)")
        if loaded.model.id != model_id:
            why = f"the query is of model {model_id[:16]}, the gallery of {loaded.model.id[:16]}"
            raise RefusedError(what, why, "repeat the query when both sites have the same model")
        return loaded

    def _hit(self, found: Neighbour, cases: KnownCases) -> Hit | None:
        """Return the hit for a found case; None when the case was removed during the search."""
        shared = cases.description(found.case_id) or self._cases.description(found.case_id)
        if shared is None:
            return None
        return Hit(distance=found.distance, token=found.token, label=shared.label, ties=found.ties)

    def _tokens(self, model: StoredModel) -> Tokens:
        return Tokens(self._secret, self._salt, model.id)

    def _with_digests(self, sha256: Sequence[str]) -> dict[int, list[int]]:
        """Return, by position of the digest, the cases whose image has it; positions without one are left out."""
        if not sha256:
            return {}
        with self._lock:
            found = ((at, case_rows.with_digest(self._database, one)) for at, one in enumerate(sha256))
            return {at: case_ids for at, case_ids in found if case_ids}

    def _row(self, case_id: int) -> CaseRow:
        row = self._database.execute("SELECT image, description FROM cases WHERE id = ?", (case_id,)).fetchone()
        shared = self._cases.descriptions[row[1]]
        patient = int(self._cases.facts.patients[case_id])
        return CaseRow(case_id, row[0], shared.label, shared.split, json.loads(shared.attributes), patient)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, gallery_file.transaction(self._database):
            yield self._database
