"""The split of a site's patients into those to train on and those to test on."""

import hashlib
from typing import Literal

TEST_SHARE = 0.25

Purpose = Literal["test", "validation"]


def is_held_back(patient: str, seed: int, purpose: Purpose = "test") -> bool:
    """Whether a patient is held back: a quarter are, by a digest of `purpose`, `seed` and the patient's id alone.

    Nothing of any other patient, and no label, is looked at: whoever comes or goes moves nobody else. How many of a
    class are held back is therefore left to chance. What the purposes hold back is independent, under one seed too.
    """
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64
