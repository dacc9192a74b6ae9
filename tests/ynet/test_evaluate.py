"""Scoring a network, its floors, and that the whole of it learns."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from ynet.data.cases import CaseCache
from ynet.data.manifest import find_sites, read
from ynet.data.pooled import Pooled
from ynet.data.synthetic import CLASSES, make_federation
from ynet.evaluate import encode, evaluate
from ynet.federation.plan import Augmentation
from ynet.model import YNet, build
from ynet.train import train

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


def test_a_case_finds_itself_first(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(3)
    scores = evaluate(build(plan), cases, cases, plan, CPU)
    assert scores.distinct_codes < 3 or scores.macro_map10 == 1.0


def test_every_score_is_a_finite_number_whatever_is_missing(make_plan: Any, make_cases: Any) -> None:
    plan, gallery, queries = make_plan(), make_cases(4), make_cases(4, seed=2)
    gallery.label[:], queries.label[:] = 0, 1
    queries.mask.zero_()
    scores = evaluate(build(plan), gallery, queries, plan, CPU).to_metrics()
    assert all(math.isfinite(value) for value in scores.values())


def test_codes_come_in_the_order_of_the_cases(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(70)
    net = build(plan)
    whole, tail = encode(net, cases, CPU), net(cases.image[65:70])
    assert whole.codes.shape == (70, 4)
    assert torch.allclose(torch.from_numpy(whole.values[65:70]), tail.code, atol=1e-4)


def test_the_network_learns_lesions_of_hospitals_it_was_not_trained_on(make_plan: Any, tmp_path: Path) -> None:
    """Well above the floor after seconds of training, on patients held out."""
    make_federation(tmp_path, {"A": 120, "B": 60}, seed=1, size=64)
    plan = make_plan(
        classes=list(CLASSES),
        image={"size": 64},
        network={"width": 16, "code_bits": 64},
        training={"rounds": 1, "learning_rate": 5e-4, "batch_size": 16, "local_epochs": 14},
        augmentation={"flip": Augmentation().flip},
    )
    manifests = [read(path) for path in find_sites(tmp_path).values()]
    gallery, queries = (
        Pooled([CaseCache(m, part(m), plan.image, plan.classes, 1 << 28) for m in manifests])
        for part in (lambda m: m.train, lambda m: m.test)
    )
    net = build(plan)
    train(net, gallery, plan, 1, device=CPU, generator=torch.Generator().manual_seed(1))
    scores = evaluate(net, gallery, queries, plan, CPU)
    assert scores.macro_map10 > 2 * scores.macro_map10_random
    assert scores.dice > 0.6
