"""The number of values in a plan's network and in a batch of images, computed without torch."""

import math
from typing import TYPE_CHECKING

from ynet import code_shapes
from ynet.code_shapes import Sizes
from ynet.encoders import ENCODERS, MOST_POOLED, OWN

if TYPE_CHECKING:
    from ynet.plan import Plan

MOST_VALUES = 1 << 28
"""Most values of a network: 1 GiB of weights. The paper's ResNet-50 has a tenth of it."""
MOST_BATCH_VALUES = 1 << 28
"""Most pixel values in one batch, over all views and channels."""
MOST_CODE_FEATURES = 1536
"""Most values from which a code from moments is made: their second moments have half as many squared."""
_LATERAL, _HIDDEN, _MOMENTS = 32, 32, 6


def stage_channels(plan: "Plan") -> tuple[int, int, int, int]:
    """Return the channels of the encoder's four feature maps, the largest map first."""
    if plan.network.encoder != OWN:
        return ENCODERS[plan.network.encoder].channels
    first = 2 * plan.network.width if plan.network.block == "bottleneck" else plan.network.width
    return (first, 2 * first, 4 * first, 8 * first)


def pooled_channels(plan: "Plan") -> int:
    """Return the channels of the classification branch's convolution."""
    pooled = (2 if plan.recipe == "paper" else 1) * stage_channels(plan)[-1]
    return pooled if plan.network.encoder == OWN else min(pooled, MOST_POOLED)


def hash_features(plan: "Plan") -> int:
    """Return the number of values from which the hash layer makes its code."""
    pooled = (1 if plan.pooling == "rmac" else 2) * pooled_channels(plan)
    return pooled + (0 if plan.recipe == "paper" else plan.regions.count * sum(stage_channels(plan)))


def code_sizes(plan: "Plan") -> Sizes:
    """Return the sizes of the feature from which the code from moments is made; see `model.code_feature`."""
    regions = plan.regions.count
    features = min((2 + regions) * sum(stage_channels(plan)) + regions * _MOMENTS, MOST_CODE_FEATURES)
    return Sizes(features, len(plan.classes))


def network_values(plan: "Plan") -> int:
    """Return the number of values in the arrays of the network that model.py builds."""
    bits, channels = plan.network.code_bits, stage_channels(plan)
    regions = plan.regions.count
    total = _encoder_values(plan)
    total += sum(_linear(c, _LATERAL) + _conv(_LATERAL, _LATERAL, 3) for c in channels)
    total += _linear(_LATERAL, regions)
    if plan.trains_code:
        total += _conv(channels[-1], pooled_channels(plan), 3)
        total += _linear(hash_features(plan), bits)
    if plan.trains_code and plan.recipe != "paper":
        total += _linear(regions * _MOMENTS, _HIDDEN) + _linear(_HIDDEN, _HIDDEN) + _linear(_HIDDEN, bits)
    if plan.code_form == "moments":
        of_code = code_shapes.shapes(code_sizes(plan), bits, plan.class_bits)
        total += sum(math.prod(shape) for shape in of_code.values())
    return total + (_linear(bits, len(plan.classes)) if plan.code_loss == "plain" else 0)


def batch_values(plan: "Plan") -> int:
    """Return the number of pixel values in one batch."""
    views = plan.privacy.views if plan.privacy.mode == "patient" else 1
    return plan.training.batch_size * views * plan.image.channels * plan.image.size**2


def _encoder_values(plan: "Plan") -> int:
    network, channels = plan.network, stage_channels(plan)
    if network.encoder != OWN:
        return ENCODERS[network.encoder].values(is_pretrained=network.encoder_weights is not None)
    is_bottleneck, width = network.block == "bottleneck", network.width
    block = _bottleneck if is_bottleneck else _basic
    total = _conv(plan.image.channels, width, 7 if is_bottleneck else 3)
    strides = (1 if is_bottleneck else 2, 2, 2, 2)
    for inputs, outputs, stride, depth in zip([width, *channels[:-1]], channels, strides, network.depth, strict=True):
        total += block(inputs, outputs, stride) + (depth - 1) * block(outputs, outputs, 1)
    return total


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _conv(inputs: int, outputs: int, kernel: int) -> int:
    """Count a convolution without a bias, and the norm after it."""
    return inputs * outputs * kernel**2 + 2 * outputs


def _shortcut(inputs: int, outputs: int, stride: int) -> int:
    return 0 if stride == 1 and inputs == outputs else _conv(inputs, outputs, 1)


def _basic(inputs: int, outputs: int, stride: int) -> int:
    return _conv(inputs, outputs, 3) + _conv(outputs, outputs, 3) + _shortcut(inputs, outputs, stride)


def _bottleneck(inputs: int, outputs: int, stride: int) -> int:
    planes = outputs // 4
    inner = _conv(inputs, planes, 1) + _conv(planes, planes, 3) + _conv(planes, outputs, 1)
    return inner + _shortcut(inputs, outputs, stride)


def fault(plan: "Plan") -> str | None:
    """Say why a plan's network or batch is too large; None when neither is."""
    if (values := network_values(plan)) > MOST_VALUES:
        return f"the network would have {values:,} weights, {MOST_VALUES:,} is the most: a smaller one"
    if (values := batch_values(plan)) > MOST_BATCH_VALUES:
        return (
            f"a batch would have {values:,} values, at most {MOST_BATCH_VALUES:,} may be: lower"
            " 'training.batch_size' or 'image.size'"
        )
    return None
