"""The check of a site's data before it joins: the manifest and every file that it names."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ynet.data import images, manifest, mask_files
from ynet.data.dicom.matching import Subject
from ynet.data.frames import source
from ynet.data.gaps import gaps
from ynet.data.images import InspectedImage
from ynet.data.manifest import Case
from ynet.data.opening import mended
from ynet.data.report import Problem, Report, Severity
from ynet.errors import UserError

WHOLE_MANIFEST = 1  # the row of problems with the manifest as a whole
INVERTED_BORDER = 0.75
"""A mask that covers half of the image and this share of its border may have black and white swapped."""


def check(
    manifest_path: Path,
    classes: Sequence[str] | None,
    channels: int | None = None,
    split_seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Find every problem of a site's data for a plan's `classes` and `channels`; None skips that check.

    Files are decoded one at a time; `progress` is called with the number of checked cases and the total. Raises
    UserError when the manifest is not a table with the right columns.
    """
    rows = manifest.read_rows(manifest_path)
    root = manifest_path.parent
    faults = {row.number: tuple(manifest.faults(root, row)) for row in rows}
    problems = [
        Problem(number, fault.column, "error", fault.why, fault.do)
        for number, found in faults.items()
        for fault in found
    ]
    cases = manifest.to_cases([row for row in rows if not faults[row.number]], split_seed)
    seen = []
    for done, case in enumerate(cases, start=1):
        seen.append(_inspect(root, case))
        if progress:
            progress(done, len(cases))
    problems += [problem for each in seen for problem in each.problems]
    problems += _labels(cases, classes)
    problems += _splits(cases, classes)
    problems += _masks(seen)
    problems += _undrawn(cases)
    problems += _duplicates(seen)
    problems += _colours(seen, channels)
    problems += _display_values(seen)
    return Report(
        problems=tuple(sorted(problems, key=lambda problem: problem.row)),
        cases=len(cases),
        patients=len({case.patient for case in cases}),
        cases_per_class=dict(sorted(Counter(case.label for case in cases).items())),
        cases_per_split={split: sum(case.split == split for case in cases) for split in ("train", "test")},
        images_per_size=dict(Counter(_size(each.image.shape) for each in seen if each.image).most_common()),
    )


class _MaskFacts(NamedTuple):
    shape: tuple[int, ...]
    values: int  # number of distinct values in its file
    lesion: float  # share of the pixels that are lesion
    is_inverted: bool  # probably


class _CaseFacts(NamedTuple):
    """The facts that the checks need about a case's files; None for a file that is missing or cannot be read."""

    case: Case
    image: InspectedImage | None  # without its bytes
    mask: _MaskFacts | None
    problems: tuple[Problem, ...]


def _inspect(root: Path, case: Case) -> _CaseFacts:
    image, mask, problems = None, None, []
    try:
        image = images.inspect(root / case.image)
    except UserError as error:
        problems.append(Problem(case.row, "image", "error", error.why, error.do))
    try:
        if case.mask:
            mask = _inspect_mask(root / case.mask, partial(_subject, root / case.image, image))
    except UserError as error:
        problems.append(Problem(case.row, "mask", "error", error.why, error.do))
    if image and mask and image.shape != mask.shape:
        what = f"its mask has {_size(mask.shape)} pixels, its image {_size(image.shape)}"
        problems.append(Problem(case.row, "mask", "error", what, "save the mask with the size of its image"))
    return _CaseFacts(case, image and image._replace(dicom=None), mask, tuple(problems))


def _subject(path: Path, image: InspectedImage | None) -> Subject | None:
    """Return the image as drawings refer to it. Raises UserError if the image cannot be used."""
    if image is None:
        return mask_files.subject_of(path)
    with mended(source(path).path):
        return image.subject()


def _inspect_mask(path: Path, subject: Callable[[], Subject | None]) -> _MaskFacts:
    found = mask_files.read_mask(path, subject)
    mask, lesion = found.pixels, float(found.pixels.mean())
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    is_inverted = not found.is_named and lesion > 0.5 and float(border.mean()) > INVERTED_BORDER
    return _MaskFacts(mask.shape, found.values, lesion, is_inverted)


def _labels(cases: Sequence[Case], classes: Sequence[str] | None) -> Iterator[Problem]:
    if classes is None:
        return
    for case in cases:
        if case.label not in classes:
            near = difflib.get_close_matches(case.label, classes, n=1)
            do = f"did you mean {near[0]!r}?" if near else "correct the label, or remove the row"
            what = f"the label {case.label!r} is not one of the classes {', '.join(classes)}"
            yield Problem(case.row, "label", "error", what, do)
    for missing in [name for name in classes if name not in {case.label for case in cases}]:
        do = "nothing, if this site has no such case"
        yield Problem(WHOLE_MANIFEST, "label", "warning", f"no case has the class {missing!r}", do)


