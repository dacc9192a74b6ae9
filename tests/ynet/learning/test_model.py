"""The network: its shapes, its independence of the batch, its weights."""

from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator

from ynet.errors import UserError
from ynet.fixed_arrays import CODE
from ynet.learning.losses import CODE_LOSSES, loss_of
from ynet.learning.model import FAINT, arrays_of, build, layout_of_plan, lesion_means, load_arrays, moments
from ynet.learning.per_patient_gradients import PatientGradients
from ynet.network_size import network_values

CPU = torch.device("cpu")


@pytest.mark.parametrize("recipe", sorted(CODE_LOSSES))
@pytest.mark.parametrize(("channels", "size", "bits"), [(1, 32, 32), (3, 64, 128)])
def test_a_mask_of_the_images_size_and_a_signed_code_come_out(
    recipe: str, channels: int, size: int, bits: int, make_plan: Any
) -> None:
    plan = make_plan(recipe=recipe, image={"channels": channels, "size": size}, network={"code_bits": bits})
    output = build(plan)(torch.randn(4, channels, size, size))
    assert output.mask_logits.shape == (4, 1, size, size)
    assert output.code.shape == (4, bits)
    assert (output.code > 0).any()
    assert (output.code < 0).any()


def test_what_a_sample_gives_does_not_depend_on_the_rest_of_its_batch(make_plan: Any) -> None:
    net, images = build(make_plan()).train(), torch.randn(6, 1, 32, 32)
    with torch.no_grad():
        together, alone = net(images), net(images[2:3])
    torch.testing.assert_close(together.code[2:3], alone.code, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.mask_logits[2:3], alone.mask_logits, rtol=1e-4, atol=1e-5)


