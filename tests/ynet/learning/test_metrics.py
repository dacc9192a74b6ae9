"""Retrieval and segmentation metrics against brute force."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet.learning import metrics


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
    if not any(relevant) or all(relevant):  # no ranking, or any, is right
        assert all(np.isnan(values[0]) for values in found)
        return
    np.testing.assert_allclose([values[0] for values in found], over_all_orders(distances, relevant, k), atol=1e-12)


def test_a_random_ranking_scores_what_chance_gives() -> None:
    share, k = 0.3, 10
    relevant = np.arange(10_000)[None] < 3_000
    found = metrics.ranking(np.zeros((1, 10_000), np.int64), relevant, k).ap[0]
    expected = share**2 + share * (1 - share) * sum(1 / i for i in range(1, k + 1)) / k
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_metric_of_many_ties_is_the_mean_over_shuffles() -> None:
    random = np.random.default_rng(2)
    distances, relevant = random.integers(0, 3, 80), random.random(80) < 0.3
    shuffles = [random.permutation(80) for _ in range(4000)]
    orders = [shuffle[np.argsort(distances[shuffle], kind="stable")] for shuffle in shuffles]
    seen = np.array([one_order(relevant[order].tolist(), 10) for order in orders])
    found = [values[0] for values in metrics.ranking(distances[None], relevant[None], 10)]
    assert (np.abs(found - seen.mean(0)) < 4 * seen.std(0) / np.sqrt(len(seen))).all()


def test_a_query_with_nothing_relevant_has_no_value_and_leaves_the_others_alone() -> None:
    distances = np.array([[0, 1, 2], [0, 1, 2]])
    relevant = np.array([[True, False, True], [False, False, False]])
    both, one = metrics.ranking(distances, relevant, 2), metrics.ranking(distances[:1], relevant[:1], 2)
    for pair, alone in zip(both, one, strict=True):
        assert pair[0] == alone[0]
        assert np.isnan(pair[1])


@pytest.mark.parametrize(("queries", "gallery"), [(0, 5), (3, 0), (0, 0)])
def test_no_queries_or_no_gallery_is_no_value_and_no_fault(queries: int, gallery: int) -> None:
    found = metrics.ranking(np.zeros((queries, gallery), np.int64), np.zeros((queries, gallery), bool), 10)
    assert all(values.shape == (queries,) and np.isnan(values).all() for values in found)


def test_relevant_cases_first_score_one_and_last_score_nothing() -> None:
    relevant = np.arange(40)[None] < 20
    best = metrics.ranking((~relevant).astype(np.int64), relevant, 10)
    worst = metrics.ranking(relevant.astype(np.int64), relevant, 10)
    assert [values[0] for values in best] == [1.0] * 4
    assert [values[0] for values in worst] == [0.0] * 4


def test_only_the_order_of_distances_matters() -> None:
    random = np.random.default_rng(3)
    distances, relevant = random.integers(0, 9, (4, 30)), random.random((4, 30)) < 0.5
    for plain, stretched in zip(
        metrics.ranking(distances, relevant, 10), metrics.ranking(distances**2 + 3, relevant, 10), strict=True
    ):
        np.testing.assert_array_equal(plain, stretched)


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
    assert metrics.macro(np.array([np.nan]), np.array([0])) is None


def test_dice_and_iou_are_over_images_with_a_lesion_and_empty_ones_are_counted_apart() -> None:
    found = metrics.overlap(
        both=np.array([2.0, 0.0, 0.0]), predicted=np.array([4.0, 0.0, 3.0]), true=np.array([4.0, 0.0, 0.0])
    )
    assert found == (0.5, 2 / 6, 0.5)


def test_overlap_of_no_lesion_or_of_nothing_else_is_none() -> None:
    nothing, some = np.zeros(2), np.array([3.0, 4.0])
    assert metrics.overlap(both=nothing, predicted=nothing, true=nothing) == (None, None, 1.0)
    assert metrics.overlap(both=some, predicted=some, true=some) == (1.0, 1.0, None)
    assert metrics.overlap(both=nothing[:0], predicted=nothing[:0], true=nothing[:0]) == (None, None, None)


def test_radius_figures_of_queries_with_nothing_to_tell_apart_are_none() -> None:
    distances = np.array([[0, 1, 2]] * 3)
    relevant = np.array([[True] * 3, [False] * 3, [True, False, True]])
    precision, recall = metrics.within_radius(distances, relevant, 2)
    assert np.isnan(precision[:2]).all()
    assert np.isnan(recall[:2]).all()
    np.testing.assert_allclose(precision[2], [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(recall[2], [1 / 2, 1 / 2, 1])


def test_balanced_accuracy_of_no_case_is_none() -> None:
    assert metrics.balanced_accuracy(np.zeros(0, np.int64), np.zeros(0, np.int64)) is None


def test_balanced_accuracy_of_always_the_majority_is_one_over_the_classes() -> None:
    label = np.array([0] * 90 + [1] * 5 + [2] * 5)
    assert metrics.balanced_accuracy(np.zeros(100, np.int64), label) == pytest.approx(1 / 3)


def case_found(distances: list[int], relevant: list[bool], k: int) -> float:
    """The share of the orders that respect the distances in which a relevant case is among the first K."""
    seen = [
        any(relevant[i] for i in order[:k])
        for order in permutations(range(len(distances)))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]
    return float(np.mean(seen))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(1, 8))
def test_found_within_is_the_share_of_all_orders_of_ties(cases: list[tuple[int, bool]], k: int) -> None:
    distances, relevant = [d for d, _ in cases], [r for _, r in cases]
    (found,) = metrics.found_within(np.array([distances]), np.array([relevant]), k)
    if any(relevant):
        assert found == pytest.approx(case_found(distances, relevant, k), abs=1e-12)
    else:
        assert np.isnan(found)


def test_found_within_leaves_out_a_case_at_infinity() -> None:
    distances, relevant = np.array([[np.inf, 3.0, 3.0, 5.0]]), np.array([[False, True, False, False]])
    assert metrics.found_within(distances, relevant, 1) == pytest.approx(
        metrics.found_within(distances[:, 1:], relevant[:, 1:], 1)
    )
    assert np.isnan(metrics.found_within(distances, np.array([[True, False, False, False]]), 1))


def test_tie_size_is_that_of_the_group_at_rank_k() -> None:
    distances = np.array([[0, 1, 1, 2, 2, 2], [5, 4, 3, 2, 1, 0], [7, 7, 7, 7, 7, 7]])
    assert metrics.tie_sizes(distances, 2).tolist() == [2, 1, 6]
    assert metrics.tie_sizes(distances, 10).tolist() == [3, 1, 6]  # a gallery of fewer cases: its last one
