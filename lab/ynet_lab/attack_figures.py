"""The attacks, each on a target: its figures, and pictures for the page."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ynet.data.batch import Batch
from ynet.learning import accountant
from ynet.learning.dp_sgd import mechanism
from ynet_client.retrieval.picture import shown
from ynet_lab.attack_page import CaptionedPicture, Strip
from ynet_lab.attack_target import Target
from ynet_lab.attacks import code_inversion, gradient_inversion, membership_inference, privacy_audit, updates
from ynet_lab.attacks.gradient_inversion import Reconstruction
from ynet_lab.attacks.shadow import begun
from ynet_lab.attacks.updates import Protection

BATCHES = (1, 8)  # images in one step
AUDIT_DELTA = 1e-5  # with few canaries a larger delta hides everything; the accountant's claim is at this delta too
SHOWN, SIDE = 6, 120  # pictures of each kind, and their side in pixels


class AttackResult(NamedTuple):
    """An attack's figures, and pictures for the page."""

    figures: dict[str, Any]
    strips: Sequence[Strip] = ()


def _membership(target: Target) -> AttackResult:
    subjects, random = target.subjects, target.random()
    in_shadow = membership_inference.halves(subjects.patients, target.effort.shadow_pairs, random)
    confidences = []
    for number, chosen in enumerate(in_shadow, start=1):
        what = f"shadow model {number} of {len(in_shadow)}"
        net, plan = target.train_on(chosen, target.seed * 1000 + number, what)
        confidences.append(
            membership_inference.confidence(membership_inference.losses(net, subjects.cases, plan, target.device))
        )
    loss = membership_inference.losses(target.net, subjects.cases, target.plan, target.device)
    ratio = membership_inference.likelihood_ratio(
        membership_inference.confidence(loss), np.stack(confidences), in_shadow[:, subjects.patient]
    )
    figures: dict[str, Any] = {"shadows": len(in_shadow), "shadow_rounds": target.shadow_rounds}
    for name, score in (("loss", -loss), ("likelihood_ratio", ratio)):
        separated = membership_inference.separations(score, subjects, random)
        figures[name] = {unit: one._asdict() for unit, one in separated.items()}
    return AttackResult(figures)


def _gradient(target: Target) -> AttackResult:
    """Invert a step of the first round, whose initial weights everybody knows, by protection and batch size.

    A plan without privacy is attacked with and without it; a private plan only with it.
    """
    plan, effort = target.plan, target.effort
    private, added = updates.privately(plan, max(site["member_patients"] for site in target.census()), effort.epsilon)
    net = begun(plan, target.init).to(target.device)
    rows: list[dict[str, Any]] = []
    strips: list[Strip] = []
    for size in BATCHES:
        batches, others = updates.victims(target.subjects, size, target.random(), target.device)
        for protection in updates.protections(plan, private):
            target.say(f"gradient of {size} image{'s' * (size > 1)}, protection: {protection.name}")
            true, seen = updates.update(net, plan, batches, protection, added)
            found = gradient_inversion.invert(
                net,
                plan,
                seen,
                true,
                others,
                steps=effort.steps,
                generator=torch.Generator().manual_seed(target.seed),
                on_step=_report_steps(target),
            )
            rows.append(_row(protection, found))
            strips.append(_strip(rows[-1], true, found))
    return AttackResult({"steps": effort.steps, "updates": rows}, strips)


def _report_steps(target: Target) -> Callable[[int], None]:
    def report(step: int) -> None:
        if step % max(1, target.effort.steps // 3) == 0:
            target.say(f"  step {step}/{target.effort.steps}")

    return report


def _row(protection: Protection, found: Reconstruction) -> dict[str, Any]:
    sites = updates.SUMMED if protection.is_summed else 1
    return {
        "protection": protection.name,
        "sites": sites,
        "batch": len(found.ssim) // sites,
        "images": len(found.ssim),
        "best_ssim": found.best,
        "mean_ssim": float(np.mean(found.ssim)),
        "floor_mean_image": found.floor_mean,
        "floor_other_image": found.floor_other,
        "gradient_distance": found.distance,
    }


def _strip(row: Mapping[str, Any], true: Batch, found: Reconstruction) -> Strip:
    """Return the best reconstructions, each next to its true image."""
    pictures = []
    for number in np.argsort(found.ssim)[::-1][: SHOWN // 2]:
        pictures.append(CaptionedPicture("true", _png(true.image[number])))
        pictures.append(CaptionedPicture(f"found, SSIM {found.ssim[number]:.2f}", _png(found.images[number])))
    return Strip(f"{row['batch']} image{'s' * (row['batch'] > 1)} a site, protection: {row['protection']}", pictures)


def _code(target: Target) -> AttackResult:
    subjects = target.subjects
    public, secret = (
        code_inversion.reveal(target.net, subjects.part(chosen), target.device)
        for chosen in (subjects.is_member, ~subjects.is_member)
    )
    random = target.random()
    found = code_inversion.invert_codes(public, secret, subjects.patient[subjects.is_member], random)
    is_majority = np.bincount(public.label).argmax() == secret.label
    figures: dict[str, Any] = {
        "form": target.plan.code_form,
        "bits": target.plan.network.code_bits,
        "class_bits": target.plan.class_bits if target.plan.code_form == "moments" else None,
        "public": len(public.label),
        "secret": len(secret.label),
        "majority_accuracy": float(is_majority.mean()),
    }
    for what, one in found.items():
        figures[what] = {
            "pixel_r2": one.pixel_r2,
            "accuracy": one.accuracy,
            "balanced_accuracy": one.balanced_accuracy,
        }
    image = target.plan.image
    sides, strips = (image.channels, image.size, image.size), []
    for number in random.permutation(len(secret.label))[:SHOWN]:
        pictures = [CaptionedPicture("true", _png(torch.from_numpy(secret.image[number]).view(sides)))]
        pictures += [
            CaptionedPicture(f"from {what}", _png(torch.from_numpy(one.image[number]).view(sides)))
            for what, one in found.items()
        ]
        strips.append(Strip(target.plan.classes[secret.label[number]], pictures))
    return AttackResult(figures, strips)


def _audit(target: Target) -> AttackResult:
    """Audit a training in which every patient is a canary: a coin decides for each whether it is trained on."""
    subjects = target.subjects
    is_in = target.random().random(subjects.patients) < 0.5
    net, shadow = target.train_on(is_in, target.seed * 1000, "audited model")
    before, after = (
        membership_inference.losses(each, subjects.cases, shadow, target.device)
        for each in (begun(shadow, target.init).to(target.device), net)
    )
    found = privacy_audit.audit(subjects.by_patient(before - after), is_in, AUDIT_DELTA)
    claimed = None
    if shadow.privacy.mode == "patient":
        spent = mechanism(shadow, int(is_in.sum())).spends(shadow.training.most_rounds)
        claimed = accountant.epsilon([spent], AUDIT_DELTA)
    return AttackResult({"rounds": shadow.training.most_rounds, "epsilon_claimed": claimed, **found._asdict()})


def _png(image: Float[Tensor, "channels h w"]) -> bytes:
    buffer = io.BytesIO()
    shown(image.float().cpu().numpy(), SIDE).save(buffer, "PNG")
    return buffer.getvalue()


ATTACKS: dict[str, Callable[[Target], AttackResult]] = {
    "membership": _membership,
    "gradient": _gradient,
    "code": _code,
    "audit": _audit,
}
"""The attacks by name, in the order in which they run."""
