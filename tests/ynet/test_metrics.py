"""Retrieval and segmentation metrics against brute force."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet import metrics


def one_order(relevant: list[bool], k: int) -> tuple[float, float, float, float]:
    """The four metrics of one ranked list, as their definitions read."""
    total, top = sum(relevant), relevant[:k]
    points = sum(sum(top[: i + 1]) / (i + 1) for i, is_good in enumerate(top) if is_good)
    first = next((1 / (i + 1) for i, is_good in enumerate(top) if is_good), 0.0)
    return points / min(k, total), points / k, sum(top) / min(k, len(relevant)), first


def over_all_orders(distances: list[int], relevant: list[bool], k: int) -> np.ndarray:
    """Mean over every order of the gallery that respects the distances."""
    seen = [
        one_order([relevant[i] for i in order], k)
        for order in permutations(range(len(distances)))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]
    return np.mean(seen, axis=0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(1, 8))
def test_every_metric_is_the_mean_over_all_orders_of_ties(cases: list[tuple[int, bool]], k: int) -> None:
    distances, relevant = [d for d, _ in cases], [r for _, r in cases]
    found = metrics.ranking(np.array([distances]), np.array([relevant]), k)
    if not any(relevant):
        assert all(np.isnan(values[0]) for values in found)
        return
    np.testing.assert_allclose([values[0] for values in found], over_all_orders(distances, relevant, k), atol=1e-12)


def test_a_random_ranking_scores_what_chance_gives() -> None:
    share, k = 0.3, 10
    relevant = np.arange(10_000)[None] < 3_000
    found = metrics.ranking(np.zeros((1, 10_000), np.int64), relevant, k).ap[0]
    expected = share**2 + share * (1 - share) * sum(1 / i for i in range(1, k + 1)) / k
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_order_in_which_the_gallery_is_stored_does_not_matter() -> None:
    random = np.random.default_rng(1)
    distances, relevant = random.integers(0, 4, (5, 60)), random.random((5, 60)) < 0.4
    order = random.permutation(60)
    for stored, shuffled in zip(
        metrics.ranking(distances, relevant, 10),
        metrics.ranking(distances[:, order], relevant[:, order], 10),
        strict=True,
    ):
        np.testing.assert_allclose(stored, shuffled)


def test_a_macro_mean_gives_each_class_the_same_weight_and_leaves_unknown_values_out() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0, np.nan])
    assert metrics.macro(values, np.array([0, 0, 0, 1, 1])) == 0.5
    assert metrics.macro(np.array([np.nan]), np.array([0])) == 0.0


def test_dice_and_iou_are_over_images_with_a_lesion_and_empty_ones_are_counted_apart() -> None:
    found = metrics.overlap(
        both=np.array([2.0, 0.0, 0.0]), predicted=np.array([4.0, 0.0, 3.0]), true=np.array([4.0, 0.0, 0.0])
    )
    assert found == (0.5, 2 / 6, 0.5)


def test_balanced_accuracy_of_always_the_majority_is_one_over_the_classes() -> None:
    label = np.array([0] * 90 + [1] * 5 + [2] * 5)
    assert metrics.balanced_accuracy(np.zeros(100, np.int64), label) == pytest.approx(1 / 3)
