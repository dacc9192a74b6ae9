"""The cases of a gallery in memory: what each case is, and which cases a filter admits."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ynet_client.gallery import case_facts
from ynet_client.gallery.case_facts import Facts
from ynet_client.gallery.case_rows import Description
from ynet_client.gallery.filters import Filters

ALL = Filters()


class KnownCases(NamedTuple):
    """One state of a gallery's cases. It never changes: a change of the gallery makes a new one."""

    facts: Facts
    descriptions: Mapping[int, Description]

    def has(self, case_id: int) -> bool:
        """Say whether a case with this number exists."""
        return case_id < len(self.facts.patients) and bool(self.facts.patients[case_id])

    def description(self, case_id: int) -> Description | None:
        """Return the description of a case; None when no such case exists."""
        number = self.facts.description(case_id)
        return self.descriptions[number] if number else None

    def admitted(self, filters: Filters, excluded: Sequence[int] = ()) -> Bool[np.ndarray, " numbers"] | None:
        """Return a mask by case number of the cases that may be found; None when all may."""
        if filters == ALL and not excluded:
            return None
        fits = np.zeros(max(self.descriptions, default=0) + 1, bool)
        for number, shared in self.descriptions.items():
            fits[number] = filters.admits(shared.label, shared.split, json.loads(shared.attributes))
        is_admitted: Bool[np.ndarray, " numbers"] = fits[self.facts.descriptions]
        is_admitted[list(excluded)] = False
        return is_admitted

    def patients(self) -> int:
        """Count the patients."""
        return case_facts.distinct(self.facts.patients[self.facts.patients > 0])

    def per_label_and_split(self) -> tuple[dict[str, int], dict[str, int]]:
        """Count the cases of each label, and those of each split."""
        per_label, per_split = dict[str, int](), dict[str, int]()
        numbers, counts = np.unique(self.facts.descriptions[self.facts.patients > 0], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            shared = self.descriptions[number]
            for per, key in ((per_label, shared.label), (per_split, shared.split)):
                per[key] = per.get(key, 0) + count
        return dict(sorted(per_label.items())), dict(sorted(per_split.items()))
