"""The codes of the model in use, in memory: loaded from the gallery's file and searched."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ynet.errors import UserError
from ynet.search import scan, sorted_codes
from ynet.search.live_index import LiveIndex
from ynet.search.ranking import CODE_BYTES
from ynet.search.snapshot import Neighbour
from ynet_client.gallery import case_facts, stored_codes
from ynet_client.gallery.case_facts import at
from ynet_client.gallery.case_tokens import Tokens
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.gallery_results import GroupSize
from ynet_client.gallery.known_cases import KnownCases
from ynet_client.gallery.stored_codes import Codes, Damage, StoredModel


@dataclass(frozen=True)
class LoadedCodes:
    """The model in use, its case tokens, and the index of its codes."""

    model: StoredModel
    tokens: Tokens
    live_index: LiveIndex

    def add(self, codes: Codes, cases: KnownCases) -> None:
        """Add codes that are on disk to the index."""
        if len(codes.ids):
            self.live_index.add(codes.codes, codes.ids, cases.facts.patients[codes.ids])

    def search(
        self,
        cases: KnownCases,
        codes: Sequence[bytes],
        k: int,
        *,
        filters: Filters,
        radius: int | None,
        is_one_per_patient: bool,
        copies: Mapping[int, Sequence[int]],
    ) -> list[list[Neighbour]]:
        """Find the k nearest cases for each code, among those that the filters admit.

        Args:
            cases: the state of the gallery's cases that filters are applied to.
            codes: one code per query.
            k: the number of cases per query.
            filters: what a case must be.
            radius: the largest distance in bits; None for any.
            is_one_per_patient: return the best case of each patient only.
            copies: by position of the query, the cases that are copies of its image and are no hits.

        Raises:
            UserError: a code is not as wide as the model's.

        """
        width = self.model.code_bytes
        if not width:
            return [[] for _ in codes]
        if odd := next((code for code in codes if len(code) != width), None):
            why = f"the code has {8 * len(odd)} bits, the gallery's have {8 * width}"
            raise UserError("the gallery cannot be searched", why, "use the model of the gallery for the query")
        view = self.live_index.view()

        def found(positions: Sequence[int], excluded: Sequence[int]) -> list[list[Neighbour]]:
            is_admitted = cases.admitted(filters, excluded)
            return view.search_many(
                [codes[position] for position in positions],
                k,
                allowed=None if is_admitted is None else at(is_admitted, view.ids),
                radius=radius,
                is_one_per_group=is_one_per_patient,
            )

        others = [position for position in range(len(codes)) if position not in copies]
        each = dict(zip(others, found(others, ()), strict=True)) if others else {}
        each |= {position: found([position], excluded)[0] for position, excluded in copies.items()}
        return [each[position] for position in range(len(codes))]

    def count(self, cases: KnownCases, filters: Filters) -> GroupSize:
        """Count the cases that can be found and their patients, after filtering."""
        ids, is_admitted = self.live_index.view().live_ids, cases.admitted(filters)
        if is_admitted is not None:
            ids = ids[at(is_admitted, ids)]
        return GroupSize(len(ids), case_facts.distinct(at(cases.facts.patients, ids)))


def load(
    database: sqlite3.Connection, model: StoredModel, tokens: Tokens, cases: KnownCases
) -> tuple[LoadedCodes, list[Damage]]:
    """Read the codes of a model from the file. Returns them with the damaged parts, which are left out."""
    codes, damaged = stored_codes.segments(database, model)
    newer, lost = stored_codes.tail(database, model)
    if not model.code_bytes:  # the gallery has no case yet
        codes = codes._replace(codes=np.zeros((0, CODE_BYTES[0]), np.uint8))
    patients = cases.facts.patients[codes.ids]
    base = sorted_codes.of_sorted(scan.words(codes.codes), codes.ids, patients)
    loaded = LoadedCodes(model, tokens, LiveIndex(base, 8 * codes.codes.shape[1], tokens.of, tokens.key))
    loaded.live_index.remove(
        np.array([case_id for (case_id,) in database.execute("SELECT case_id FROM dead")], np.uint32)
    )
    loaded.add(newer, cases)
    return loaded, damaged + lost
