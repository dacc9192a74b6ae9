"""Membership from codes: none in codes that do not depend on it, and found where they do."""

import numpy as np

from ynet_lab.attacks.code_membership import CodeMembership, halves, infer
from ynet_lab.attacks.intervals import draws_of

PATIENTS, IMAGES, BITS = 120, 3, 16


def inferred(shift: float) -> CodeMembership:
    """Members' bits are 1 more often, by `shift`; the code of each class is all 1."""
    random = np.random.default_rng(1)
    member = np.arange(PATIENTS) % 3 > 0
    patient = np.repeat(np.arange(PATIENTS), IMAGES)
    is_member = member[patient]
    bits = (random.random((len(patient), BITS)) < 0.5 + shift * is_member[:, None]).astype(np.float64)
    draws = draws_of(PATIENTS, member, 50, random)
    return infer(bits, BITS - bits.sum(1), patient, is_member, draws, random, 1000)


def test_code_that_does_not_depend_on_membership_tells_nothing() -> None:
    for one in inferred(0):
        assert one.low < 0.5 < one.high


def test_code_that_depends_on_membership_tells_it() -> None:
    for one in inferred(0.2):
        assert one.low > 0.7


def test_halves_split_members_and_others() -> None:
    member = np.arange(20) < 14
    chosen = halves(member, np.random.default_rng(1))
    assert (chosen & member).sum() == 7
    assert (chosen & ~member).sum() == 3
