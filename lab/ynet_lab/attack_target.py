"""The model that is attacked, the patients that it was trained on and others, and shadow models of the same recipe."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ynet import weights
from ynet.data.manifest import find_sites
from ynet.errors import UserError
from ynet.learning.model import YNet, build, load_arrays
from ynet.plan import Plan
from ynet.schedule import AUTO
from ynet.weights import Arrays
from ynet_client.training.site_data import LocalSite
from ynet_lab.attacks.shadow import shadow_plan, train_shadow
from ynet_lab.attacks.subjects import Subjects
from ynet_lab.concat import Concat
from ynet_server import encoder_files
from ynet_server.rounds.run_folder import CARD, MODEL, PLAN, RunFolder

CACHE_BYTES = 2 << 30
Say = Callable[[str], None]


class Effort(NamedTuple):
    """How much work the attacks may do."""

    shadow_pairs: int = 2
    shadow_rounds: int | None = None  # of shadow models and of the audited model; None: as many as the model had
    steps: int = 300  # of a gradient inversion
    epsilon: float = 8.0  # of protected gradients, where the plan has no privacy


class Target(NamedTuple):
    """A finished model, the data to attack it with, and the attacks' settings."""

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
        """Return a new generator. Each attack draws the same numbers, whichever others run."""
        return np.random.default_rng(self.seed)

    @property
    def shadow_rounds(self) -> int:
        """Rounds of each shadow model."""
        return self.effort.shadow_rounds or self.plan.training.most_rounds

    def train_on(self, chosen: np.ndarray, seed: int, what: str) -> tuple[YNet, Plan]:
        """Train a model by the plan's recipe on the chosen patients; return it with its plan."""
        plan = shadow_plan(self.plan, seed=seed, rounds=self.effort.shadow_rounds)
        rounds, cases_and_patients = plan.training.most_rounds, self.subjects.of(chosen)

        def report(number: int) -> None:
            if number % max(1, rounds // 4) == 0:
                self.say(f"{what}: round {number}/{rounds}")

        return train_shadow(plan, self.init, *cases_and_patients, self.device, report), plan

    def census(self) -> list[dict[str, Any]]:
        """Count each site's images and patients, members and others."""
        rows = []
        for name, site in self.sites.items():
            manifest = site.manifest(self.plan.training.seed)
            rows.append(
                {
                    "site": name,
                    "members": len(manifest.train),
                    "non_members": len(manifest.test),
                    "member_patients": len({case.patient for case in manifest.train}),
                    "non_member_patients": len({case.patient for case in manifest.test}),
                }
            )
        return rows


def model_folder(model: Path) -> RunFolder:
    """Open the folder of a finished model.

    Raises:
        UserError: A file is missing.
    """
    for name in (MODEL, PLAN, CARD):
        if not (model / name).is_file():
            do = "name the folder of a finished model, as `ynet-lab simulate` or a run leaves it"
            raise UserError(f"{model} holds no model", f"there is no {name} in it", do)
    return RunFolder(model, encoders=encoder_files.default_folder())


def load_target(folder: RunFolder, data: Path, seed: int, effort: Effort, say: Say) -> Target:
    """Load the model and the sites' data.

    Raises:
        UserError: The data are not those that the model was trained on.
    """
    plan, manifests = folder.plan(), find_sites(data)
    if plan.training.rounds == AUTO and effort.shadow_rounds is None:
        effort = effort._replace(shadow_rounds=int(folder.card()["rounds"]))
    if folder.card().get("kind") == "alone" and len(manifests) > 1:
        why = "the model is of one site alone, and the data are several sites'"
        raise UserError("the model cannot be attacked", why, "name a folder that holds that site alone")
    limit = CACHE_BYTES // len(manifests)
    sites = {name: LocalSite(path, "auto", limit) for name, path in manifests.items()}
    counts = Counter(len(site.manifest(plan.training.seed).train) for site in sites.values())
    known = folder.card().get("sites")  # a simulation draws new names each time
    if known is not None and counts - Counter(known.values()):
        why = "the model's card knows no site with as many training images as one of them has"
        raise UserError("the model was trained on other data", why, "name its own data, with the split it had")
    device = next(iter(sites.values())).device
    net = build(plan)
    load_arrays(net, weights.load(folder.path / MODEL)[0])
    subjects = _subjects(plan, sites)
    return Target(net.to(device), plan, folder.init(), subjects, sites, device, seed, effort, say)


def _subjects(plan: Plan, sites: Mapping[str, LocalSite]) -> Subjects:
    """Collect all sites' images: of each site the training cases, then the test cases."""
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
