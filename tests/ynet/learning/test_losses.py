"""The recipes' losses."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (as everybody calls it)

from ynet.learning.hashing import codebook
from ynet.learning.losses import CODE_LOSSES, bce, circle, loss_of, ortho_hash, soft_dice
from ynet.learning.model import build

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("recipe", "is_sum"),
    [("default", True), ("csq", True), ("plain", True), ("paper", False), ("circle", False), ("dpsh", False)],
)
@pytest.mark.parametrize("missing", [0, 3, 5])
def test_a_sample_less_changes_a_loss_by_its_own_or_by_more_where_samples_are_compared(
    recipe: str, is_sum: bool, missing: int, make_plan: Any, make_cases: Any
) -> None:
    """What DP-SGD needs: one sample's influence is its own term."""
    plan = make_plan(recipe=recipe)
    net, loss = build(plan), loss_of(plan, CPU)
    batch = make_cases(6).batch(torch.arange(6))
    rest = batch._replace(**{name: _without(part, missing) for name, part in batch._asdict().items()})
    whole, without = loss(net(batch.image), batch).total, loss(net(rest.image), rest).total
    assert torch.allclose(whole.sum() - whole[missing], without.sum(), rtol=1e-4) is is_sum


def test_a_total_is_its_parts_in_the_recipes_shares(make_plan: Any, make_cases: Any) -> None:
    batch = make_cases(6).batch(torch.arange(6))
    for recipe, shares in (("default", (1.0, 0.3)), ("paper", (0.5, 0.5))):
        plan = make_plan(recipe=recipe, training={"segmentation_weight": 0.3})
        parts = loss_of(plan, CPU)(build(plan)(batch.image), batch)
        torch.testing.assert_close(parts.total, shares[0] * parts.classification + shares[1] * parts.segmentation)


def test_paper_without_segmentation_learns_from_the_code_alone(make_plan: Any, make_cases: Any) -> None:
    batch = make_cases(6).batch(torch.arange(6))
    plan = make_plan(recipe="paper", training={"without": "segmentation"})
    net = build(plan)
    parts = loss_of(plan, CPU)(net(batch.image), batch)
    torch.testing.assert_close(parts.total, 0.5 * parts.classification)
    parts.total.mean().backward()
    assert not any(one.grad.any() for one in net.segmentation.parameters())
    assert net.stages[0][0].first.weight.grad.any()


def test_paper_without_circle_loss_trains_a_classifier_on_the_code(make_plan: Any, make_cases: Any) -> None:
    batch = make_cases(6).batch(torch.arange(6))
    plan = make_plan(recipe="paper", training={"without": "circle"})
    output = build(plan)(batch.image)
    parts = loss_of(plan, CPU)(output, batch)
    torch.testing.assert_close(
        parts.classification, F.cross_entropy(output.class_logits, batch.label, reduction="none")
    )
    torch.testing.assert_close(parts.total, 0.5 * parts.classification + 0.5 * parts.segmentation)


def test_paper_without_rmac_pools_the_maximum_and_the_mean(make_plan: Any) -> None:
    full, without = (build(make_plan(recipe="paper", training={"without": part})).pooled for part in ("none", "rmac"))
    assert without.features == 2 * full.features
    assert full(torch.rand(2, full.conv.in_channels, 4, 4)).norm(dim=1).tolist() == pytest.approx([1, 1])
    h = torch.rand(2, without.conv.in_channels, 4, 4)
    shown = F.relu(without.conv_norm(without.conv(h)))
    torch.testing.assert_close(without(h), torch.cat([shown.amax((2, 3)), shown.mean((2, 3))], 1))


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_a_mask_that_nobody_has_drawn_takes_no_part_and_its_class_does(
    recipe: str, make_plan: Any, make_cases: Any
) -> None:
    plan = make_plan(recipe=recipe)
    net, batch = build(plan), make_cases(6).batch(torch.arange(6))
    unknown = batch._replace(drawn=torch.tensor([[True], [False], [True], [True], [False], [True]]))
    whole, parts = (loss_of(plan, CPU)(net(one.image), one) for one in (batch, unknown))
    assert parts.segmentation[[1, 4]].tolist() == [0, 0]
    torch.testing.assert_close(parts.segmentation[[0, 2, 3, 5]], whole.segmentation[[0, 2, 3, 5]])
    torch.testing.assert_close(parts.classification, whole.classification)


def test_ortho_hash_is_softmax_cross_entropy_with_a_margin_for_the_own_class() -> None:
    code, targets = torch.randn(4, 32), codebook(3, 32, 1)
    label = torch.tensor([0, 1, 2, 1])
    for i in range(4):
        cosine = [float(code[i] @ target / code[i].norm() / target.norm()) for target in targets]
        logits = np.array([8 * (c - 0.2 * (k == int(label[i]))) for k, c in enumerate(cosine)])
        expected = np.log(np.exp(logits).sum()) - logits[int(label[i])]
        assert float(ortho_hash(code, label, targets)[i]) == pytest.approx(expected, rel=1e-4)


