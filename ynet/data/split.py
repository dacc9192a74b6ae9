"""The split of a site's patients into those to train on and those to test on."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable

TEST_SHARE = 0.25


def split_patients(patients_and_labels: Iterable[tuple[str, str]], seed: int) -> frozenset[str]:
    """The patients to hold back for testing: a quarter of each class's, chosen by a digest of seed and id.

    A patient counts for the label that most of their images have. The order of the rows does not matter, and the
    only patient of a class is always trained on.
    """
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for patient, label in patients_and_labels:
        labels[patient][label] += 1
    of_class: defaultdict[str, list[str]] = defaultdict(list)
    for patient, counts in labels.items():
        of_class[min(counts, key=lambda label: (-counts[label], label))].append(patient)
    held_back: set[str] = set()
    owed = 0.0  # what rounding in one class left over goes to the next
    for label in sorted(of_class):
        patients = sorted(of_class[label], key=lambda patient: _digest(seed, patient))
        owed += TEST_SHARE * len(patients)
        count = min(max(0, int(owed + 0.5)), len(patients) - 1)
        held_back.update(patients[:count])
        owed -= count
    return frozenset(held_back)


def _digest(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{patient}".encode()).digest()
