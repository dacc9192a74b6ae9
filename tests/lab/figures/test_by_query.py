"""The four figures of a ranking: equal to a site's own scores, intervals by patients, laws of floors and ceiling."""

from typing import Any

import numpy as np
import pytest
import torch

from ynet.data.batch import SITE_STEP
from ynet.learning.evaluate import EncodedCases, encode, join, score
from ynet.learning.model import build
from ynet_lab.figures import attributes
from ynet_lab.figures.baselines import baselines, by_codes, ceiling, cosine
from ynet_lab.figures.by_query import (
    ByQuery,
    by_attribute,
    by_query,
    columns,
    figures,
    intervals,
    precision_across,
)
from ynet_lab.figures.handmade import handmade

CPU = torch.device("cpu")


@pytest.fixture
def coded(make_plan: Any, make_cases: Any) -> tuple[Any, EncodedCases, EncodedCases]:
    plan, gallery, queries = make_plan(), make_cases(45), make_cases(12, seed=2)
    queries.patient[:] = torch.arange(12) % 5 + 500
    net = build(plan)
    held, asked = (encode(net, cases, CPU, keeps_feature=True) for cases in (gallery, queries))
    return plan, held, asked


def found_of(held: EncodedCases, asked: EncodedCases) -> ByQuery:
    return by_query(held, asked, by_codes(held, asked), attributes.of_masks(held, asked))


def test_figures_of_the_codes_are_the_scores(coded: Any) -> None:
    plan, held, asked = coded
    scores, found = score(held, asked, plan), found_of(held, asked)
    values = figures(found)
    for name in ("macro_map10", "case_hit1", "case_hit10", "median_tie10", "dice"):
        assert values[name] == pytest.approx(getattr(scores, name)), name
    assert values["likeness"] == pytest.approx(scores.mask_likeness)
    assert by_attribute(found).keys() == {"mask size", "mask elongation"}


def test_columns_of_queries_have_the_scores_as_means(coded: Any) -> None:
    plan, held, asked = coded
    of_b = asked._replace(patient=asked.patient + SITE_STEP)
    galleries = held, held._replace(patient=held.patient + SITE_STEP)
    rated = found_of(join(galleries), join([asked, of_b]))
    found = columns(rated, precision_across(join(galleries), join([asked, of_b])))
    assert found["site"] == [0] * 12 + [1] * 12
    assert len(set(found["patient"])) == 10
    values = {name: np.array(column, np.float64) for name, column in found.items()}
    labels = np.unique(values["label"])
    alone = score(held, asked, plan)  # both sites have the same gallery here
    means = [np.nanmean(values["cross"][values["label"] == one]) for one in labels]
    assert np.mean(means) == pytest.approx(alone.macro_map10)
    assert np.nanmean(values["dice"]) == pytest.approx(alone.dice)
    for name, ratio in by_attribute(rated).items():
        above, below = values[f"above {name}"], values[f"below {name}"]
        known = np.isfinite(above) & np.isfinite(below)
        assert above[known].sum() / below[known].sum() == pytest.approx(ratio), name


def test_query_of_the_only_site_has_no_precision_across(coded: Any) -> None:
    _, held, asked = coded
    assert np.isnan(precision_across(held, asked)).all()


def test_interval_holds_the_figure_and_is_by_patients_not_by_queries(coded: Any) -> None:
    _, held, asked = coded
    found = found_of(held, asked)
    limits = intervals(found, 400)
    for name, value in figures(found).items():
        assert limits[name]["low"] <= value <= limits[name]["high"], name
    twice = EncodedCases(*(np.concatenate([column, column]) for column in asked))  # the same patients once more
    again = intervals(found_of(held, twice), 400)
    assert again["macro_map10"] == pytest.approx(limits["macro_map10"])
    one = intervals(found_of(held, asked._replace(patient=np.zeros_like(asked.patient))), 50)
    assert one["macro_map10"]["low"] == one["macro_map10"]["high"]  # one patient: nothing to draw


def test_interval_of_nothing_is_none(coded: Any) -> None:
    _, held, asked = coded
    limits = intervals(found_of(held, asked._replace(patient=np.arange(12) + 500)), 50)
    assert limits["case_hit10"] == {"low": None, "high": None}


def test_feature_of_a_case_in_the_gallery_finds_it_first(coded: Any) -> None:
    _, held, _ = coded
    distances = cosine(held.feature, held.feature)
    assert (distances.to_held.argmin(1) == np.arange(len(held.label))).all()
    np.testing.assert_array_equal(distances.to_held, distances.to_asked)


def test_cosine_does_not_depend_on_a_channels_scale_and_drops_constant_channels(coded: Any) -> None:
    _, held, asked = coded
    scale = np.random.default_rng(1).uniform(1, 9, held.feature.shape[1])
    plain = cosine(held.feature, asked.feature)
    scaled = [np.hstack([one.feature * scale + 3, np.full((len(one.feature), 2), 7.0)]) for one in (held, asked)]
    np.testing.assert_allclose(cosine(*scaled).to_held, plain.to_held, atol=1e-5)


def test_ceiling_of_a_feature_that_is_the_case_is_perfect(coded: Any) -> None:
    _, held, asked = coded
    own = np.eye(600, dtype=np.float32)[asked.patient]
    random = np.random.default_rng(3).normal(size=(len(held.label), 600)).astype(np.float32)
    found = ceiling(held._replace(feature=random), asked._replace(feature=50 * own), {})
    assert (found["case_hit10"], found["case_hit1"], found["median_tie10"]) == (1, 1, 1)


def test_baselines_have_the_floors_as_before_and_chance_for_the_case(
    coded: Any, make_cases: Any, make_plan: Any
) -> None:
    plan, held, asked = coded
    gallery, queries = make_cases(45), make_cases(12, seed=2)
    found = baselines(held, asked, attributes.of_masks(held, asked), [(gallery, queries)])
    scores = score(held, asked, plan)
    assert list(found) == ["random", "majority", "hog", "hog_mask"]
    assert found["random"]["macro_map10"] == pytest.approx(scores.macro_map10_random)
    assert found["majority"]["map10"] == pytest.approx(scores.map10_majority)
    siblings = np.array([np.sum(asked.patient == one) - 1 for one in asked.patient])
    chance = [1 - np.prod([(56 - n - i) / (56 - i) for i in range(10)]) for n in siblings]
    assert found["random"]["case_hit10"] == pytest.approx(np.mean(chance))
    assert found["random"]["likeness"] == pytest.approx(1)
    assert found["random"]["median_tie10"] == 45
    assert found["hog"]["median_tie10"] == found["hog_mask"]["median_tie10"] == 1


def test_handmade_features_see_the_mask_and_take_the_whole_image_without_one(make_cases: Any) -> None:
    cases = make_cases(3)
    cases.mask[0] = 0
    cases.mask[1:] = 0
    cases.mask[1:, :, 4:20, 8:30] = 1
    cases.image[2] = cases.image[1]
    cases.image[2, :, 25:] = 9.0  # outside of the mask
    found = handmade(cases)
    np.testing.assert_array_equal(found.under_mask[0], found.whole[0])
    np.testing.assert_array_equal(found.under_mask[1], found.under_mask[2])
    assert not np.allclose(found.whole[1], found.whole[2])
