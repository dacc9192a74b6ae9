"""Telling members from others: the figures, and that memory is found where it is and not where it is not."""

from typing import Any

import numpy as np
import pytest
import torch

from ynet.errors import UserError
from ynet.learning.model import build
from ynet_lab.attacks import membership_inference
from ynet_lab.attacks.shadow import shadow_plan, train_shadow
from ynet_lab.attacks.subjects import Subjects

CPU = torch.device("cpu")


def subjects_of(cases: Any, images_each: int = 2) -> Subjects:
    """Every second patient is a member."""
    patient = np.arange(len(cases)) // images_each
    return Subjects(cases, patient, patient % 2 == 0)


def test_the_auc_is_the_share_of_pairs_in_the_right_order_ties_counted_half() -> None:
    random = np.random.default_rng(1)
    inside, outside = random.integers(0, 6, 20) + 1.0, random.integers(0, 6, 30) + 0.0
    pairs = (inside[:, None] > outside).mean() + (inside[:, None] == outside).mean() / 2
    assert membership_inference.auc(inside, outside) == pytest.approx(pairs)


def test_a_false_alarm_rate_under_one_of_the_others_allows_none_of_them() -> None:
    score = np.concatenate([np.arange(10.0) + 0.5, np.arange(10.0)])
    is_member, patient = np.arange(20) < 10, np.arange(20)
    found = membership_inference.separation(score, is_member, patient, np.random.default_rng(1))
    assert (found.tpr_at_1_percent, found.tpr_at_0_1_percent) == (0.1, 0.1)  # 9.5 alone is above all others
    assert (found.smallest_fpr, found.members, found.non_members) == (0.1, 10, 10)
    assert found.auc_std > 0


def test_everybody_is_in_as_many_shadow_models_as_out_of_them() -> None:
    drawn = membership_inference.halves(11, 3, np.random.default_rng(1))
    assert drawn.shape == (6, 11)
    assert (drawn.sum(0) == 3).all()
    assert not np.array_equal(drawn[0], drawn[2])


def test_the_likelihood_ratio_sees_through_differences_of_difficulty_that_hide_members_from_a_threshold() -> None:
    random, images = np.random.default_rng(1), 400
    difficulty, was_in = random.normal(0, 5, images), membership_inference.halves(images, 8, random)
    is_member = random.random(images) < 0.5
    shadows = difficulty + 2 * was_in + random.normal(0, 1, was_in.shape)
    target = difficulty + 2 * is_member + random.normal(0, 1, images)
    ratio = membership_inference.likelihood_ratio(target, shadows, was_in)
    assert membership_inference.auc(target[is_member], target[~is_member]) < 0.7
    assert membership_inference.auc(ratio[is_member], ratio[~is_member]) > 0.85


def test_confidence_falls_with_the_loss_and_is_the_logit_of_its_chance() -> None:
    chance = np.array([0.9, 0.5, 0.1])
    np.testing.assert_allclose(
        membership_inference.confidence(-np.log(chance)), np.log(chance / (1 - chance)), atol=1e-9
    )
    assert np.isfinite(membership_inference.confidence(np.array([0.0, 500.0]))).all()


def test_a_net_that_knows_its_patients_by_heart_is_found_out_and_an_untrained_one_is_not(
    make_plan: Any, make_cases: Any
) -> None:
    plan = make_plan(training={"rounds": 15, "local_epochs": 2, "learning_rate": 4e-3})
    subjects = subjects_of(make_cases(48))
    members = subjects.by_patient(subjects.is_member) > 0.5
    trained = train_shadow(plan, None, *subjects.of(members), CPU, lambda _: None)
    for net, low, high in ((trained, 0.9, 1.0), (build(plan), 0.3, 0.7)):
        score = -membership_inference.losses(net, subjects.cases, plan, CPU)
        found = membership_inference.separations(score, subjects, np.random.default_rng(1))
        assert low <= found["image"].auc <= high
        assert low <= found["patient"].auc <= high
        assert (found["image"].members, found["patient"].members) == (24, 12)


def test_a_shadow_of_a_private_plan_is_trained_privately_or_not_at_all(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(privacy={"mode": "patient", "epsilon": 1e-6, "delta": 1e-9}, training={"rounds": 400})
    subjects = subjects_of(make_cases(8))
    with pytest.raises(UserError, match="privacy cannot be reached"):
        train_shadow(plan, None, *subjects.of(np.ones(4, bool)), CPU, lambda _: None)
    kept = shadow_plan(plan, seed=7, rounds=2)
    assert (kept.training.rounds, kept.training.seed, kept.privacy) == (2, 7, plan.privacy)
