"""What the recipes minimise; each a loss of every sample, so that a batch's loss is their mean."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from torch import Tensor

from ynet.data.batch import Batch
from ynet.federation.plan import Plan
from ynet.hashing import codebook
from ynet.model import Output

ORTHO_SCALE, ORTHO_MARGIN = 8.0, 0.2
CIRCLE_SCALE, CIRCLE_MARGIN = 32.0, 0.25
CIRCLE_SHARE = 0.5


class Parts(NamedTuple):
    """A loss and what it is the sum of; each of shape (batch,)."""

    total: Float[Tensor, " batch"]
    classification: Float[Tensor, " batch"]
    segmentation: Float[Tensor, " batch"]


Loss = Callable[[Output, Batch], Parts]


def default_loss(plan: Plan, device: torch.device) -> Loss:
    """Recipe `default`: OrthoHash towards the plan's codebook, and BCE + soft Dice of the mask. A sum over samples."""
    targets = codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed).to(device)
    weights = _class_weights(plan, device)
    share = plan.training.segmentation_weight

    def loss(output: Output, batch: Batch) -> Parts:
        classification = weights[batch.label] * ortho_hash(output.code, batch.label, targets)
        segmentation = bce(output.mask_logits, batch.mask) + 1 - soft_dice(output.mask_logits, batch.mask)
        return Parts(classification + share * segmentation, classification, segmentation)

    return loss


def paper_loss(plan: Plan, device: torch.device) -> Loss:
    """Recipe `paper`: circle loss on the code, halved with pixel cross-entropy. It couples the samples of a batch.

    Corrected: the hash layer is in the loss, so it is trained; two cases without a lesion are a positive pair.
    """
    weights = _class_weights(plan, device)

    def loss(output: Output, batch: Batch) -> Parts:
        classification = weights[batch.label] * circle(output.code, batch.label)
        segmentation = bce(output.mask_logits, batch.mask)
        total = CIRCLE_SHARE * classification + (1 - CIRCLE_SHARE) * segmentation
        return Parts(total, classification, segmentation)

    return loss


LOSSES: dict[str, Callable[[Plan, torch.device], Loss]] = {"default": default_loss, "paper": paper_loss}


def ortho_hash(
    code: Float[Tensor, "batch bits"], label: Int64[Tensor, " batch"], targets: Float[Tensor, "classes bits"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy over s (cos(code, target) - m [own class]) (Hoe et al., NeurIPS 2021, eq. 6)."""
    cosine = F.normalize(code) @ F.normalize(targets).T
    own = F.one_hot(label, len(targets)).to(cosine.dtype)
    return F.cross_entropy(ORTHO_SCALE * (cosine - ORTHO_MARGIN * own), label, reduction="none")


def circle(code: Float[Tensor, "batch bits"], label: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Circle loss of each sample against the others of its batch (Sun et al., CVPR 2020, eq. 6)."""
    similarity = F.normalize(code) @ F.normalize(code).T
    is_same = label[:, None] == label[None, :]
    is_self = torch.eye(len(label), dtype=torch.bool, device=label.device)
    a_p = F.relu(1 + CIRCLE_MARGIN - similarity).detach()
    a_n = F.relu(similarity + CIRCLE_MARGIN).detach()
    positive = -CIRCLE_SCALE * a_p * (similarity - (1 - CIRCLE_MARGIN))
    negative = CIRCLE_SCALE * a_n * (similarity - CIRCLE_MARGIN)
    low = torch.finfo(similarity.dtype).min
    sum_p = positive.masked_fill(~is_same | is_self, low).logsumexp(1)
    sum_n = negative.masked_fill(is_same, low).logsumexp(1)
    return F.softplus(sum_p + sum_n)


def bce(logits: Float[Tensor, "batch 1 h w"], mask: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, " batch"]:
    """Binary cross-entropy per image, the mean over its pixels."""
    return F.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean((1, 2, 3))


def soft_dice(logits: Float[Tensor, "batch 1 h w"], mask: Float[Tensor, "batch 1 h w"]) -> Float[Tensor, " batch"]:
    """Soft Dice coefficient per image, in [0, 1]. An image whose mask and prediction are both empty scores 1."""
    probability = logits.sigmoid()
    both = (probability * mask).sum((1, 2, 3))
    return (2 * both + 1) / (probability.sum((1, 2, 3)) + mask.sum((1, 2, 3)) + 1)


def _class_weights(plan: Plan, device: torch.device) -> Float[Tensor, " classes"]:
    return torch.tensor(plan.training.class_weights or [1.0] * len(plan.classes), device=device)
