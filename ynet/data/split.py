"""Which of a site's patients are tested on and which are trained on, where the manifest does not say."""

import hashlib

TEST_SHARE = 0.25


def is_held_back(patient: str, seed: int) -> bool:
    """Whether a patient is held back for testing: by a digest of the seed and the patient's id, a quarter of all.

    Nothing else is looked at. A rule that kept the classes even would let one patient decide about others, and what
    private training reads would then differ in more than that patient.
    """
    digest = hashlib.sha256(f"{seed}\0{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < TEST_SHARE * 2.0**64
