"""The encoders that a plan can name, and the size of each, told without torch."""

import re
from collections.abc import Collection, Mapping
from typing import Literal, NamedTuple

EncoderName = Literal[
    "ynet",
    "resnet18",
    "resnet34",
    "resnet50",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite1",
    "tf_efficientnet_lite2",
    "efficientnet_b0",
    "densenet121",
    "convnext_tiny",
]
OWN: EncoderName = "ynet"
"""The encoder of `network.width`, `network.depth` and `network.block`."""

PREFIX = "encoder.net."
"""In the network, the names of a timm encoder's arrays are timm's names after this prefix."""

MOST_POOLED = 512
"""Most channels of the classification branch's convolution after a timm encoder, the paper's number. With ResNet-50's
2,048 channels on both sides, that convolution alone would have 38 million weights."""


class Encoder(NamedTuple):
    """The size of a timm encoder without its classification head."""

    channels: tuple[int, int, int, int]  # of the feature maps at strides 4, 8, 16 and 32
    parameters: int
    normed: int  # channels of all batch norms; each has a running mean and a running variance

    def values(self, *, is_pretrained: bool) -> int:
        """Return the number of values in its arrays; only a pretrained encoder keeps running statistics."""
        return self.parameters + (2 * self.normed if is_pretrained else 0)


ENCODERS: Mapping[EncoderName, Encoder] = {
    "resnet18": Encoder((64, 128, 256, 512), 11_176_512, 4_800),
    "resnet34": Encoder((64, 128, 256, 512), 21_284_672, 8_512),
    "resnet50": Encoder((256, 512, 1024, 2048), 23_508_032, 26_560),
    "tf_efficientnet_lite0": Encoder((24, 40, 112, 320), 2_958_848, 19_728),
    "tf_efficientnet_lite1": Encoder((24, 40, 112, 320), 3_723_520, 25_552),
    "tf_efficientnet_lite2": Encoder((24, 48, 120, 352), 4_357_952, 27_768),
    "efficientnet_b0": Encoder((24, 40, 112, 320), 3_595_388, 19_728),
    "densenet121": Encoder((256, 512, 1024, 1024), 6_953_856, 41_824),
    "convnext_tiny": Encoder((96, 192, 384, 768), 27_818_592, 0),
}
"""The encoders of timm, by timm's names. A test compares each with the network that timm builds."""


_LAYER_NORMS: Mapping[EncoderName, re.Pattern[str]] = {
    "convnext_tiny": re.compile(r"(^stem\.1|\.downsample\.0|\.norm)\.(weight|bias)$"),
}
"""Names of the arrays of LayerNorms, which have no running statistics."""


def constants(encoder: EncoderName, names: Collection[str], *, is_pretrained: bool) -> frozenset[str]:
    """Return which of a network's arrays no training changes: those of a pretrained encoder's norms."""
    if not is_pretrained:
        return frozenset()
    own, layer = [name for name in names if name.startswith(PREFIX)], _LAYER_NORMS.get(encoder)
    normed = {name.rpartition(".")[0] for name in own if name.endswith(".running_var")}
    return frozenset(
        name
        for name in own
        if name.rpartition(".")[0] in normed or (layer is not None and layer.search(name.removeprefix(PREFIX)))
    )


def encoder_fault(name: EncoderName, weights: str | None, *, is_own_size: bool) -> str | None:
    """Say why a plan's encoder does not fit the other keys of `network`; None where it does.

    `is_own_size` says that `width`, `depth` or `block` is not the default.
    """
    if name == OWN and weights is not None:
        return "'network.encoder_weights' is for an encoder of timm: name it in 'network.encoder', or use 'init'"
    if name != OWN and is_own_size:
        return f"'network.width', 'depth' and 'block' are of the encoder {OWN!r}: leave them out for {name!r}"
    return None
