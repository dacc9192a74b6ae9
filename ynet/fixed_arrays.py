"""Which of a network's arrays no round trains: the server computes them, or they stay as they began."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from ynet.encoders import OWN, PREFIX, constants

if TYPE_CHECKING:
    from ynet.plan import Plan

CODE = "moment_code."
"""Arrays of the code from moments: the server computes them from the sites' sums."""

PRIVATE_HEADS = ("hash", "place", "segmentation.logit", "classifier")
"""How the names of the arrays begin that `privacy.trained: heads` trains."""

_OWN_ENCODER = re.compile(r"(stem|stages)\.")
_EARLY = re.compile(
    r"stem\.|stages\.[01]\.|(encoder\.net\.)("
    r"conv1\.|bn1\.|layer[12]\.|"  # ResNet
    r"conv_stem\.|blocks\.[0-2]\.|"  # EfficientNet
    r"features\.(conv0|norm0|denseblock[12]|transition[12])\.|"  # DenseNet
    r"stem\.|stages\.[01]\.)"  # ConvNeXt
)
"""The encoders' first two stages, whose maps have strides up to 8."""


def fixed_arrays(plan: "Plan", names: Collection[str]) -> frozenset[str]:
    """Return which of the arrays in `names` no round of the plan changes.

    These are the code's, which the server computes; the norms of a pretrained encoder; and what `training.trained` or
    `privacy.trained: heads` leaves out.
    """
    network, trained = plan.network, plan.training.trained
    fixed = {name for name in names if name.startswith(CODE)}
    fixed |= constants(network.encoder, names, is_pretrained=network.encoder_weights is not None)
    if trained == "heads":
        fixed |= {name for name in names if _is_encoder(name, is_own=network.encoder == OWN)}
    if trained == "last-stages":
        fixed |= {name for name in names if _EARLY.match(name)}
    if plan.privacy.trained == "heads":
        fixed |= {name for name in names if not name.startswith(PRIVATE_HEADS)}
    return frozenset(fixed)


def uncarried(plan: "Plan", names: Collection[str]) -> frozenset[str]:
    """Return which of the arrays an evaluation leaves out: the fixed ones, but the code's, whose values change."""
    return frozenset(name for name in fixed_arrays(plan, names) if not name.startswith(CODE))


def of_encoder_file(plan: "Plan", names: Collection[str]) -> frozenset[str]:
    """Return which of the arrays the file of the plan's pretrained encoder has; none where the plan names no file."""
    is_pretrained = plan.network.encoder_weights is not None
    return frozenset(name for name in names if is_pretrained and name.startswith(PREFIX))


def _is_encoder(name: str, *, is_own: bool) -> bool:
    return bool(_OWN_ENCODER.match(name)) if is_own else name.startswith(PREFIX)