def _splits(cases: Sequence[Case], classes: Sequence[str] | None) -> Iterator[Problem]:
    first: dict[str, Case] = {}
    reported: set[str] = set()
    for case in cases:
        other = first.setdefault(case.patient, case)
        if other.split != case.split and case.patient not in reported:
            reported.add(case.patient)
            what = f"its patient is in {case.split} here, and in {other.split} in row {other.row}"
            yield Problem(case.row, "split", "error", what, "put all images of a patient into one split")
    for gap in gaps(cases, classes):
        severity: Severity = "error" if gap.split == "train" and not gap.label else "warning"
        yield Problem(WHOLE_MANIFEST, "split", severity, gap.what, gap.do)


def _masks(seen: Sequence[_CaseFacts]) -> Iterator[Problem]:
    """Find masks that are empty, inverted or not binary.

    An empty mask is fine where most cases of its class have no lesion.
    """
    usually_empty = _labels_usually_empty(seen)
    for case, _, mask, _ in seen:
        if mask is None:
            continue
        if mask.values > 2:
            what = f"its mask has {mask.values} values instead of 2; it is thresholded half-way between black and white"
            yield Problem(case.row, "mask", "warning", what, "check whether that is intended")
        if mask.is_inverted:
            of = "the whole image" if mask.lesion == 1 else "most of the image and of its border"
            do = f"check whether black and white are swapped; if not: {_AS_MEANT}"
            yield Problem(case.row, "mask", "warning", f"its mask covers {of}", do)
        if mask.lesion == 0 and case.label not in usually_empty:
            what = f"its mask is empty, those of most {case.label!r} cases are not"
            yield Problem(case.row, "mask", "warning", what, "check whether the lesion was forgotten")
        if mask.lesion > 0 and case.label in usually_empty:
            what = f"its mask has a lesion, those of most {case.label!r} cases are empty"
            yield Problem(case.row, "mask", "warning", what, "check whether the label is right")
    yield from _inverted(seen)


_AS_MEANT = "name the lesion's value after the file, FILE.png#255"


def _inverted(seen: Sequence[_CaseFacts]) -> Iterator[Problem]:
    """Report one error when most masks look inverted: they were saved that way, rather than being large lesions."""
    drawn = [each.mask for each in seen if each.mask and each.mask.lesion > 0]
    inverted = sum(mask.is_inverted for mask in drawn)
    if 2 * inverted > len(drawn):
        what = f"{inverted} of {len(drawn)} masks that are not empty cover most of the image and of its border"
        do = f"save them with white where the lesion is and black around it; if they are right: {_AS_MEANT}"
        yield Problem(WHOLE_MANIFEST, "mask", "error", what, do)


def _undrawn(cases: Sequence[Case]) -> Iterator[Problem]:
    """Report one warning, at the first row whose lesion is unknown."""
    undrawn = [case.row for case in cases if not case.is_drawn]
    if undrawn:
        what = f"masks that nobody has drawn: {len(undrawn)}; these cases are left out of mask training and mask scores"
        yield Problem(undrawn[0], "mask", "warning", what, "draw them; leave the cell empty where there is no lesion")


def _labels_usually_empty(seen: Sequence[_CaseFacts]) -> frozenset[str]:
    surplus: defaultdict[str, int] = defaultdict(int)
    for case, _, mask, _ in seen:
        if mask is None and (case.mask or not case.is_drawn):
            continue  # unreadable or unknown
        surplus[case.label] += 1 if mask is None or mask.lesion == 0 else -1
    return frozenset(label for label, more in surplus.items() if more > 0)


def _duplicates(seen: Sequence[_CaseFacts]) -> Iterator[Problem]:
    first: dict[str, Case] = {}
    for case, image, _, _ in seen:
        if image is None:
            continue
        other = first.setdefault(image.digest, case)
        if other is case:
            continue
        same = f"it is the same image as in row {other.row}"
        if other.split != case.split:
            yield Problem(case.row, "image", "error", f"{same}, which is in {other.split}", "remove one of them")
        elif other.label != case.label:
            what = f"{same}, which has the label {other.label!r}"
            yield Problem(case.row, "image", "error", what, "correct one label, or remove one row")
        else:
            yield Problem(case.row, "image", "warning", same, "remove one of them")


def _colours(seen: Sequence[_CaseFacts], channels: int | None) -> Iterator[Problem]:
    """Report one warning, at the first such row, when images must be converted to colour or grey."""
    if channels is None:
        return
    unlike = [each.case.row for each in seen if each.image and each.image.is_colour != (channels == 3)]
    if unlike:
        stored, taken = ("in colour", "grey") if channels == 1 else ("grey", "in colour")
        what = f"images stored {stored}: {len(unlike)}; the plan takes them {taken}, so they are converted"
        yield Problem(unlike[0], "image", "warning", what, "nothing, if that is intended")


def _display_values(seen: Sequence[_CaseFacts]) -> Iterator[Problem]:
    """Report one warning, at the first such row, when DICOM display values had to be skipped."""
    odd = [each for each in seen if each.image and each.image.ignored]
    if odd:
        named = ", ".join(sorted({keyword for each in odd if each.image for keyword in each.image.ignored}))
        what = f"images with DICOM display values that cannot be used: {len(odd)} ({named}); other rules apply to them"
        yield Problem(odd[0].case.row, "image", "warning", what, "compare one of them with a viewer")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]}"
