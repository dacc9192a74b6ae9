"""Per-patient gradients of the layers that timm's encoders have besides torch's."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from ynet.learning import timm_encoder  # noqa: F401 (it declares operators that timm's import needs)
from ynet.learning.per_patient_gradients import Recorded, Recorder, convolution, hooked, repeated

# isort: split
from timm.layers import Conv2dSame, LayerNorm, LayerNorm2d
from timm.layers.padding import pad_same
from timm.models.convnext import ConvNeXtBlock


def _padded_convolution(layer: Any, x: Float[Tensor, "rows in h w"], recorder: Recorder) -> Tensor:
    """Pad as TensorFlow does, then run a convolution without padding."""
    padded: Tensor = pad_same(x, layer.kernel_size, layer.stride, layer.dilation)
    return convolution(layer, padded, recorder)


def _layer_norm(layer: Any, x: Float[Tensor, "rows ... channels"], recorder: Recorder) -> Tensor:
    """Run a LayerNorm over the last dimension, with a separate scale and bias for each row."""
    shape = (len(x), *(1 for _ in x.shape[1:-1]), x.shape[-1])
    weight, bias = (repeated(part, len(x), recorder).view(shape) for part in (layer.weight, layer.bias))
    return torch.addcmul(bias, F.layer_norm(x, layer.normalized_shape, eps=layer.eps), weight)


def _layer_norm_of_maps(layer: Any, x: Float[Tensor, "rows channels h w"], recorder: Recorder) -> Tensor:
    return _layer_norm(layer, x.permute(0, 2, 3, 1), recorder).permute(0, 3, 1, 2)


def _scaled_block(layer: Any, x: Float[Tensor, "rows channels h w"], recorder: Recorder) -> Tensor:
    """Run a ConvNeXt block, and record the gradient of the scale of its branch: its only parameter of its own.

    The branch is added to the shortcut, so the gradient of the scaled branch is that of the block's output.
    """
    if layer.use_conv_mlp or not isinstance(layer.drop_path, nn.Identity):
        raise TypeError(f"per-patient gradients are not supported: {layer} is an unknown form of ConvNeXt's block")
    branch: list[Tensor] = []
    with layer.mlp.register_forward_hook(lambda _module, _inputs, output: branch.append(output)):
        y = ConvNeXtBlock.forward(layer, x)

    def record(unscaled: Float[Tensor, "rows h w channels"], gradient: Float[Tensor, "rows channels h w"]) -> None:
        recorder.put(layer.gamma, (unscaled.permute(0, 3, 1, 2) * gradient).sum((2, 3)))

    return hooked(y, branch[0], record)


TIMM_LAYERS: Mapping[type, Recorded] = {
    Conv2dSame: _padded_convolution,
    LayerNorm: _layer_norm,
    LayerNorm2d: _layer_norm_of_maps,
    ConvNeXtBlock: _scaled_block,
}
"""The recorded forward of each kind of layer of timm that has parameters of its own."""
