"""The encoders of timm, for the Y-Net: the first file that imports timm.

timm imports torchvision, whose compiled library loads beside a torch of the same kind only (CPU, or a version of CUDA).
Without that library the import of torchvision ends at its first operator, so the two that it registers are declared
here first. No encoder uses an operator of torchvision.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ynet.encoders import EncoderName
from ynet.learning.blocks import norm

_DECLARED = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
try:
    import torchvision  # noqa: F401 (registers its operators)
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for operator in ("nms", "qnms"):
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _DECLARED.define(schema)  # type: ignore[no-untyped-call]

import timm  # noqa: E402 (after torchvision's operators)
from timm.layers import freeze_batch_norm_2d  # noqa: E402

STRIDES = (4, 8, 16, 32)
MEAN, DEVIATION = 0.449, 0.226
"""Mean and standard deviation of ImageNet's pixels, over the three colours."""


class TimmEncoder(nn.Module):
    """An encoder of timm, without its classification head: four feature maps at the strides 4 to 32.

    No norm couples the samples of a batch. Where the weights are pretrained, the norms are constants: running
    statistics, scale and bias are not trained. Otherwise GroupNorm replaces BatchNorm; LayerNorm stays.
    """

    _scale: Tensor
    _offset: Tensor

    def __init__(self, name: EncoderName, *, is_pretrained: bool) -> None:
        super().__init__()
        whole = whole_network(name)
        self._stages, self._is_pretrained = stages(whole), is_pretrained
        whole.prune_intermediate_layers(self._stages, prune_norm=True, prune_head=True)
        if is_pretrained:
            self.net = freeze_batch_norm_2d(whole)
            _freeze_layer_norms(self.net)
        else:
            self.net = whole
            _group_batch_norms(self.net)
        scale, offset = normalisation(whole.pretrained_cfg) if is_pretrained else (torch.ones(3), torch.zeros(3))
        self.register_buffer("_scale", scale.view(3, 1, 1), persistent=False)
        self.register_buffer("_offset", offset.view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "batch channels size size"]) -> list[Float[Tensor, "batch stage h w"]]:
        """Return the feature maps, the largest first. Grey is repeated to three channels.

        Where a pretrained encoder computes no gradients on a CPU, the pixels lie channels last: depthwise convolutions
        then run up to twice as fast (decision 51).
        """
        rgb = image.expand(-1, 3, -1, -1) * self._scale + self._offset
        if self._is_pretrained and rgb.device.type == "cpu" and not torch.is_grad_enabled():
            rgb = rgb.contiguous(memory_format=torch.channels_last)
        maps: list[Tensor] = self.net.forward_intermediates(rgb, indices=self._stages, intermediates_only=True)
        return [h.contiguous() for h in maps]


def whole_network(name: EncoderName) -> Any:
    """Return timm's network for ImageNet, with its classification head and random weights. Downloads nothing."""
    return timm.create_model(name, pretrained=False)


def stages(net: Any) -> list[int]:
    """Return the positions, in timm's list of the network's feature maps, of those at STRIDES."""
    strides = [stage["reduction"] for stage in net.feature_info]
    return [strides.index(stride) for stride in STRIDES]


def normalisation(about: Any) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """Return the scale and offset that turn a standardised image into what the pretrained network expects.

    ynet standardises each image to mean 0 and deviation 1. It gets ImageNet's mean and deviation, then the network's
    own normalisation of ImageNet (`about` is timm's description).
    """
    mean, deviation = torch.tensor(about["mean"], device="cpu"), torch.tensor(about["std"], device="cpu")
    return DEVIATION / deviation, (MEAN - mean) / deviation


def _freeze_layer_norms(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.requires_grad_(False)


def _group_batch_norms(module: nn.Module) -> None:
    """Replace each BatchNorm by a GroupNorm of the same scale and bias, followed by its activation where it has one."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            grouped = norm(child.num_features)
            with torch.no_grad():
                grouped.weight.copy_(child.weight)  # timm initialises the last of a residual branch with 0
                grouped.bias.copy_(child.bias)
            activation = getattr(child, "act", None)
            setattr(module, name, grouped if activation is None else nn.Sequential(grouped, activation))
        else:
            _group_batch_norms(child)
