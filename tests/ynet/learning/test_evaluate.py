"""Scoring a network, its floors, and that the whole of it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ynet.data.cases import CaseCache
from ynet.data.manifest import find_sites, read
from ynet.data.synthetic import CLASSES, make_federation
from ynet.learning import metrics
from ynet.learning.code_moments import GalleryEncoder, fit
from ynet.learning.evaluate import EncodedCases, by_radius, encode, evaluate, join, score
from ynet.learning.hashing import codebook, pack
from ynet.learning.model import Reading, YNet, build
from ynet.learning.train import train
from ynet.plan import Plan
from ynet.scores import PER_CLASS, SHARES
from ynet_lab.concat import Concat

CPU = torch.device("cpu")


def constant(net: YNet) -> YNet:
    """The network with one code for everything."""
    with torch.no_grad():
        net.hash.weight.zero_()
    return net


def test_a_network_with_one_code_for_everything_is_at_the_random_floor(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan()
    scores = evaluate(constant(build(plan)), make_cases(30), make_cases(9, seed=2), plan, CPU)
    assert scores.distinct_codes == 1
    assert scores.macro_map10 == pytest.approx(scores.macro_map10_random)
    assert scores.macro_map10_majority == pytest.approx(1 / 3)
    assert scores.queries == 9


class Oracle(YNet):
    """Reads label and mask off an image on which `with_answers` wrote them."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.targets = codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed)

    def read(self, image: torch.Tensor) -> Reading:
        code = self.targets[(image[:, 0, 0, 0] // 2).long()]
        return Reading(image % 2 - 0.5, code, torch.zeros(len(image), self.hash.in_features))


def with_answers(cases: Any) -> Any:
    cases.image[:] = 2 * cases.label[:, None, None, None] + cases.mask
    return cases


def test_a_perfect_network_has_every_score_at_one(make_plan: Any, make_cases: Any) -> None:
    plan, gallery, queries = make_plan(), with_answers(make_cases(60)), with_answers(make_cases(9, seed=2))
    queries.mask[0], queries.image[0] = 0, 2 * queries.label[0]  # a case without a lesion
    scores = evaluate(Oracle(plan), gallery, queries, plan, CPU).to_metrics()
    floors = {name for name in scores if name.endswith(("_random", "_majority"))}
    counts: dict[str, Any] = {"distinct_codes": 3, "queries": 9, "gallery": 60, "ranked": 9, "masks": 8}
    by_class = {"queries_per_class": dict.fromkeys("abc", 3), "gallery_per_class": dict.fromkeys("abc", 20)}
    counts |= {"empty_masks": 1, "likened": 8, "siblings": 0, **by_class}
    counts |= {"median_tie10": 20, "distinct_share": 3 / 60, "mask_likeness": 1, "case_hit1": None, "case_hit10": None}
    assert {name: scores[name] for name in scores if name not in floors} == {
        **dict.fromkeys(scores.keys() - floors - counts.keys(), 1.0),
        **counts,
    }
    assert all(scores[name] < 0.5 for name in floors)


def test_the_floors_are_rankings_by_chance_and_with_the_most_frequent_class_first(
    make_plan: Any, make_cases: Any
) -> None:
    plan, gallery, queries = make_plan(), make_cases(20), make_cases(8, seed=2)
    gallery.label[:] = torch.tensor([0] * 12 + [1] * 8)
    queries.label[:] = torch.tensor([0] * 6 + [1] * 2)
    scores = evaluate(build(plan), gallery, queries, plan, CPU)
    assert scores.map10_majority == pytest.approx(6 / 8)  # all ten places go to class 0
    assert scores.macro_map10_majority == pytest.approx(1 / 2)
    random = np.random.default_rng(1)
    orders = [random.permutation(gallery.label.numpy())[:10] for _ in range(3000)]
    chance = [
        np.mean([_average_precision(order == label, held) for order in orders]) for label, held in ((0, 12), (1, 8))
    ]
    assert scores.macro_map10_random == pytest.approx(np.mean(chance), abs=0.01)
    assert scores.map10_random == pytest.approx(np.average(chance, weights=[6, 2]), abs=0.01)


def test_the_order_of_gallery_and_queries_does_not_matter(make_plan: Any, make_cases: Any) -> None:
    plan, gallery, queries = make_plan(), make_cases(60), of_patients(make_cases(12, seed=2), 5)
    net, plain = build(plan), evaluate(build(plan), gallery, queries, plan, CPU).to_metrics()
    for cases in (gallery, queries):
        order = torch.randperm(len(cases))
        cases.image, cases.mask, cases.label = cases.image[order], cases.mask[order], cases.label[order]
        cases.patient = cases.patient[order]
    again = evaluate(net, gallery, queries, plan, CPU).to_metrics()
    for name in PER_CLASS:
        assert again.pop(name) == plain.pop(name)
    assert again == pytest.approx(plain, abs=1e-6)


def _average_precision(relevant: Any, held: int) -> float:
    precision = relevant.cumsum() / np.arange(1, len(relevant) + 1)
    return float((precision * relevant).sum() / min(len(relevant), held))


MASKS = ("dice", "iou", "empty_kept")
CODES = ("case_hit1", "case_hit10", "distinct_share")  # whatever the classes are
RANKED = tuple(name for name in SHARES if name not in (*MASKS, *CODES))


@pytest.mark.parametrize(
    ("held", "asked", "ranked"),
    [
        ((0,), (0,), 0),  # a site of one class: any ranking is perfect
        ((0,), (1,), 0),  # nothing relevant in the archive
        ((0,), (0, 1), 0),
        ((0, 1), (2,), 0),
        ((0, 1), (0, 2), 2),
        ((0, 1), (0,), 4),
    ],
)
def test_scores_of_rankings_that_say_nothing_are_none(
    held: tuple[int, ...], asked: tuple[int, ...], ranked: int, make_plan: Any, make_cases: Any
) -> None:
    plan, gallery, queries = make_plan(), make_cases(4), make_cases(4, seed=2)
    gallery.label[:], queries.label[:] = torch.tensor(held * (4 // len(held))), torch.tensor(asked * (4 // len(asked)))
    scores = evaluate(build(plan), gallery, queries, plan, CPU).to_metrics()
    assert scores["ranked"] == ranked
    assert all((scores[name] is None) == (ranked == 0) for name in RANKED)
    assert sum(scores["queries_per_class"].values()) == 4
    assert list(scores["gallery_per_class"].values()) == [held.count(one) * 4 // len(held) for one in range(3)]


def test_query_without_its_class_in_the_gallery_changes_no_score(make_plan: Any, make_cases: Any) -> None:
    plan, gallery, queries = make_plan(), make_cases(12), make_cases(6, seed=2)
    gallery.label[:] = torch.tensor([0, 1] * 6)
    held, asked = (encode(build(plan), cases, CPU) for cases in (gallery, queries))
    known = np.isin(asked.label, (0, 1))
    whole, part = score(held, asked, plan), score(held, EncodedCases(*(column[known] for column in asked)), plan)
    assert [getattr(whole, name) for name in RANKED] == [getattr(part, name) for name in RANKED]
    assert (whole.queries, whole.ranked, part.ranked) == (6, 4, 4)


@pytest.mark.parametrize("masks", [0, 4])
def test_scores_of_masks_that_are_not_there_are_none(masks: int, make_plan: Any, make_cases: Any) -> None:
    plan, gallery, queries = make_plan(), make_cases(4), make_cases(4, seed=2)
    queries.mask.fill_(float(masks > 0))
    scores = evaluate(build(plan), gallery, queries, plan, CPU)
    assert (scores.masks, scores.empty_masks) == (masks, 4 - masks)
    assert [scores.dice is None, scores.iou is None, scores.empty_kept is None] == [not masks, not masks, bool(masks)]


def test_radius_points_of_a_gallery_of_one_class_are_none(make_plan: Any, make_cases: Any) -> None:
    plan, gallery, queries = make_plan(), make_cases(4), make_cases(4, seed=2)
    gallery.label[:] = 0
    held, asked = (encode(build(plan), cases, CPU) for cases in (gallery, queries))
    assert {(point.precision, point.recall) for point in by_radius(held, asked, 32)} == {(None, None)}


def test_masks_that_nobody_has_drawn_are_no_empty_ones_in_the_scores(make_plan: Any, make_cases: Any) -> None:
    plan, cases, some = make_plan(), make_cases(12), make_cases(12)
    cases.mask[:] = 0
    cases.mask[:4, :, :5] = 1
    some.mask[:] = cases.mask
    some.mask[8:], some.drawn[8:] = 0, False
    net = build(plan)
    known, encoded = (encode(net, one, CPU) for one in (cases, some))
    np.testing.assert_array_equal(np.isnan(encoded.true), ~some.drawn[:, 0].numpy())
    np.testing.assert_array_equal(encoded.true[:8], known.true[:8])
    whole = metrics.overlap(*(counts[:8] for counts in (known.both, known.predicted, known.true)))
    assert metrics.overlap(encoded.both, encoded.predicted, encoded.true) == whole


def test_codes_come_in_the_order_of_the_cases(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(70)
    net = build(plan)
    whole, tail = encode(net, cases, CPU), net.read(cases.image[65:70])
    assert whole.codes.shape == (70, 4)
    np.testing.assert_array_equal(whole.codes[65:70], pack(tail.code))


@pytest.mark.parametrize(("rate", "code"), [(1e-3, "trained"), (8e-3, "trained"), (1e-3, "moments")])
def test_the_network_learns_the_lesions_of_patients_it_has_not_seen(
    rate: float, code: str, make_plan: Any, tmp_path: Path
) -> None:
    """Lesions are told apart by their texture; at a high rate all codes once became one, and retrieval the floor."""
    make_federation(tmp_path, {"A": 200, "B": 100}, seed=2, size=64)
    plan = make_plan(
        classes=list(CLASSES),
        image={"size": 64},
        network={"width": 8, "code_bits": 64, "dropout": 0.5, "code": code},
        training={"rounds": 12, "local_epochs": 2, "learning_rate": rate, "batch_size": 16, "schedule": "cosine"},
        augmentation={"flip": True},
    )
    manifests = [read(path) for path in find_sites(tmp_path).values()]
    gallery, queries = (
        Concat([CaseCache(m, part(m), plan.image, plan.classes, 1 << 28) for m in manifests])
        for part in (lambda m: m.train, lambda m: m.test)
    )
    net = build(plan)
    for number in range(1, plan.training.rounds + 1):
        train(net, gallery, plan, number, device=CPU, generator=torch.Generator().manual_seed(number))
    if code == "moments":
        fit(net, plan, [GalleryEncoder().moments(net, gallery, plan, CPU)])
    scores = evaluate(net, gallery, queries, plan, CPU)
    assert scores.macro_map10 > 0.5
    assert code == "trained" or scores.distinct_share > 0.8
    assert scores.macro_map10_random < 0.2
    assert scores.dice > 0.6


def of_patients(cases: Any, count: int) -> Any:
    cases.patient[:] = torch.arange(len(cases)) % count
    return cases


def test_one_code_for_everything_finds_a_sibling_as_chance_does(make_plan: Any, make_cases: Any) -> None:
    plan, gallery, queries = make_plan(), make_cases(20), of_patients(make_cases(12, seed=2), 6)
    scores = evaluate(constant(build(plan)), gallery, queries, plan, CPU)
    assert scores.siblings == 12
    assert scores.case_hit1 == pytest.approx(1 / 31)  # one sibling among 20 and 11 others
    assert scores.case_hit10 == pytest.approx(10 / 31)
    assert (scores.median_tie10, scores.distinct_share) == (20, 1 / 20)
    assert scores.mask_likeness is None  # no class has more than ten others


def coded(codes: list[int], patient: list[int], label: list[int] | None = None) -> EncodedCases:
    """Cases with 16-bit codes; no masks."""
    packed = np.array(codes, ">u2").view(np.uint8).reshape(-1, 2)
    unknown = np.full(len(codes), np.nan)
    own = np.array(label or [0] * len(codes))
    return EncodedCases(
        packed,
        own,
        *[unknown] * 4,
        np.array(patient),
        np.zeros((len(codes), 0), np.float32),
        unknown[:, None, None].repeat(3, 2),
    )


def test_codes_of_a_patient_that_are_alike_find_every_sibling_first(make_plan: Any) -> None:
    held, asked = (
        coded([0x0F00, 0x3000, 0xF000, 0x7777], [0, 1, 2, 3]),
        coded([0x00FF, 0x00FE, 0xF001, 0x0F0F], [8, 8, 2, 7]),
    )
    scores = score(held, asked, make_plan())
    assert scores.siblings == 3  # patient 7 has no other case
    assert scores.case_hit10 == 1
    assert scores.case_hit1 == 1


def test_case_figure_does_not_count_the_query_itself(make_plan: Any) -> None:
    held, asked = coded([0x0000, 0x0001], [1, 2]), coded([0xFFFF, 0x0000], [5, 5])
    scores = score(held, asked, make_plan())
    assert scores.case_hit1 == 0  # for each query a gallery case is nearer than the sibling
    assert scores.case_hit10 == 1


def test_distinct_distances_are_ties_of_one(make_plan: Any) -> None:
    held, asked = coded([(1 << i) - 1 for i in range(16)], list(range(16))), coded([0], [99])
    scores = score(held, asked, make_plan())
    assert (scores.median_tie10, scores.distinct_share, scores.case_hit10, scores.siblings) == (1, 1, None, 0)


def test_patients_of_two_sites_are_no_siblings(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), of_patients(make_cases(6), 6)
    net = build(plan)
    one, other = (encode(net, cases, CPU, site=number) for number in (0, 1))
    assert not np.isin(one.patient, other.patient).any()
    assert score(join([one, other]), join([one, other]), plan).siblings == 12
    assert score(one, other, plan).siblings == 0


def test_dice_with_several_regions_is_told_for_each_and_is_their_mean(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(regions=["disc", "cup", "rim"]), make_cases(12, regions=3)
    cases.mask[:, 2] = 0
    scores = evaluate(build(plan), cases, cases, plan, CPU)
    assert list(scores.dice_per_region) == ["disc", "cup", "rim"]
    disc, cup, rim = scores.dice_per_region.values()
    assert rim is None  # no query has one
    assert scores.dice == pytest.approx((disc + cup) / 2)
    assert scores.masks == 12
    assert "dice_per_region" in scores.to_metrics()


def test_dice_of_each_region_is_that_of_its_channel(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(regions=["disc", "cup"]), make_cases(6, regions=2)
    cases.drawn[:3, 1] = False
    net = build(plan)
    encoded = encode(net, cases, CPU)
    predicted, true = net.read(cases.image).mask_logits > 0, cases.mask > 0
    dice = 2 * (predicted & true).sum((2, 3)) / (predicted.sum((2, 3)) + true.sum((2, 3)))
    scores = score(encoded, encoded, plan)
    assert list(scores.dice_per_region.values()) == pytest.approx([float(dice[:, 0].mean()), float(dice[3:, 1].mean())])
    assert np.isnan(encoded.true).tolist() == [True] * 3 + [False] * 3  # the union is unknown with a region
    np.testing.assert_array_equal(encoded.true[3:], true.any(1).sum((1, 2))[3:])


def test_plan_without_regions_has_no_dice_per_region(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(6)
    assert "dice_per_region" not in evaluate(build(plan), cases, cases, plan, CPU).to_metrics()
