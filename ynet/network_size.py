"""The number of values in a plan's network and in a batch of images, computed without torch."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ynet.plan import Plan

MOST_VALUES = 1 << 28
"""Most values of a network: 1 GiB of weights. The paper's ResNet-50 has a tenth of it."""
MOST_BATCH_VALUES = 1 << 28
"""Most pixel values in one batch, over all views and channels."""
_LATERAL, _HIDDEN, _MOMENTS = 32, 32, 6


def network_values(plan: "Plan") -> int:
    """Return the number of values in the arrays of the network that model.py builds."""
    width, bits = plan.network.width, plan.network.code_bits
    is_bottleneck, is_paper = plan.network.block == "bottleneck", plan.recipe == "paper"
    first = 2 * width if is_bottleneck else width
    channels = [first * stage for stage in (1, 2, 4, 8)]
    block = _bottleneck if is_bottleneck else _basic
    total = _conv(plan.image.channels, width, 7 if is_bottleneck else 3)
    strides = (1 if is_bottleneck else 2, 2, 2, 2)
    for inputs, outputs, stride, depth in zip(
        [width, *channels[:-1]], channels, strides, plan.network.depth, strict=True
    ):
        total += block(inputs, outputs, stride) + (depth - 1) * block(outputs, outputs, 1)
    total += sum(_linear(c, _LATERAL) + _conv(_LATERAL, _LATERAL, 3) for c in channels) + _LATERAL + 1
    pooled = (2 if is_paper else 1) * channels[-1]
    total += _conv(channels[-1], pooled, 3)
    features = pooled if is_paper else 2 * pooled + sum(channels)
    total += _linear(features, bits) + 2 * features
    if not is_paper:
        total += _linear(_MOMENTS, _HIDDEN) + _linear(_HIDDEN, _HIDDEN) + _linear(_HIDDEN, bits)
    return total + (_linear(bits, len(plan.classes)) if plan.recipe == "plain" else 0)


def batch_values(plan: "Plan") -> int:
    """Return the number of pixel values in one batch."""
    views = plan.privacy.views if plan.privacy.mode == "patient" else 1
    return plan.training.batch_size * views * plan.image.channels * plan.image.size**2


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