def test_every_site_builds_the_same_weights_from_a_plan_and_its_own_random_numbers_go_on(make_plan: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = arrays_of(build(make_plan())), arrays_of(build(make_plan()))
    assert torch.equal(torch.rand(1), expected)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    other = arrays_of(build(make_plan(training={"seed": 2})))
    assert not np.array_equal(one["hash.weight"], other["hash.weight"])


def test_weights_are_float32_parameters_and_nothing_else(make_plan: Any) -> None:
    net = build(make_plan())
    assert not list(net.buffers())
    assert {array.dtype for array in arrays_of(net).values()} == {np.dtype("float32")}


def test_weights_go_out_and_in_again(make_plan: Any) -> None:
    plan = make_plan()
    other = build(make_plan(training={"seed": 9}))
    load_arrays(other, arrays_of(build(plan)))
    assert all(
        np.array_equal(a, b) for a, b in zip(arrays_of(other).values(), arrays_of(build(plan)).values(), strict=True)
    )


def test_weights_of_another_network_or_not_finite_are_refused_and_change_nothing(make_plan: Any) -> None:
    net = build(make_plan())
    before = arrays_of(net)
    good = {name: array + 1 for name, array in before.items()}
    for bad in (
        {**good, "extra": np.zeros(1, np.float32)},
        {name: array for name, array in good.items() if name != "hash.bias"},
        {**good, "hash.bias": np.zeros(3, np.float32)},
        {**good, "hash.bias": np.full_like(good["hash.bias"], np.nan)},
        {**good, "hash.bias": np.full_like(good["hash.bias"], -np.inf)},
        {**good, "hash.bias": np.full(32, 1e300)},  # finite in double precision alone
    ):
        with pytest.raises(UserError):
            load_arrays(net, bad)
        assert all(np.array_equal(array, before[name]) for name, array in arrays_of(net).items())


@pytest.mark.parametrize("recipe", sorted(CODE_LOSSES))
def test_every_parameter_but_those_of_the_code_from_moments_learns_and_the_core_node_from_both_branches(
    recipe: str, make_plan: Any, make_cases: Any
) -> None:
    """The paper's public code gives its hash layer no gradient."""
    plan = make_plan(recipe=recipe, image={"size": 64})
    net, batch = build(plan), make_cases(6, size=64).batch(torch.arange(6))
    parts = loss_of(plan, CPU)(net(batch.image), batch)
    core = net.get_parameter("stages.3.1.second.weight")
    for part in (parts.classification, parts.segmentation):
        (gradient,) = torch.autograd.grad(part.sum(), core, retain_graph=True)
        assert gradient.norm() > 0
    parts.total.sum().backward()
    for name, parameter in net.named_parameters():
        if name.startswith(CODE):
            assert not parameter.requires_grad, name
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.norm() > 0, name


@pytest.mark.filterwarnings("ignore")  # opacus' own, of torch's hooks
def test_per_sample_gradients_are_those_of_one_sample_at_a_time(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan()
    batch = make_cases(3).batch(torch.arange(3))
    assert not ModuleValidator.validate(build(plan), strict=False)
    loss = loss_of(plan, CPU)
    wrapped = GradSampleModule(build(plan), loss_reduction="sum")
    loss(wrapped(batch.image), batch).total.sum().backward()
    for sample in range(3):
        net = build(plan)
        one = type(batch)(*(part[sample : sample + 1] for part in batch))
        loss(net(one.image), one).total.sum().backward()
        for (name, alone), together in zip(net.named_parameters(), wrapped.parameters(), strict=True):
            if not alone.requires_grad:
                continue
            torch.testing.assert_close(together.grad_sample[sample], alone.grad, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("recipe", ["default", "paper"])
def test_network_with_several_regions_has_channel_for_each(recipe: str, make_plan: Any) -> None:
    plan = make_plan(recipe=recipe, regions=["disc", "cup", "rim"])
    net = build(plan)
    assert net(torch.randn(4, 1, 32, 32)).mask_logits.shape == (4, 3, 32, 32)
    assert net.read(torch.randn(4, 1, 32, 32)).mask_logits.shape == (4, 3, 32, 32)
    assert sum(array.size for array in arrays_of(net).values()) == network_values(plan)


def test_feature_is_pooled_over_each_region() -> None:
    maps = [torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)]
    logits = torch.full((2, 2, 8, 8), -40.0)
    logits[:, 0, :4], logits[:, 1, 4:] = 40.0, 40.0
    both, first, second = (
        lesion_means(maps, logits),
        lesion_means(maps, logits[:, :1]),
        lesion_means(maps, logits[:, 1:]),
    )
    torch.testing.assert_close(both, torch.cat([first, second], 1))
    torch.testing.assert_close(first[:, :4], maps[0][:, :, :4].mean((2, 3)) / (1 + 2 * FAINT))
    place = moments(logits.sigmoid())
    torch.testing.assert_close(
        place, torch.cat([moments(logits[:, :1].sigmoid()), moments(logits[:, 1:].sigmoid())], 1)
    )
    assert place[0, 0] < 0 < place[0, 6]  # the centres' rows


def test_plan_without_regions_has_the_arrays_of_before(make_plan: Any) -> None:
    shapes = {entry.name: entry.shape for entry in layout_of_plan(make_plan())}
    assert shapes["segmentation.logit.weight"] == (1, 32, 1, 1)
    assert shapes["place.first.weight"] == (32, 6)
    assert shapes["hash.weight"] == (32, 2 * 64 + 8 + 16 + 32 + 64)


def test_per_patient_gradients_exist_with_several_regions(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(regions=["disc", "cup"])
    net, batch = build(plan), make_cases(2, regions=2).batch(torch.arange(2))
    parameters = [one for one in net.parameters() if one.requires_grad]
    loss = lambda: loss_of(plan, CPU)(net(batch.image), batch).total  # noqa: E731
    each = PatientGradients(net, parameters)(2, loss)
    loss().sum().backward()
    for gradient, parameter in zip(each, parameters, strict=True):
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient.sum(torch.ones(2)).view_as(expected), expected, rtol=1e-3, atol=1e-5)
