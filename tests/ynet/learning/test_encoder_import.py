"""The importer of pretrained encoders: names, orders and shapes of timm and torchvision; wrong states are refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ynet.encoders import EncoderName
from ynet.errors import UserError
from ynet.learning.encoder_import import encoder_arrays, read
from ynet.learning.timm_encoder import TimmEncoder, whole_network

State = dict[str, Tensor]
NAME: EncoderName = "resnet18"


def shaken(net: Any) -> Any:
    """Give a network's norms statistics, scales and biases other than 0 and 1."""
    generator = torch.Generator().manual_seed(1)
    for name, values in net.state_dict().items():
        if values.is_floating_point() and values.ndim == 1:
            drawn = torch.rand(values.shape, generator=generator)
            values.copy_(drawn + 0.5 if name.endswith(("weight", "running_var")) else 0.1 * drawn)
    return net.eval()


@pytest.fixture
def state() -> State:
    return dict(shaken(whole_network(NAME)).state_dict())


def loaded(name: EncoderName, arrays: Any) -> TimmEncoder:
    encoder = TimmEncoder(name, is_pretrained=True).eval()
    encoder.net.load_state_dict({one: torch.tensor(array) for one, array in arrays.items()}, strict=True)
    return encoder


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_tiny"])
def test_imported_encoder_computes_what_timms_network_computes(name: EncoderName) -> None:
    whole = shaken(whole_network(name))
    encoder = loaded(name, encoder_arrays(name, whole.state_dict(), is_ordered=True))
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last = whole.forward_intermediates(image * encoder._scale + encoder._offset, intermediates_only=True)[-1]
        torch.testing.assert_close(encoder(image)[-1], last, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("name", "last"), [("resnet18", "layer4"), ("convnext_tiny", "features")])
def test_imported_encoder_computes_what_torchvisions_network_computes(name: EncoderName, last: str) -> None:
    """torchvision has other names for ConvNeXt: its arrays are matched by order."""
    from torchvision import models  # after timm_encoder, which declares operators that it may lack

    whole, seen = shaken(models.get_model(name, weights=None)), list[Tensor]()
    encoder = loaded(name, encoder_arrays(name, whole.state_dict(), is_ordered=True))
    whole.get_submodule(last).register_forward_hook(lambda _, __, output: seen.append(output))
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        whole(image * encoder._scale + encoder._offset)
        torch.testing.assert_close(encoder(image)[-1], seen[0], rtol=1e-3, atol=1e-3)


def renamed(state: State) -> State:
    return {f"_{name.replace('layer', 'stage')}": values for name, values in state.items()}


def test_other_names_in_the_networks_order_are_matched(state: State) -> None:
    by_name, by_order = (encoder_arrays(NAME, one, is_ordered=True) for one in (state, renamed(state)))
    assert list(by_name) == list(by_order)
    assert all((by_name[name] == by_order[name]).all() for name in by_name)


def test_head_may_be_absent_or_of_another_size(state: State) -> None:
    without = {name: values for name, values in state.items() if not name.startswith("fc.")}
    other = {**without, "fc.weight": torch.zeros(3, 512), "fc.bias": torch.zeros(3)}
    expected = encoder_arrays(NAME, state, is_ordered=True)
    for one in (without, other, renamed(without), renamed(other)):
        found = encoder_arrays(NAME, one, is_ordered=True)
        assert all((found[name] == expected[name]).all() for name in expected)


def lacking(state: State) -> State:
    return {name: values for name, values in state.items() if name != "layer2.0.conv1.weight"}


def swapped(state: State) -> State:
    """Exchange two arrays whose shapes agree, in the order of a renamed state."""
    items = list(renamed(state).items())
    place = next(at for at, (name, _) in enumerate(items) if name.endswith("bn1.weight"))
    items[place], items[place + 1] = items[place + 1], items[place]
    return dict(items)


def negative(state: State) -> State:
    return {**state, "bn1.running_var": -torch.ones(64)}


WRONG: dict[str, tuple[Callable[[State], State], str]] = {
    "lacking": (lacking, "no 'layer2.0.conv1.weight'"),
    "shape": (lambda state: {**state, "conv1.weight": torch.zeros(64, 1, 7, 7)}, "shape"),
    "more": (lambda state: {**state, "layer1.0.se.weight": torch.zeros(4)}, "no 'layer1.0.se.weight'"),
    "not finite": (lambda state: {**state, "bn1.bias": torch.full((64,), torch.nan)}, "cannot be"),
    "negative variance": (negative, "cannot be"),
    "whole numbers": (lambda state: {**state, "bn1.bias": torch.zeros(64, dtype=torch.int64)}, "int64"),
    "other order": (swapped, "stands where"),
    "too few": (lambda state: dict(list(renamed(state).items())[:-30]), "arrays"),
    "nothing": (lambda _: {}, "arrays"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_state_of_another_network_is_refused(kind: str, state: State) -> None:
    change, why = WRONG[kind]
    with pytest.raises(UserError, match="are not those of resnet18") as raised:
        encoder_arrays(NAME, change(state), is_ordered=True)
    assert why in raised.value.why


def test_other_names_without_order_are_refused(state: State) -> None:
    with pytest.raises(UserError, match="are not those of resnet18"):
        encoder_arrays(NAME, renamed(state), is_ordered=False)


def test_half_precision_is_read_as_float32(state: State) -> None:
    half = {name: values.half() if values.is_floating_point() else values for name, values in state.items()}
    found = encoder_arrays(NAME, half, is_ordered=True)
    assert {str(array.dtype) for array in found.values()} == {"float32"}


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_file_of_torch_is_read_with_its_wrapper(wrapper: str | None, state: State, tmp_path: Path) -> None:
    torch.save({wrapper: state} if wrapper else state, tmp_path / "a.pth")
    found, is_ordered = read(tmp_path / "a.pth")
    assert list(found) == list(state)
    assert is_ordered


def test_safetensors_file_is_read_by_names_alone(state: State, tmp_path: Path) -> None:
    save_file(state, tmp_path / "a.safetensors")
    found, is_ordered = read(tmp_path / "a.safetensors")
    assert set(found) == set(state)
    assert not is_ordered


class Object:
    """What a pickle could run code for."""


def test_file_with_more_than_arrays_is_refused(tmp_path: Path) -> None:
    for number, held in enumerate(({"net": Object()}, [1, 2], {"a": 1.0})):
        torch.save(held, tmp_path / f"{number}.pth")
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path / f"{number}.pth")
    for suffix in ("pth", "safetensors"):
        (tmp_path / f"b.{suffix}").write_bytes(b"no weights")
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path / f"b.{suffix}")
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path / f"absent.{suffix}")
