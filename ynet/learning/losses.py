"""The losses of the recipes, each per sample: a batch's loss is the mean.

The code's loss of a sample without a label has the weight 0. Losses on pairs leave it out of the other samples' pairs.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ynet.data.batch import UNLABELLED, Batch
from ynet.learning.hashing import codebook
from ynet.learning.model import Output
from ynet.plan import Plan

ORTHO_SCALE, ORTHO_MARGIN = 8.0, 0.2
CIRCLE_SCALE, CIRCLE_MARGIN = 32.0, 0.25
PAPER_SHARE = 0.5
SIGN_PULL = 0.1  # bounds the code's length: its gradient vanishes as the length grows
CSQ_QUANTISATION = 1e-4
DPSH_QUANTISATION = 0.1


class Parts(NamedTuple):
    """A loss and its summands; each of shape (batch,)."""

    total: Float[Tensor, " batch"]
    classification: Float[Tensor, " batch"]
    segmentation: Float[Tensor, " batch"]


Masks = Float[Tensor, "batch regions h w"]
Loss = Callable[[Output, Batch], Parts]
CodeLoss = Callable[[Output, Batch], Float[Tensor, " batch"]]


def loss_of(plan: Plan, device: torch.device) -> Loss:
    """Return the loss of the plan's recipe; without a code that is trained, that of the mask alone."""
    code_loss = CODE_LOSSES[plan.code_loss](plan, device) if plan.trains_code else _no_code
    weights = _class_weights(plan, device)
    is_paper, share = plan.recipe == "paper", plan.training.segmentation_weight
    paper_share = 0.0 if plan.training.without == "segmentation" else 1 - PAPER_SHARE

    def loss(output: Output, batch: Batch) -> Parts:
        classification = weights[batch.label] * code_loss(output, batch)
        segmentation = _known(bce(output.mask_logits, batch.mask), batch.drawn)
        if is_paper:
            return Parts(PAPER_SHARE * classification + paper_share * segmentation, classification, segmentation)
        segmentation = segmentation + _known(1 - soft_dice(output.mask_logits, batch.mask), batch.drawn)
        return Parts(classification + share * segmentation, classification, segmentation)

    return loss


def _no_code(output: Output, batch: Batch) -> Float[Tensor, " batch"]:
    return output.mask_logits.new_zeros(len(batch.label))


def _ortho_hash(plan: Plan, device: torch.device) -> CodeLoss:
    targets = codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed).to(device)
    return lambda output, batch: ortho_hash(output.code, batch.label, targets) + SIGN_PULL * from_signs(output.code)


def _csq(plan: Plan, device: torch.device) -> CodeLoss:
    targets = codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed).to(device)
    return lambda output, batch: central_similarity(output.code, batch.label, targets)


def _circle(plan: Plan, device: torch.device) -> CodeLoss:  # noqa: ARG001
    return lambda output, batch: circle(output.code, batch.label)


def _dpsh(plan: Plan, device: torch.device) -> CodeLoss:  # noqa: ARG001
    return lambda output, batch: pairwise_likelihood(output.code, batch.label)


def _plain(plan: Plan, device: torch.device) -> CodeLoss:  # noqa: ARG001
    def loss(output: Output, batch: Batch) -> Float[Tensor, " batch"]:
        if output.class_logits is None:
            raise ValueError("the network of another recipe has no class logits")
        return F.cross_entropy(output.class_logits, batch.label, reduction="none", ignore_index=UNLABELLED)

    return loss


CODE_LOSSES: dict[str, Callable[[Plan, torch.device], CodeLoss]] = {
    "default": _ortho_hash,
    "paper": _circle,
    "circle": _circle,
    "csq": _csq,
    "dpsh": _dpsh,
    "plain": _plain,
}
"""The code's loss by recipe. All but `default` are baselines. Unlike in the paper, recipe `paper` treats two cases
without a lesion as a positive pair, and trains the hash layer."""


def ortho_hash(
    code: Float[Tensor, "batch bits"], label: Int64[Tensor, " batch"], targets: Float[Tensor, "classes bits"]
) -> Float[Tensor, " batch"]:
    """Cross-entropy over s (cos(code, target) - m [own class]) (Hoe et al., NeurIPS 2021, eq. 6)."""
    cosine = F.normalize(code) @ F.normalize(targets).T
    own = label[:, None] == torch.arange(len(targets), device=label.device)
    scaled = ORTHO_SCALE * (cosine - ORTHO_MARGIN * own)
    return F.cross_entropy(scaled, label, reduction="none", ignore_index=UNLABELLED)


