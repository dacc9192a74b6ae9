"""The check of a site's masks: what is wrong with one region's masks, and with the columns that name regions."""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ynet.data import mask_files, regions
from ynet.data.dicom.matching import Subject
from ynet.data.lesion import Lesion
from ynet.data.manifest import OF_REGION, UNDRAWN, Case
from ynet.data.report import Problem
from ynet.errors import UserError
from ynet.plan_sections import Regions

WHOLE_MANIFEST = 1  # the row of problems with the manifest as a whole
INVERTED_BORDER = 0.75
"""A mask that covers half of the image and this share of its border may have black and white swapped."""
_AS_MEANT = "name the lesion's value after the file, FILE.png#255"


class MaskFacts(NamedTuple):
    """The facts that the checks need about the mask of one region."""

    shape: tuple[int, ...]
    values: int  # number of distinct values in its file
    lesion: float  # share of the pixels that are lesion
    is_inverted: bool  # probably


class CaseMask(NamedTuple):
    """The mask of one region of a case."""

    case: Case
    source: regions.Source
    facts: MaskFacts | None  # None for a file that is missing or cannot be read


def inspect(
    root: Path, case: Case, wanted: Regions | None, subject: Callable[[], Subject | None]
) -> tuple[list[CaseMask], list[Problem]]:
    """Read the masks of a case; the problems are those of files that cannot be read.

    Without a plan `wanted` is None. A file that may hold several regions is then a warning.
    """
    plain = wanted or Regions()
    sources = regions.sources(case, plain)
    shared = len(sources) > 1 and not regions.has_columns(case, plain)
    masks: list[CaseMask] = []
    problems = []
    for part in [sources] if shared else [(one,) for one in sources]:
        found: list[MaskFacts | None] = [None] * len(part)
        try:
            if part[0].cell:
                found = [_facts(one) for one in _read(root / part[0].cell, part, subject)]
        except UserError as error:
            fits = wanted is None and mask_files.may_hold_regions(root / part[0].cell)
            do = f"nothing, if a plan names its regions; if not: {error.do}" if fits else error.do
            problems.append(Problem(case.row, part[0].column, "warning" if fits else "error", error.why, do))
        masks += [CaseMask(case, source, facts) for source, facts in zip(part, found, strict=True)]
    return masks, problems


def _read(path: Path, part: Sequence[regions.Source], subject: Callable[[], Subject | None]) -> list[Lesion]:
    if len(part) == 1:
        return [mask_files.read_mask(path, subject, part[0].region)]
    masks = mask_files.read_regions(path, [one.region for one in part], subject)
    return [Lesion(mask, 2, is_named=True) for mask in masks]


def _facts(found: Lesion) -> MaskFacts:
    mask, lesion = found.pixels, float(found.pixels.mean())
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    is_inverted = not found.is_named and lesion > 0.5 and float(border.mean()) > INVERTED_BORDER
    return MaskFacts(mask.shape, found.values, lesion, is_inverted)


def columns(cases: Sequence[Case], wanted: Regions | None) -> Iterator[Problem]:
    """Find columns of regions that the manifest lacks, or that the plan does not have."""
    if not cases or wanted is None or not wanted.names:
        return
    for column in regions.missing_columns(cases[0], wanted):
        do = f"add the column, with {UNDRAWN} where nobody has drawn the region"
        what = f"the plan has the region {column.removeprefix(OF_REGION)!r}, and the manifest has no column for it"
        yield Problem(WHOLE_MANIFEST, column, "error", what, do)
    for name in cases[0].regions:
        if name not in wanted.names:
            near = difflib.get_close_matches(name, wanted.names, n=1)
            do = f"did you mean {OF_REGION + near[0]!r}?" if near else "nothing, if another plan uses it"
            what = f"the plan has no region {name!r}; its regions are {', '.join(wanted.names)}"
            yield Problem(WHOLE_MANIFEST, OF_REGION + name, "warning", what, do)


def problems(masks: Sequence[CaseMask]) -> Iterator[Problem]:
    """Find masks of one region that are empty, inverted, not binary or unknown.

    An empty mask is fine where most cases of its class have no lesion. Of a case without a label that is unknown.
    """
    usually_empty = _labels_usually_empty(masks)
    for one in masks:
        if one.facts is not None:
            yield from _of_one(one.case, one.source, one.facts, usually_empty)
    yield from _inverted(masks)
    yield from _undrawn(masks)


def _of_one(case: Case, source: regions.Source, mask: MaskFacts, usually_empty: frozenset[str]) -> Iterator[Problem]:
    problem = partial(Problem, case.row, source.column, "warning")
    its = f"its mask of {source.region}" if source.region else "its mask"
    lesion = "region" if source.region else "lesion"
    if mask.values > 2:
        what = f"{its} has {mask.values} values instead of 2; it is thresholded half-way between black and white"
        yield problem(what, "check whether that is intended")
    if mask.is_inverted:
        of = "the whole image" if mask.lesion == 1 else "most of the image and of its border"
        yield problem(f"{its} covers {of}", f"check whether black and white are swapped; if not: {_AS_MEANT}")
    if not case.label:
        return
    if mask.lesion == 0 and case.label not in usually_empty:
        what = f"{its} is empty, those of most {case.label!r} cases are not"
        yield problem(what, f"check whether the {lesion} was forgotten")
    if mask.lesion > 0 and case.label in usually_empty:
        what = f"{its} has a {lesion}, those of most {case.label!r} cases are empty"
        yield problem(what, "check whether the label is right")


def _inverted(masks: Sequence[CaseMask]) -> Iterator[Problem]:
    """Report one error when most masks look inverted: they were saved that way, rather than being large lesions."""
    drawn = [one.facts for one in masks if one.facts and one.facts.lesion > 0]
    inverted = sum(mask.is_inverted for mask in drawn)
    if 2 * inverted > len(drawn):
        what = f"{inverted} of {len(drawn)} masks that are not empty cover most of the image and of its border"
        do = f"save them with white where the lesion is and black around it; if they are right: {_AS_MEANT}"
        yield Problem(WHOLE_MANIFEST, masks[0].source.column, "error", what, do)


def _undrawn(masks: Sequence[CaseMask]) -> Iterator[Problem]:
    """Report one warning, at the first row whose lesion is unknown."""
    undrawn = [one for one in masks if not one.source.is_drawn]
    if undrawn:
        first, of = undrawn[0], f" of {undrawn[0].source.region}" if undrawn[0].source.region else ""
        kind = "region" if of else "lesion"
        left_out = "these cases are left out of mask training and mask scores"
        what = f"masks{of} that nobody has drawn: {len(undrawn)}; {left_out}"
        do = f"draw them; leave the cell empty where there is no {kind}"
        yield Problem(first.case.row, first.source.column, "warning", what, do)


def _labels_usually_empty(masks: Sequence[CaseMask]) -> frozenset[str]:
    surplus: defaultdict[str, int] = defaultdict(int)
    for case, source, mask in masks:
        if mask is None and (source.cell or not source.is_drawn):
            continue  # unreadable or unknown
        surplus[case.label] += 1 if mask is None or mask.lesion == 0 else -1
    return frozenset(label for label, more in surplus.items() if more > 0)