def test_circle_loss_is_the_papers_formula() -> None:
    code, label = torch.randn(5, 16), torch.tensor([0, 0, 1, 1, 1])
    unit = (code / code.norm(dim=1, keepdim=True)).numpy().astype(float)
    similarity = unit @ unit.T
    for i in range(5):
        positive = [similarity[i, j] for j in range(5) if j != i and label[j] == label[i]]
        negative = [similarity[i, j] for j in range(5) if label[j] != label[i]]
        sum_p = sum(np.exp(-32 * max(1 + 0.25 - s, 0) * (s - 0.75)) for s in positive)
        sum_n = sum(np.exp(32 * max(s + 0.25, 0) * (s - 0.25)) for s in negative)
        assert float(circle(code, label)[i]) == pytest.approx(np.log1p(sum_n * sum_p), rel=1e-4)


def test_a_batch_of_one_class_has_a_finite_circle_loss() -> None:
    assert torch.isfinite(circle(torch.randn(3, 16), torch.zeros(3, dtype=torch.int64))).all()
    assert torch.isfinite(circle(torch.randn(1, 16), torch.zeros(1, dtype=torch.int64))).all()


def test_two_cases_of_one_class_attract_each_other_even_where_it_has_no_lesion(make_plan: Any) -> None:
    """The paper's public code counts two normal cases as a negative pair."""
    code = torch.tensor([[1.0, 0.1], [0.1, 1.0], [-1.0, -1.0]], requires_grad=True)
    circle(code, torch.tensor([0, 0, 1])).sum().backward()
    assert code.grad is not None
    moved = code.detach() - 0.01 * code.grad
    assert F.cosine_similarity(moved[:1], moved[1:2]) > F.cosine_similarity(code[:1], code[1:2])


def test_the_papers_segmentation_loss_is_the_mean_cross_entropy_of_an_images_pixels() -> None:
    logits, mask = torch.randn(3, 1, 4, 4), (torch.rand(3, 1, 4, 4) > 0.5).float()
    share = 1 / (1 + np.exp(-logits.double().numpy()))
    true = mask.double().numpy()
    expected = -(true * np.log(share) + (1 - true) * np.log(1 - share)).mean((2, 3))
    np.testing.assert_allclose(bce(logits, mask).numpy(), expected, rtol=1e-5)


def test_soft_dice_of_hard_masks_is_dice_but_for_the_one_that_empty_masks_need() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    predicted = mask.clone()
    mask[..., :4, :], predicted[..., 2:6, :] = 1, 1  # 32 pixels each, 16 in both
    assert float(soft_dice(80 * predicted - 40, mask)) == pytest.approx((2 * 16 + 1) / (32 + 32 + 1))


def test_dice_is_per_image_and_two_empty_masks_agree() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    logits = torch.where(mask > 0, 40.0, -40.0)
    torch.testing.assert_close(soft_dice(logits, mask), torch.ones(2, 1))
    assert soft_dice(-logits, mask)[0] < 0.1


def test_a_class_weight_multiplies_the_classification_of_its_class_alone(make_plan: Any, make_cases: Any) -> None:
    batch = make_cases(6).batch(torch.arange(6))
    plain, weighted = make_plan(), make_plan(training={"class_weights": [1.0, 5.0, 1.0]})
    output = build(plain)(batch.image)
    output = output._replace(class_logits=output.code[:, :3])
    for recipe in CODE_LOSSES:
        one, other = (
            loss_of(dataclasses.replace(plan, recipe=recipe), CPU)(output, batch) for plan in (plain, weighted)
        )
        expected = torch.where(batch.label == 1, 5.0, 1.0)
        torch.testing.assert_close(other.classification, one.classification * expected)
        torch.testing.assert_close(other.segmentation, one.segmentation)


def test_ortho_hash_turns_a_code_towards_its_target_whatever_its_length() -> None:
    targets, label = codebook(3, 32, 1), torch.tensor([0, 1, 2, 2])
    code = torch.randn(4, 32, requires_grad=True)
    loss = ortho_hash(code, label, targets)
    torch.testing.assert_close(ortho_hash(9 * code, label, targets), loss)
    loss.sum().backward()
    assert code.grad is not None
    moved = code.detach() - 0.1 * code.grad
    assert (F.cosine_similarity(moved, targets[label]) > F.cosine_similarity(code, targets[label])).all()


def _without(part: torch.Tensor, position: int) -> torch.Tensor:
    return torch.cat([part[:position], part[position + 1 :]])


def test_loss_with_several_regions_is_mean_over_regions_without_unknown_ones(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(regions=["disc", "cup"])
    net, batch = build(plan), make_cases(4, regions=2).batch(torch.arange(4))
    output = net(batch.image)
    whole = loss_of(plan, CPU)(output, batch).segmentation
    one_by_one = [
        loss_of(plan, CPU)(output, batch._replace(drawn=batch.drawn & torch.arange(2).eq(place))).segmentation
        for place in range(2)
    ]
    torch.testing.assert_close(whole, one_by_one[0] + one_by_one[1])
    own = output._replace(mask_logits=output.mask_logits[:, 1:])
    alone = loss_of(make_plan(), CPU)(
        own, batch._replace(mask=batch.mask[:, 1:], drawn=batch.drawn[:, 1:])
    ).segmentation
    torch.testing.assert_close(one_by_one[1], alone / 2)
