"""The split of a site's patients into training and test patients."""

import hashlib
from typing import Literal

TEST_SHARE = 0.25

Purpose = Literal["test", "validation"]


def is_held_back(patient: str, seed: int, purpose: Purpose = "test") -> bool:
    """Return whether a patient is held back; about a quarter are, by a digest of `purpose`, `seed` and patient id.

    The result does not depend on other patients or on labels, so adding or removing a patient moves nobody else. The
    share that is held back varies by class. The purposes are independent, even under one seed.
    """
    digest = hashlib.sha256(f"{purpose}\0{seed}\0{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2**64
