"""Likeness of hits against chance: enumeration, laws, and the shape of masks."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet.learning import likeness
from ynet.learning.likeness import Attribute, Likeness


def over_all_orders(distances: list[int], apart: list[float], k: int) -> float:
    seen = [
        np.mean([apart[i] for i in order[:k]])
        for order in permutations(range(len(distances)))
        if all(distances[a] <= distances[b] for a, b in pairwise(order))
    ]
    return float(np.mean(seen))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=4, max_size=6),
    st.booleans(),
)
def test_likeness_of_hits_is_the_mean_over_all_orders_of_ties(cases: list[tuple[int, int]], is_category: bool) -> None:
    distances, values = [d for d, _ in cases], [float(v) for _, v in cases]
    attribute = Attribute(np.array(values), np.array([1.0]), is_category)
    found = likeness.among_hits(np.array([distances]), np.ones((1, len(cases)), bool), attribute, 3)
    if len(set(values)) == 1:  # there is nothing to tell apart
        assert np.isnan(found.hits[0])
        return
    apart = [float(v == 1) if is_category else abs(v - 1) for v in values]
    assert found.hits[0] == pytest.approx(over_all_orders(distances, apart, 3), abs=1e-12)
    assert found.chance[0] == pytest.approx(np.mean(apart))


def drawn(queries: int = 8, gallery: int = 40) -> tuple[np.ndarray, np.ndarray, Attribute]:
    random = np.random.default_rng(3)
    attribute = Attribute(random.normal(size=gallery), random.normal(size=queries))
    return random.integers(0, 5, (queries, gallery)), random.random((queries, gallery)) < 0.6, attribute


def test_ranking_without_information_is_as_like_as_chance() -> None:
    distances, is_candidate, attribute = drawn()
    found = likeness.among_hits(np.zeros_like(distances), is_candidate, attribute, 10)
    assert likeness.over_chance(found) == pytest.approx(1)


@pytest.mark.parametrize("is_category", [False, True])
def test_ranking_by_the_attribute_is_above_one_and_its_reverse_below(is_category: bool) -> None:
    _, is_candidate, (held, asked, _) = drawn()
    if is_category:
        held, asked = np.sign(held), np.sign(asked)
    apart = np.abs(asked[:, None] - held[None, :])
    best, worst = (
        likeness.over_chance(likeness.among_hits(distances, is_candidate, Attribute(held, asked, is_category), 10))
        for distances in (apart, -apart)
    )
    assert best > 1 > worst


def test_order_of_cases_and_scale_of_a_number_do_not_matter() -> None:
    distances, is_candidate, attribute = drawn()
    order, random = np.random.default_rng(5).permutation(40), np.random.default_rng(6).permutation(8)
    moved = Attribute(7 * attribute.held[order] + 3, 7 * attribute.asked[random] + 3)
    across = np.ix_(random, order)
    plain = likeness.over_chance(likeness.among_hits(distances, is_candidate, attribute, 10))
    again = likeness.over_chance(likeness.among_hits(distances[across], is_candidate[across], moved, 10))
    assert again == pytest.approx(plain)


def test_unknown_values_tell_nothing_and_change_nothing() -> None:
    distances, is_candidate, attribute = drawn()
    held = np.append(attribute.held, [np.nan] * 5)
    more = [np.pad(array, ((0, 0), (0, 5))) for array in (distances, is_candidate)]
    more[1][:, -5:] = True
    found = likeness.among_hits(*more, Attribute(held, np.append(attribute.asked[:-1], np.nan)), 10)
    plain = likeness.among_hits(distances, is_candidate, attribute, 10)
    np.testing.assert_allclose(found.hits[:-1], plain.hits[:-1])
    assert np.isnan(found.hits[-1])


def test_ten_candidates_are_all_hits_and_tell_nothing() -> None:
    attribute = Attribute(np.arange(10.0), np.zeros(1))
    found = likeness.among_hits(np.zeros((1, 10), np.int64), np.ones((1, 10), bool), attribute, 10)
    assert np.isnan(found.hits[0])
    assert likeness.over_chance(found) is None


@pytest.mark.parametrize(
    ("hits", "chance", "is_category", "ratio"),
    [
        (0.5, 1.0, False, 2),
        (0.5, 0.25, True, 2),
        (0.0, 1.0, False, 100),
        (0.0, 0.5, True, 0.01),
        (0.0, 0.0, False, None),
    ],
)
def test_ratio_is_finite_and_above_one_where_hits_are_more_alike(
    hits: float, chance: float, is_category: bool, ratio: float | None
) -> None:
    assert likeness.over_chance(Likeness(np.array([hits]), np.array([chance]), is_category)) == ratio


def test_mean_of_ratios_is_geometric() -> None:
    assert likeness.mean([4.0, None, 0.25]) == pytest.approx(1)
    assert likeness.mean([None]) is None


def test_elongation_of_rectangles_is_the_ratio_of_their_sides_at_any_place_and_turn() -> None:
    mask = torch.zeros(4, 1, 24, 24, dtype=torch.bool)
    mask[0, 0, 2:5, 3:15] = True  # 3 x 12
    mask[1, 0, 8:20, 20:23] = True
    mask[2, 0, 5:9, 5:9] = True
    assert likeness.elongation(mask).tolist() == pytest.approx([4, 4, 1, 1])


def test_elongation_of_a_diagonal_line_is_seen() -> None:
    mask = torch.eye(20, dtype=torch.bool)[None, None]
    assert likeness.elongation(mask)[0] > 10
