"""Train the variants of the paper's network on the paper's two sets, and keep each query's result.

tests/benchmarks/paper_table.py is the command.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ynet import plan as plans
from ynet.data.cases import CaseCache
from ynet.data.manifest import Manifest, read
from ynet.learning import metrics
from ynet.learning.evaluate import EncodedCases, K, encode
from ynet.learning.hashing import hamming
from ynet.learning.model import YNet, build
from ynet.learning.train import Moments, train
from ynet.plan import Plan

Floats = npt.NDArray[np.float64]

PLANS = Path(__file__).parents[2] / "configs/plans"
PAPER_SPLIT = "paper"
FULL = "none"
WITHOUT = (FULL, "segmentation", "rmac", "circle")
BITS = (36, 64, 128, 256)
PADDED = {36: 64}
"""A length that ynet does not have, and the length of the code that begins with it."""
SEED_STEP = 1_000_003
DEVICE = torch.device("cpu")


class Run(NamedTuple):
    """One model."""

    data: str  # of SETS
    split: str  # PAPER_SPLIT, or `fold-K-of-N`
    without: str  # of WITHOUT
    bits: int  # of the trained code
    seed: int

    @property
    def name(self) -> str:
        """The name of the run's file."""
        return "-".join(map(str, self))

    def file(self, work: Path) -> Path:
        """Return the path of the run's codes."""
        return work / f"{self.name}.npz"


class Result(NamedTuple):
    """A trained model's result; one value for each query, and some of the whole run."""

    precision: Floats  # average precision at K; NaN where a query says nothing
    over_k: Floats  # the same sum divided by K
    label: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]
    dice: Floats  # NaN for an empty mask
    tie: Floats  # cases at the distance of the 10th hit
    distinct: float  # codes, as a share of the gallery
    epochs: int
    seconds: float  # of training


def runs(sets: Sequence[str], without: Sequence[str], bits: Sequence[int], seeds: int, folds: int) -> Iterator[Run]:
    """Yield the models in the order in which they are trained: the main comparison first."""
    trained = sorted({PADDED.get(one, one) for one in bits})
    splits = [(PAPER_SPLIT, seed) for seed in range(1, seeds + 1)]
    splits += [(f"fold-{fold}-of-{folds}", fold) for fold in range(1, folds + 1)]
    main, rest = list[Run](), list[Run]()
    for split, seed in splits:
        for name in sets:
            for part in without:
                for length in trained if part == FULL and split == PAPER_SPLIT else [64]:
                    is_main = part in (FULL, "segmentation") and length == 64
                    (main if is_main else rest).append(Run(name, split, part, length, seed))
    yield from main
    yield from rest


class Cases(NamedTuple):
    """A set's cases in one split: the gallery, which is trained on, and the queries."""

    held: CaseCache
    asked: CaseCache


class PaperSet:
    """One of the paper's sets, decoded once for all runs."""

    def __init__(self, folder: Path, name: str) -> None:
        """Read the set in a folder that paper_sets.py made, and its plan."""
        self.plan = plans.read(PLANS / f"paper-{name}.yaml")
        self._manifest = read(folder / "manifest.csv")
        self._kept: dict[str, Cases] = {}

    def cases(self, split: str) -> Cases:
        """Return the cases of a split. The newest split stays decoded."""
        if split not in self._kept:
            manifest = self._manifest if split == PAPER_SPLIT else fold_of(self._manifest, split)
            both = (
                CaseCache(manifest, part, self.plan.image, self.plan.classes, 1 << 30)
                for part in (manifest.train, manifest.test)
            )
            self._kept = {split: Cases(*both)}
        return self._kept[split]

    def plan_of(self, run: Run) -> Plan:
        """Return the plan of a run."""
        training = replace(self.plan.training, seed=run.seed, without=run.without)  # type: ignore[arg-type]
        return replace(self.plan, training=training, network=replace(self.plan.network, code_bits=run.bits))  # type: ignore[arg-type]


def fold_of(manifest: Manifest, split: str) -> Manifest:
    """Return the manifest with a fold as its test split: every n-th patient of each class, in the order of the ids."""
    _, fold, _, folds = split.split("-")
    tested = set[str]()
    for label in sorted({case.label for case in manifest.cases}):
        patients = sorted({case.patient for case in manifest.cases if case.label == label})
        tested |= set(patients[int(fold) - 1 :: int(folds)])
    cases = tuple(replace(case, split="test" if case.patient in tested else "train") for case in manifest.cases)
    return Manifest(manifest.root, cases)


def trained(plan: Plan, cases: CaseCache, epochs: int) -> tuple[YNet, float]:
    """Train the plan's network; return it with the seconds that it took."""
    plan = replace(plan, training=replace(plan.training, rounds=epochs))
    net, seconds = build(plan).to(DEVICE), 0.0
    moments: Moments | None = None
    for number in range(1, epochs + 1):
        generator = torch.Generator().manual_seed(plan.training.seed * SEED_STEP + number)
        result = train(net, cases, plan, number, device=DEVICE, generator=generator, moments=moments)
        moments, seconds = result.moments, seconds + result.seconds
    return net, seconds


def train_run(run: Run, of: PaperSet, work: Path, epochs: int | None) -> None:
    """Train a run and keep the codes of its gallery and queries in the work folder."""
    plan, cases = of.plan_of(run), of.cases(run.split)
    count = epochs or plan.training.most_rounds
    net, seconds = trained(plan, cases.held, count)
    held, asked = (encode(net, one, DEVICE) for one in cases)
    kept = {"held_codes": held.codes, "held_label": held.label, "epochs": count, "seconds": seconds}
    kept |= {name: getattr(asked, name) for name in ("codes", "label", "patient", "both", "predicted", "true")}
    part = work / f"{run.name}.part.npz"
    np.savez_compressed(part, **kept)  # type: ignore[arg-type]
    part.replace(run.file(work))


def result_of(run: Run, work: Path, bits: int) -> Result | None:
    """Return a trained run's result by the first `bits` bits of its codes; None where it is not trained."""
    if not run.file(work).exists():
        return None
    with np.load(run.file(work), allow_pickle=False) as kept:
        held, asked = (beginning(kept[name], bits) for name in ("held_codes", "codes"))
        distances = hamming(asked, held)
        ranked = metrics.ranking(distances, kept["label"][:, None] == kept["held_label"][None, :], K)
        with np.errstate(invalid="ignore"):
            dice = np.where(kept["true"] > 0, 2 * kept["both"] / (kept["predicted"] + kept["true"]), np.nan)
        distinct = len(np.unique(held, axis=0)) / len(held)
        tie = metrics.tie_sizes(distances, K)
        sizes = (distinct, int(kept["epochs"]), float(kept["seconds"]))
        return Result(ranked.ap, ranked.ap_over_k, kept["label"], kept["patient"], dice, tie, *sizes)


def beginning(codes: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return codes with the bits after the first `bits` set to 0."""
    kept = np.unpackbits(codes, axis=1)
    kept[:, bits:] = 0
    return np.packbits(kept, axis=1)


def labels_only(cases: Cases) -> tuple[EncodedCases, EncodedCases]:
    """Return the cases without codes, masks or features, for rankings that need no network."""
    return tuple(  # type: ignore[return-value]
        EncodedCases(
            np.zeros((len(one), 8), np.uint8),
            one.label.numpy(),
            *np.full((4, len(one)), np.nan),
            one.patient.numpy(),
            np.zeros((len(one), 0), np.float32),
        )
        for one in cases
    )
