"""The recipes' losses."""

from typing import Any

import numpy as np
import pytest
import torch

from ynet.hashing import codebook
from ynet.losses import circle, default_loss, ortho_hash, paper_loss, soft_dice
from ynet.model import build

CPU = torch.device("cpu")


def test_the_default_loss_is_a_sum_over_samples_and_the_papers_is_not(make_plan: Any, make_cases: Any) -> None:
    batch = make_cases(6).batch(torch.arange(6))
    rest = type(batch)(*(part[:5] for part in batch))
    for make, is_sum in ((default_loss, True), (paper_loss, False)):
        plan = make_plan()
        net, loss = build(plan), make(plan, CPU)
        whole, without = loss(net(batch.image), batch).total, loss(net(rest.image), rest).total
        assert torch.allclose(whole[:5], without, rtol=1e-4) is is_sum


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


def test_dice_is_per_image_and_two_empty_masks_agree() -> None:
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, 0, :2] = 1
    logits = torch.where(mask > 0, 40.0, -40.0)
    torch.testing.assert_close(soft_dice(logits, mask), torch.ones(2))
    assert soft_dice(-logits, mask)[0] < 0.1


def test_a_class_weight_multiplies_the_classification_of_its_class_alone(make_plan: Any, make_cases: Any) -> None:
    batch = make_cases(6).batch(torch.arange(6))
    plain, weighted = make_plan(), make_plan(training={"class_weights": [1.0, 5.0, 1.0]})
    output = build(plain)(batch.image)
    one, other = default_loss(plain, CPU)(output, batch), default_loss(weighted, CPU)(output, batch)
    expected = torch.where(batch.label == 1, 5.0, 1.0)
    torch.testing.assert_close(other.classification, one.classification * expected)
    torch.testing.assert_close(other.segmentation, one.segmentation)
