"""Attacks on a finished model by the consortium's own people, before it is given away (extra `simulation`).

Its training patients are the members, its test patients the others. What is found goes into `report.json`,
`report.html`, and the model's card.
"""

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ynet import __version__, weights
from ynet.data.batch import Batch
from ynet.data.manifest import find_sites
from ynet.errors import UserError
from ynet.learning import accountant
from ynet.learning.dp_sgd import mechanism
from ynet.learning.model import YNet, build, load_arrays
from ynet.plan import Plan
from ynet.runtime import private_files
from ynet.weights import Arrays
from ynet_client.retrieval.picture import shown
from ynet_client.training.site_data import LocalSite
from ynet_lab.attack_page import CaptionedPicture, Strip, render
from ynet_lab.attacks import code_inversion, gradient_inversion, membership_inference, privacy_audit, updates
from ynet_lab.attacks.gradient_inversion import Reconstruction
from ynet_lab.attacks.shadow import begun, shadow_plan, train_shadow
from ynet_lab.attacks.subjects import Subjects
from ynet_lab.attacks.updates import Protection
from ynet_lab.concat import Concat
from ynet_server.rounds.run_folder import CARD, MODEL, PLAN, RunFolder

ATTACKS = ("membership", "gradient", "code", "audit")
CACHE_BYTES = 2 << 30
BATCHES = (1, 8)  # images in one step
AUDIT_DELTA = 1e-5  # of few canaries a larger one hides everything: the accountant says what is claimed at this one
SHOWN, SIDE = 6, 120  # pictures of each kind, and their pixels a side

Say = Callable[[str], None]


class Effort(NamedTuple):
    """How much work the attacks may be."""

    shadow_pairs: int = 2
    shadow_rounds: int | None = None  # of shadow models and of the audit's; None: the plan's
    steps: int = 300  # of a gradient's inversion
    epsilon: float = 8.0  # of the gradients' privacy, where the plan has none


class Target(NamedTuple):
    """What is attacked, and with what."""

    net: YNet
    plan: Plan
    init: Arrays | None
    subjects: Subjects
    sites: Mapping[str, LocalSite]
    device: torch.device
    seed: int
    effort: Effort
    say: Say

    def random(self) -> np.random.Generator:
        """The same draws for each attack, whichever others are run."""
        return np.random.default_rng(self.seed)


class AttackResult(NamedTuple):
    """What an attack came to: figures, and pictures for the page."""

    figures: dict[str, Any]
    strips: Sequence[Strip] = ()


def attack(
    model: Path, data: Path, out: Path, *, attacks: Sequence[str], seed: int, effort: Effort, say: Say
) -> dict[str, Any]:
    """Run the attacks, write the report and add what they found to the model's card; what `report.json` holds.

    Raises UserError.
    """
    folder = _folder(model)
    _claim(out)
    target = _target(folder, data, seed, effort, say)
    found, seconds = {}, {}
    for name in attacks:
        say(f"{name}: begun")
        start = time.perf_counter()
        found[name] = _ATTACKS[name](target)
        seconds[name] = round(time.perf_counter() - start, 1)
        say(f"{name}: done in {seconds[name]:.0f} s")
    figures = {name: one.figures for name, one in found.items()}
    made = {
        "format": 1,
        "ynet": __version__,
        "model": folder.card()["model_id"],
        "plan_id": target.plan.id,
        "plan": asdict(target.plan),
        "seed": seed,
        "sites": _census(target),
        "attacks": figures,
        "seconds": seconds,
    }
    private_files.write(out / "report.json", json.dumps(made, indent=1))
    private_files.write(out / "report.html", render(made, {name: one.strips for name, one in found.items()}))
    folder.add_attacks(figures)
    return made


def _folder(model: Path) -> RunFolder:
    for name in (MODEL, PLAN, CARD):
        if not (model / name).is_file():
            do = "name the folder of a finished model, as `ynet-lab simulate` or a run leaves it"
            raise UserError(f"{model} holds no model", f"there is no {name} in it", do)
    return RunFolder(model)


def _claim(out: Path) -> None:
    """Make the report's folder. Raises UserError when it holds anything but an older report of attacks."""
    private_files.make_folder(out)
    report = out / "report.json"
    if any(out.iterdir()) and not (report.is_file() and '"attacks"' in report.read_text("utf-8")):
        raise UserError(f"{out} cannot take the report", "it holds other files", "name a new folder")


def _target(folder: RunFolder, data: Path, seed: int, effort: Effort, say: Say) -> Target:
    plan, manifests = folder.plan(), find_sites(data)
    if folder.card().get("kind") == "alone" and len(manifests) > 1:
        why = "the model is of one site alone, and the data are several sites'"
        raise UserError("the model cannot be attacked", why, "name a folder that holds that site alone")
    limit = CACHE_BYTES // len(manifests)
    sites = {name: LocalSite(path, "auto", limit) for name, path in manifests.items()}
    counts = Counter(len(site.manifest(plan.training.seed).train) for site in sites.values())
    known = folder.card().get("sites")  # by names that a simulation draws anew each time
    if known is not None and counts - Counter(known.values()):
        why = "the model's card knows no site with as many training images as one of them has"
        raise UserError("the model was trained on other data", why, "name its own data, with the split it had")
    device = next(iter(sites.values())).device
    net = build(plan)
    load_arrays(net, weights.load(folder.path / MODEL)[0])
    subjects = _subjects(plan, sites)
    return Target(net.to(device), plan, folder.init(), subjects, sites, device, seed, effort, say)


