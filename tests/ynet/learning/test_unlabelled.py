"""Cases that nobody has labelled: they train the mask, and no class; what is said of classes does not move."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ynet.data.batch import UNLABELLED, Batch
from ynet.data.subset import Subset
from ynet.errors import UserError
from ynet.learning.code_moments import GalleryEncoder, fit
from ynet.learning.dp_sgd import Mechanism, Patients
from ynet.learning.evaluate import by_radius, encode, floors, join, map10_per_class, score
from ynet.learning.losses import CODE_LOSSES, Parts, loss_of
from ynet.learning.model import arrays_of, build
from ynet.learning.train import GRADIENT_NORM, train
from ynet.learning.train_private import train_privately, trained

CPU = torch.device("cpu")
UNKNOWN = (1, 4)
KNOWN = (0, 2, 3, 5)
CLASS_SCORES = ("map10", "macro_map10", "macro_hr10", "macro_rr10", "balanced_accuracy", "ranked")


def partly_labelled(cases: Any, unlabelled: Any = UNKNOWN) -> Any:
    cases.label[list(unlabelled)] = UNLABELLED
    return cases


def parts_of(plan: Any, net: nn.Module, batch: Batch) -> Parts:
    return loss_of(plan, CPU)(net(batch.image), batch)


@pytest.mark.parametrize("recipe", list(CODE_LOSSES))
def test_case_without_label_has_loss_of_its_mask_alone(recipe: str, make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(recipe=recipe)
    net, batch = build(plan), make_cases(6).batch(torch.arange(6))
    other = batch._replace(label=torch.where(torch.tensor([i in UNKNOWN for i in range(6)]), UNLABELLED, batch.label))
    whole, found = parts_of(plan, net, batch), parts_of(plan, net, other)
    assert found.classification[list(UNKNOWN)].tolist() == [0, 0]
    torch.testing.assert_close(found.segmentation, whole.segmentation)


@pytest.mark.parametrize("recipe", list(CODE_LOSSES))
def test_code_loss_of_labelled_cases_is_that_of_a_batch_without_the_others(
    recipe: str, make_plan: Any, make_cases: Any
) -> None:
    plan = make_plan(recipe=recipe)
    net = build(plan).eval()  # norms see one image at a time
    batch = partly_labelled(make_cases(6)).batch(torch.arange(6))
    rest = Batch(*(part[list(KNOWN)] for part in batch))
    found, alone = parts_of(plan, net, batch), parts_of(plan, net, rest)
    torch.testing.assert_close(found.classification[list(KNOWN)], alone.classification)


@pytest.mark.parametrize("recipe", list(CODE_LOSSES))
def test_batch_without_any_label_has_finite_gradients(recipe: str, make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(recipe=recipe)
    net, batch = build(plan), partly_labelled(make_cases(6), range(6)).batch(torch.arange(6))
    parts = parts_of(plan, net, batch)
    parts.total.mean().backward()
    assert parts.classification.tolist() == [0] * 6
    assert all(one.grad is None or one.grad.isfinite().all() for one in net.parameters())
    assert not net.hash.weight.grad.any()


def test_training_is_that_in_which_the_class_loss_of_unlabelled_cases_has_weight_zero(
    make_plan: Any, make_cases: Any
) -> None:
    plan, labelled = make_plan(), make_cases(20)
    weight = torch.ones(20)
    weight[[3, 7, 8, 15]] = 0
    net, generator = build(plan), torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=plan.training.weight_decay)
    for positions in torch.split(torch.randperm(20, generator=generator), plan.training.batch_size):
        optimizer.zero_grad()
        parts = parts_of(plan, net, labelled.batch(positions))
        (parts.total - (1 - weight[positions]) * parts.classification).mean().backward()
        nn.utils.clip_grad_norm_(net.parameters(), GRADIENT_NORM)
        optimizer.step()
    found, cases = build(plan), partly_labelled(make_cases(20), [3, 7, 8, 15])
    result = train(found, cases, plan, 1, device=CPU, generator=torch.Generator().manual_seed(1))
    assert result.images == 20
    for name, array in arrays_of(net).items():
        np.testing.assert_allclose(arrays_of(found)[name], array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("trains_code", [True, False])
def test_private_gradient_of_unlabelled_patient_is_that_of_the_mask(
    trains_code: bool, make_plan: Any, make_cases: Any
) -> None:
    private = {"mode": "patient", "epsilon": 8.0, "delta": 1e-3}
    plan = make_plan(privacy=private, training={"weight_decay": 0.0})
    cases = partly_labelled(make_cases(4), [0, 3] if trains_code else range(4))
    net, plain = build(plan), build(plan)
    loud = Mechanism(1e-12, 1.0, 1, 1e6, 4.0)  # all but no noise, all patients, nothing clipped
    patients = Patients([f"p{position}" for position in range(4)])
    result = train_privately(net, cases, patients, plan, 1, loud, device=CPU)
    parts_of(plan, plain, cases.batch(torch.arange(4))).total.mean().backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in trained(plain, plan).values()])
    found = torch.tensor(result.moments.first) / 0.1  # AdamW's first moment after one step
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-4)
    assert bool(plain.hash.weight.grad.any()) is trains_code


# --- scores


def test_unlabelled_cases_do_not_move_scores_of_classes(make_plan: Any, make_cases: Any) -> None:
    plan, net = make_plan(), build(make_plan())
    held, asked = encode(net, make_cases(30), CPU), encode(net, make_cases(9, seed=2), CPU)
    more = encode(net, make_cases(12, seed=3), CPU)._replace(label=np.full(12, UNLABELLED))
    one, other = score(held, asked, plan), score(join([held, more]), join([asked, more]), plan)
    for name in (*CLASS_SCORES, "macro_map10_random", "macro_map10_majority", "queries_per_class", "gallery_per_class"):
        assert getattr(other, name) == pytest.approx(getattr(one, name)), name
    assert (other.queries, other.gallery) == (one.queries + 12, one.gallery + 12)
    assert map10_per_class(join([held, more]), asked, plan.classes) == map10_per_class(held, asked, plan.classes)
    assert by_radius(join([held, more]), asked, 16) == by_radius(held, asked, 16)


def test_unlabelled_cases_take_part_in_case_likeness_dice_and_ties(make_plan: Any, make_cases: Any) -> None:
    plan, net = make_plan(), build(make_plan())
    gallery, queries = partly_labelled(make_cases(30), range(30)), partly_labelled(make_cases(8, seed=2), range(8))
    queries.patient[:] = torch.arange(8) % 4
    found = score(encode(net, gallery, CPU), encode(net, queries, CPU), plan)
    assert (found.ranked, found.macro_map10, found.balanced_accuracy) == (0, None, None)
    assert set(found.queries_per_class.values()) == {0}
    assert (found.siblings, found.likened, found.masks) == (8, 8, 8)
    assert None not in (found.case_hit10, found.mask_likeness, found.dice, found.median_tie10)


def test_floors_of_unlabelled_galleries_are_none() -> None:
    nobody = np.full(4, UNLABELLED)
    for held, asked in ((nobody, nobody), (nobody, np.arange(3)), (np.arange(3), nobody)):
        assert set(floors(held, asked)["majority"].values()) == {None}


# --- the code from moments


def test_code_of_a_class_does_not_move_with_unlabelled_cases(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(network={"code": "moments"})
    cases, net = make_cases(24), build(make_plan(network={"code": "moments"}))
    with_more = partly_labelled(make_cases(24), range(16, 24))
    some, all_ = (
        GalleryEncoder().moments(net, Subset(cases, torch.arange(16)), plan, CPU),
        GalleryEncoder().moments(net, with_more, plan, CPU),
    )
    for name in ("cases", "total", "products"):
        np.testing.assert_allclose(getattr(all_, name), getattr(some, name), rtol=1e-5, atol=1e-6)
    assert all_.repeats >= some.repeats
    fit(net, plan, [all_])
    assert all(np.isfinite(array).all() for array in arrays_of(net).values())


def test_code_from_moments_of_unlabelled_cases_alone_is_refused(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(network={"code": "moments"})
    net, cases = build(plan), partly_labelled(make_cases(6), range(6))
    with pytest.raises(UserError, match="no site has a training case with a label"):
        fit(net, plan, [GalleryEncoder().moments(net, cases, plan, CPU)])


def test_count_of_queries_is_told_whole_and_by_class_without_unlabelled(make_plan: Any, make_cases: Any) -> None:
    plan, net = make_plan(), build(make_plan())
    queries = partly_labelled(make_cases(8, seed=2))
    found = score(encode(net, make_cases(20), CPU), encode(net, queries, CPU), plan)
    assert found.queries == 8
    assert sum(found.queries_per_class.values()) == 6