def circle(code: Float[Tensor, "batch bits"], label: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """Circle loss of each sample against the others of its batch (Sun et al., CVPR 2020, eq. 6)."""
    similarity = F.normalize(code) @ F.normalize(code).T
    is_same, is_other_class = _pairs(label)
    a_p = F.relu(1 + CIRCLE_MARGIN - similarity).detach()
    a_n = F.relu(similarity + CIRCLE_MARGIN).detach()
    positive = -CIRCLE_SCALE * a_p * (similarity - (1 - CIRCLE_MARGIN))
    negative = CIRCLE_SCALE * a_n * (similarity - CIRCLE_MARGIN)
    low = torch.finfo(similarity.dtype).min
    sum_p = positive.masked_fill(~is_same, low).logsumexp(1)
    sum_n = negative.masked_fill(~is_other_class, low).logsumexp(1)
    return F.softplus(sum_p + sum_n)


def from_signs(code: Float[Tensor, "batch bits"]) -> Float[Tensor, " batch"]:
    """Return the mean squared distance of a code's values from -1 or +1."""
    return (code.abs() - 1).square().mean(1)


def central_similarity(
    code: Float[Tensor, "batch bits"], label: Int64[Tensor, " batch"], targets: Float[Tensor, "classes bits"]
) -> Float[Tensor, " batch"]:
    """CSQ: cross-entropy of each bit with the class's centre, plus quantisation (Yuan et al., CVPR 2020)."""
    bits = (targets[label] + 1) / 2
    central = F.binary_cross_entropy_with_logits(2 * code, bits, reduction="none").mean(1)  # sigmoid(2x) = (tanh+1)/2
    quantisation = torch.log(torch.cosh(code.tanh().abs() - 1)).sum(1)
    return central + CSQ_QUANTISATION * quantisation


def pairwise_likelihood(code: Float[Tensor, "batch bits"], label: Int64[Tensor, " batch"]) -> Float[Tensor, " batch"]:
    """DPSH: likelihood of the pairwise similarities in a batch, plus quantisation (Li et al., 2016)."""
    theta = code @ code.T / 2
    is_same, others = (pairs.to(theta.dtype) for pairs in _pairs(label))
    pairs = is_same + others
    likelihood = ((F.softplus(theta) - is_same * theta) * pairs).sum(1) / pairs.sum(1).clamp(min=1)
    return likelihood + DPSH_QUANTISATION * from_signs(code)


def _pairs(label: Int64[Tensor, " batch"]) -> tuple[Bool[Tensor, "batch batch"], Bool[Tensor, "batch batch"]]:
    """Return which pairs of labelled samples have the same class, and which have not; no sample pairs with itself."""
    is_labelled = label != UNLABELLED
    both = is_labelled[:, None] & is_labelled[None, :]
    both &= ~torch.eye(len(label), dtype=torch.bool, device=label.device)
    is_same = label[:, None] == label[None, :]
    return both & is_same, both & ~is_same


def bce(logits: Masks, mask: Masks) -> Float[Tensor, "batch regions"]:
    """Return the binary cross-entropy per image and region, the mean over its pixels."""
    return F.binary_cross_entropy_with_logits(logits, mask, reduction="none").mean((2, 3))


def soft_dice(logits: Masks, mask: Masks) -> Float[Tensor, "batch regions"]:
    """Return the soft Dice coefficient per image and region, in [0, 1]; 1 where mask and prediction are both empty."""
    probability = logits.sigmoid()
    both = (probability * mask).sum((2, 3))
    return (2 * both + 1) / (probability.sum((2, 3)) + mask.sum((2, 3)) + 1)


def _known(loss: Float[Tensor, "batch regions"], drawn: Bool[Tensor, "batch regions"]) -> Float[Tensor, " batch"]:
    """Return the mean over the regions; a region whose mask is unknown adds 0."""
    return (loss * drawn.view_as(loss)).mean(1)


def _class_weights(plan: Plan, device: torch.device) -> Float[Tensor, " weights"]:
    """Return the classes' weights, and last that of UNLABELLED, which is the index -1."""
    return torch.tensor([*(plan.training.class_weights or [1.0] * len(plan.classes)), 0.0], device=device)
