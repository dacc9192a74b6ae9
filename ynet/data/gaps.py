"""Classes that have no case in the training or the test split."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from ynet.data.manifest import Case, Split

OWN_SPLIT = "hold some patients back as test: write a column 'split' with train or test for every row"
_VERBS: dict[Split, str] = {"train": "train on", "test": "test on"}


class Gap(NamedTuple):
    """A split in which a class has no case; names no patient."""

    split: Split
    label: str  # empty: all classes
    what: str
    do: str


def gaps(cases: Sequence[Case], classes: Collection[str] | None = None) -> Iterator[Gap]:
    """Yield the classes that have cases but none in one of the splits; an empty split is a single gap.

    `classes` limits the check to these classes. Cases without a label count for the split, and are no class.
    """
    labels = sorted({case.label for case in cases if case.label and (classes is None or case.label in classes)})
    for split, verb in _VERBS.items():
        there = {case.label for case in cases if case.split == split}
        if not there:
            yield _whole(split, verb)
            continue
        for label in labels:
            if label not in there:
                patients = len({case.patient for case in cases if case.label == label})
                what = f"the class {label!r} has no case to {verb} (it has {patients} patient{'s' * (patients != 1)})"
                yield Gap(split, label, what, f"nothing, if so few are intended; else {_as_column(split)}")


def _whole(split: Split, verb: str) -> Gap:
    if split == "train":
        return Gap(split, "", f"there is no case to {verb}", f"add cases, or {_as_column(split)}")
    return Gap(split, "", f"there is no case to {verb}, so nothing will be evaluated", OWN_SPLIT)


def _as_column(split: Split) -> str:
    return f"write a column 'split' in which some of its patients are {split}"
