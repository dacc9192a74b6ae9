"""The network: its shapes, its independence of the batch, its weights."""

from typing import Any

import numpy as np
import pytest
import torch
from opacus import GradSampleModule
from opacus.validators import ModuleValidator

from ynet.errors import UserError
from ynet.learning.losses import CODE_LOSSES, loss_of
from ynet.learning.model import arrays_of, build, load_arrays

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
        if name.startswith("moment_code."):
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
