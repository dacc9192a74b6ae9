"""Images from gradients: found where nothing protects them, and not where noise does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ynet.data.batch import CaseSource
from ynet.data.cases import CaseCache
from ynet.data.manifest import read
from ynet.data.synthetic import CLASSES, make_federation
from ynet.learning.dp_sgd import Mechanism
from ynet.learning.model import build
from ynet.learning.train_private import trained
from ynet.plan import Plan
from ynet_lab.attacks import gradient_inversion as inversion
from ynet_lab.attacks import updates
from ynet_lab.attacks.code_inversion import reveal
from ynet_lab.attacks.similarity import match, similarities, ssim, standardised


def drawn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- similarity


def test_ssim_is_the_papers_formula_in_its_only_window() -> None:
    a, b = drawn(2, 1, 11, 11).double().unbind(0)
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    weight = np.outer(line, line) / np.outer(line, line).sum()
    x, y = a[0].numpy(), b[0].numpy()
    mx, my = (weight * x).sum(), (weight * y).sum()
    vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
    cov = (weight * (x - mx) * (y - my)).sum()
    c1, c2 = (0.01 * np.ptp(y)) ** 2, (0.03 * np.ptp(y)) ** 2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    np.testing.assert_allclose(ssim(a, b), expected, rtol=1e-9)


def test_match_finds_each_image_among_others() -> None:
    true = drawn(4, 1, 32, 32)
    assert similarities(true, true).diagonal().tolist() == pytest.approx([1.0] * 4)
    order = [2, 0, 3, 1]
    found = match(standardised(true[order]), true)
    assert [order[position] for position in found.position] == [0, 1, 2, 3]
    assert min(found.ssim) > 0.95
    assert ssim(true[0], true[1]) < 0.2


# --- inversion


def inverted(plan: Plan, cases: CaseSource, noise: float | None) -> inversion.Reconstruction:
    net, true = build(plan), cases.batch(torch.tensor([0]))
    if noise is None:
        seen = inversion.gradient(net, plan, true)
    else:
        seen = updates.private_gradient(net, plan, true, Mechanism(noise, 1.0, 1, 1.0, 1.0))
    others, generator = cases.batch(torch.arange(8, len(cases))).image, torch.Generator().manual_seed(1)
    return inversion.invert(net, plan, seen, true, others, steps=40, generator=generator, on_step=lambda _: None)


def test_an_image_is_seen_in_its_own_gradient_and_not_in_a_private_one(make_plan: Any, tmp_path: Path) -> None:
    """By a network with as many weights for a pixel as this attack needs."""
    make_federation(tmp_path, {"A": 48}, seed=1, size=32)
    plan = make_plan(classes=list(CLASSES), network={"width": 32, "depth": [1, 1, 1, 1]})
    manifest = read(tmp_path / "A/manifest.csv")
    cases = CaseCache(manifest, manifest.train, plan.image, plan.classes, 1 << 24)
    bare, noised = inverted(plan, cases, None), inverted(plan, cases, 1.0)
    floor = max(bare.floor_mean, bare.floor_other)
    assert bare.best > floor + 0.05
    assert noised.best < floor
    assert noised.distance > bare.distance


def test_a_bare_gradient_of_one_image_holds_the_feature_behind_its_code(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(1)
    net = build(plan)
    of = dict(zip(trained(net, plan), inversion.gradient(net, plan, cases.batch(torch.tensor([0]))), strict=True))
    row = int(of["hash.bias"].abs().argmax())
    divided = of["hash.weight"][row] / of["hash.bias"][row]
    expected = reveal(net, cases, torch.device("cpu")).feature[0]
    np.testing.assert_allclose(divided.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_without_noise_a_private_gradient_is_the_clipped_one(make_plan: Any, make_cases: Any) -> None:
    plan, batch = make_plan(), make_cases(3).batch(torch.tensor([1]))
    net = build(plan)
    bare = torch.cat([part.flatten() for part in inversion.gradient(net, plan, batch)])
    quiet = updates.private_gradient(net, plan, batch, Mechanism(0.0, 1.0, 1, 0.5, 1.0))
    flat = torch.cat([part.flatten() for part in quiet])
    torch.testing.assert_close(flat, bare * 0.5 / bare.norm(), rtol=1e-3, atol=1e-5)


def test_a_private_plan_is_shown_with_its_own_privacy_and_another_with_and_without(make_plan: Any) -> None:
    bare = make_plan()
    private, _ = updates.privately(bare, 2, 1.0)
    noised = ["DP, epsilon 1", "DP, epsilon 1, secure sum"]
    assert [one.name for one in updates.protections(private, private)] == noised
    assert [one.name for one in updates.protections(bare, private)] == ["none", "secure sum", *noised]


def test_a_secure_sum_shows_the_mean_update_and_no_other(make_plan: Any, make_cases: Any) -> None:
    plan, cases = make_plan(), make_cases(6)
    net = build(plan)
    batches = [cases.batch(torch.tensor([2 * site, 2 * site + 1])) for site in range(3)]
    summed = updates.securely_summed([inversion.gradient(net, plan, batch) for batch in batches])
    whole = inversion.gradient(net, plan, updates.joined(batches))
    for found, expected in zip(summed, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
