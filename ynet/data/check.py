"""The check of a site's data before it joins: the manifest and every file that it names."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ynet.data import check_masks, images, manifest, mask_files
from ynet.data.check_masks import WHOLE_MANIFEST, CaseMask
from ynet.data.dicom.matching import Subject
from ynet.data.frames import source
from ynet.data.gaps import gaps
from ynet.data.images import InspectedImage
from ynet.data.manifest import Case
from ynet.data.opening import mended
from ynet.data.report import Problem, Report, Severity
from ynet.errors import UserError
from ynet.plan_sections import Regions


def check(
    manifest_path: Path,
    classes: Sequence[str] | None,
    channels: int | None = None,
    split_seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
    regions: Regions | None = None,
) -> Report:
    """Find every problem of a site's data for a plan's `classes`, `channels` and `regions`; None skips that check.

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
        seen.append(_inspect(root, case, regions))
        if progress:
            progress(done, len(cases))
    problems += [problem for each in seen for problem in each.problems]
    problems += _labels(cases, classes)
    problems += _splits(cases, classes)
    problems += check_masks.columns(cases, regions)
    for of_region in zip(*(each.masks for each in seen), strict=True):
        problems += check_masks.problems(of_region)
    problems += _duplicates(seen)
    problems += _colours(seen, channels)
    problems += _display_values(seen)
    return Report(
        problems=tuple(sorted(problems, key=lambda problem: problem.row)),
        cases=len(cases),
        patients=len({case.patient for case in cases}),
        cases_per_class=dict(sorted(Counter(case.label for case in cases if case.label).items())),
        unlabelled=sum(not case.label for case in cases),
        cases_per_split={split: sum(case.split == split for case in cases) for split in ("train", "test")},
        images_per_size=dict(Counter(_size(each.image.shape) for each in seen if each.image).most_common()),
    )


class _CaseFacts(NamedTuple):
    """The facts that the checks need about a case's files; None for a file that is missing or cannot be read."""

    case: Case
    image: InspectedImage | None  # without its bytes
    masks: list[CaseMask]  # one for each region
    problems: tuple[Problem, ...]


def _inspect(root: Path, case: Case, regions: Regions | None) -> _CaseFacts:
    image, problems = None, []
    try:
        image = images.inspect(root / case.image)
    except UserError as error:
        problems.append(Problem(case.row, "image", "error", error.why, error.do))
    masks, unreadable = check_masks.inspect(root, case, regions, partial(_subject, root / case.image, image))
    problems += unreadable
    for column, shape in {one.source.column: one.facts.shape for one in masks if one.facts}.items():
        if image and image.shape != shape:
            what = f"its mask has {_size(shape)} pixels, its image {_size(image.shape)}"
            problems.append(Problem(case.row, column, "error", what, "save the mask with the size of its image"))
    return _CaseFacts(case, image and image._replace(dicom=None), masks, tuple(problems))


def _subject(path: Path, image: InspectedImage | None) -> Subject | None:
    """Return the image as drawings refer to it. Raises UserError if the image cannot be used."""
    if image is None:
        return mask_files.subject_of(path)
    with mended(source(path).path):
        return image.subject()


def _labels(cases: Sequence[Case], classes: Sequence[str] | None) -> Iterator[Problem]:
    yield from _unlabelled(cases)
    if classes is None:
        return
    for case in cases:
        if case.label and case.label not in classes:
            near = difflib.get_close_matches(case.label, classes, n=1)
            do = f"did you mean {near[0]!r}?" if near else "correct the label, or remove the row"
            what = f"the label {case.label!r} is not one of the classes {', '.join(classes)}"
            yield Problem(case.row, "label", "error", what, do)
    for missing in [name for name in classes if name not in {case.label for case in cases}]:
        do = "nothing, if this site has no such case"
        yield Problem(WHOLE_MANIFEST, "label", "warning", f"no case has the class {missing!r}", do)


def _unlabelled(cases: Sequence[Case]) -> Iterator[Problem]:
    """Report one warning, at the first row without a label."""
    unlabelled = [case.row for case in cases if not case.label]
    if unlabelled:
        what = f"cases without a label: {len(unlabelled)}; they train the mask only and have no part in class scores"
        yield Problem(unlabelled[0], "label", "warning", what, "label them, if the class is known")


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
        elif other.label and case.label and other.label != case.label:
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