def _subjects(plan: Plan, sites: Mapping[str, LocalSite]) -> Subjects:
    """All sites' images, each site's training cases before its test cases."""
    sources, names, is_member = [], [], []
    for name, site in sites.items():
        manifest, parts = site.manifest(plan.training.seed), site.cases(plan)
        for part, cases, split in zip(parts, (manifest.train, manifest.test), ("training", "test"), strict=True):
            if not cases:
                do = "name some in the manifest's split column, or leave the site out"
                raise UserError(f"site {name} cannot be attacked", f"it has no {split} images", do)
            sources.append(part)
            names += [(name, case.patient) for case in cases]
            is_member += [split == "training"] * len(cases)
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(names))}
    return Subjects(Concat(sources), np.array([numbers[patient] for patient in names]), np.array(is_member))


def _census(target: Target) -> list[dict[str, Any]]:
    found = []
    for name, site in target.sites.items():
        manifest = site.manifest(target.plan.training.seed)
        found.append(
            {
                "site": name,
                "members": len(manifest.train),
                "non_members": len(manifest.test),
                "member_patients": len({case.patient for case in manifest.train}),
                "non_member_patients": len({case.patient for case in manifest.test}),
            }
        )
    return found


# --- membership


def _membership(target: Target) -> AttackResult:
    subjects, random = target.subjects, target.random()
    in_shadow = membership_inference.halves(subjects.patients, target.effort.shadow_pairs, random)
    confidences = []
    for number, chosen in enumerate(in_shadow, start=1):
        what = f"shadow model {number} of {len(in_shadow)}"
        net, plan = _trained_on(target, chosen, target.seed * 1000 + number, what)
        confidences.append(
            membership_inference.confidence(membership_inference.losses(net, subjects.cases, plan, target.device))
        )
    loss = membership_inference.losses(target.net, subjects.cases, target.plan, target.device)
    ratio = membership_inference.likelihood_ratio(
        membership_inference.confidence(loss), np.stack(confidences), in_shadow[:, subjects.patient]
    )
    figures: dict[str, Any] = {"shadows": len(in_shadow), "shadow_rounds": _shadow_rounds(target)}
    for name, score in (("loss", -loss), ("likelihood_ratio", ratio)):
        separated = membership_inference.separations(score, subjects, random)
        figures[name] = {unit: one._asdict() for unit, one in separated.items()}
    return AttackResult(figures)


def _trained_on(target: Target, chosen: np.ndarray, seed: int, what: str) -> tuple[YNet, Plan]:
    """A model trained by the plan's recipe on the chosen patients alone, and its plan."""
    plan = shadow_plan(target.plan, seed=seed, rounds=target.effort.shadow_rounds)
    rounds, cases_and_patients = plan.training.rounds, target.subjects.of(chosen)

    def told(number: int) -> None:
        if number % max(1, rounds // 4) == 0:
            target.say(f"{what}: round {number}/{rounds}")

    return train_shadow(plan, target.init, *cases_and_patients, target.device, told), plan


def _shadow_rounds(target: Target) -> int:
    return target.effort.shadow_rounds or target.plan.training.rounds


# --- gradient


def _gradient(target: Target) -> AttackResult:
    """A step of the first round, whose weights everybody knows, by protection and batch.

    A plan without privacy is shown with and without; a private one sends nothing without.
    """
    plan, effort = target.plan, target.effort
    private, added = updates.privately(plan, max(site["member_patients"] for site in _census(target)), effort.epsilon)
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
                on_step=_told_steps(target),
            )
            rows.append(_row(protection, found))
            strips.append(_strip(rows[-1], true, found))
    return AttackResult({"steps": effort.steps, "updates": rows}, strips)


def _told_steps(target: Target) -> Callable[[int], None]:
    def told(step: int) -> None:
        if step % max(1, target.effort.steps // 3) == 0:
            target.say(f"  step {step}/{target.effort.steps}")

    return told


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
    """The images that were found best, each beside its true one."""
    pictures = []
    for number in np.argsort(found.ssim)[::-1][: SHOWN // 2]:
        pictures.append(CaptionedPicture("true", _png(true.image[number])))
        pictures.append(CaptionedPicture(f"found, SSIM {found.ssim[number]:.2f}", _png(found.images[number])))
    return Strip(f"{row['batch']} image{'s' * (row['batch'] > 1)} a site, protection: {row['protection']}", pictures)


# --- code


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
        "public": len(public.label),
        "secret": len(secret.label),
        "detail_bits": 8 * public.detail.shape[1],
        "majority_accuracy": float(is_majority.mean()),
    }
    for what, one in found.items():
        figures[what.replace(" ", "_")] = {
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


# --- audit


def _audit(target: Target) -> AttackResult:
    """Every patient is a canary, trained on by a coin of its own, in a model that nobody keeps."""
    subjects = target.subjects
    is_in = target.random().random(subjects.patients) < 0.5
    net, shadow = _trained_on(target, is_in, target.seed * 1000, "audited model")
    before, after = (
        membership_inference.losses(each, subjects.cases, shadow, target.device)
        for each in (begun(shadow, target.init).to(target.device), net)
    )
    found = privacy_audit.audit(subjects.by_patient(before - after), is_in, AUDIT_DELTA)
    claimed = None
    if shadow.privacy.mode == "patient":
        spent = mechanism(shadow, int(is_in.sum())).spends(shadow.training.rounds)
        claimed = accountant.epsilon([spent], AUDIT_DELTA)
    return AttackResult({"rounds": shadow.training.rounds, "epsilon_claimed": claimed, **found._asdict()})


def _png(image: Float[Tensor, "channels h w"]) -> bytes:
    buffer = io.BytesIO()
    shown(image.float().cpu().numpy(), SIDE).save(buffer, "PNG")
    return buffer.getvalue()


_ATTACKS: dict[str, Callable[[Target], AttackResult]] = {
    "membership": _membership,
    "gradient": _gradient,
    "code": _code,
    "audit": _audit,
}
