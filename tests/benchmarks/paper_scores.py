"""Score the trained variants of the paper's network: figures over the seeds, floors, differences with intervals."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from paper_training import FULL, PADDED, PAPER_SPLIT, Cases, PaperSet, Result, Run, labels_only, result_of
from ynet.learning import metrics
from ynet.learning.evaluate import K, floors
from ynet_lab.figures.baselines import by_handmade
from ynet_lab.figures.handmade import handmade

Floats = npt.NDArray[np.float64]

DRAWS, SEED, CENTRAL = 4000, 1, (2.5, 97.5)
PUBLISHED: dict[str, dict[str, float]] = {
    "Y-Net": {"origa": 0.6102, "jsrt": 0.5518},
    "without segmentation": {"origa": 0.5656, "jsrt": 0.5114},
    "without R-MAC": {"origa": 0.5179, "jsrt": 0.4914},
    "without circle loss": {"origa": 0.5879, "jsrt": 0.5291},
    "CAM, 2048 floats": {"origa": 0.5488, "jsrt": 0.5124},
    "DRH": {"origa": 0.5435, "jsrt": 0.4912},
    "DSH": {"origa": 0.4882, "jsrt": 0.4921},
    "DPSH": {"origa": 0.4693, "jsrt": 0.4203},
}
"""mAP@10 with 64 bits, divided by K, as the paper prints it."""
ROWS = {
    "none": "Y-Net",
    "segmentation": "without segmentation",
    "rmac": "without R-MAC",
    "circle": "without circle loss",
}
Figures = dict[str, Any]


def scored(runs: Sequence[Run], bits: int, work: Path) -> Figures | None:
    """Return the figures of one variant over its seeds; None where none is trained."""
    results = [result for run in runs if (result := result_of(run, work, bits)) is not None]
    if not results:
        return None
    return {
        "seeds": len(results),
        "map10_over_k": spread([float(np.nanmean(one.over_k)) for one in results]),
        "macro_map10": spread([metrics.macro(one.precision, one.label) or 0.0 for one in results]),
        "dice": spread([float(np.nanmean(one.dice)) for one in results]),
        "median_tie10": spread([float(np.median(one.tie)) for one in results]),
        "distinct_share": spread([one.distinct for one in results]),
        "epochs": sorted({one.epochs for one in results}),
        "seconds": spread([one.seconds for one in results]),
    }


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean and the population's standard deviation."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values)), "values": [round(one, 6) for one in values]}


def floors_of(of: PaperSet, kept: Path) -> dict[str, dict[str, float]]:
    """Return the figures of rankings without a network, on the split of the paper's sizes; kept in a file."""
    if not kept.exists():
        kept.write_text(json.dumps(_floors(of.cases(PAPER_SPLIT))), "utf-8")
    return dict(json.loads(kept.read_text("utf-8")))


def _floors(cases: Cases) -> dict[str, dict[str, float]]:
    held, asked = labels_only(cases)
    found = {
        name: {key: values[key] or 0.0 for key in ("map10_over_k", "macro_map10")}
        for name, values in floors(held.label, asked.label).items()
    }
    relevant = asked.label[:, None] == held.label[None, :]
    for name, distances in zip(("HOG, histogram", "the same under the true mask"), _handmade(cases), strict=True):
        ranked = metrics.ranking(distances, relevant, K)
        macro = metrics.macro(ranked.ap, asked.label) or 0.0
        found[name] = {"map10_over_k": float(np.nanmean(ranked.ap_over_k)), "macro_map10": macro}
    return found


def _handmade(cases: Cases) -> list[npt.NDArray[np.int64]]:
    held, asked = (handmade(one) for one in cases)
    found = [by_handmade(*pair).to_held for pair in zip(held, asked, strict=True)]
    return [np.stack([np.unique(row, return_inverse=True)[1] for row in one]) for one in found]


def difference(full: Sequence[Result], other: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Compare two variants query by query: full minus other, with 95 % intervals.

    The two lists have the same seeds and queries. Each draw takes patients with replacement, and seeds.
    """
    gain = np.stack([a.precision - b.precision for a, b in zip(full, other, strict=True)])
    return _compared(gain, full[0].label, full[0].patient)


def fold_difference(full: Sequence[Result], other: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Compare two variants over folds that share no patient; one training a fold."""
    gain = np.concatenate([a.precision - b.precision for a, b in zip(full, other, strict=True)])[None]
    return _compared(gain, *(np.concatenate([getattr(one, name) for one in full]) for name in ("label", "patient")))


def _compared(
    gain: Floats, label: npt.NDArray[np.int64], patient: npt.NDArray[np.int64]
) -> dict[str, dict[str, float]]:
    """Return the interval of the mean over all queries, and of the mean over classes; `gain` is (seeds, queries)."""
    random = np.random.default_rng(SEED)
    patients, of_query = np.unique(patient, return_inverse=True)
    times = random.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), DRAWS)[:, of_query]
    weights = np.vstack([np.ones(len(label)), times]).astype(np.float64)
    seeds = np.vstack([np.arange(len(gain)), random.integers(len(gain), size=(DRAWS, len(gain)))])
    picked = np.stack([gain[row].mean(0) for row in seeds])  # (1 + draws, queries)
    classes = [np.where(label == one, weights, 0.0) for one in np.unique(label)]
    each = [_mean(picked, one) for one in classes]
    return {"map10_over_k": _interval(_mean(picked, weights)), "macro_map10": _interval(np.nanmean(each, axis=0))}


def _mean(values: Floats, weights: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        mean: Floats = (values * weights).sum(1) / weights.sum(1)
    return mean


def _interval(values: Floats) -> dict[str, float]:
    low, high = np.nanpercentile(values[1:], CENTRAL)
    return {"mean": float(values[0]), "low": float(low), "high": float(high)}


def compared(name: str, without: str, seeds: int, folds: int, work: Path) -> Figures:
    """Return the differences of one ablation on one set: over the seeds, and over the folds, as far as trained."""
    found: Figures = {"published": PUBLISHED[ROWS[FULL]][name] - PUBLISHED[ROWS[without]][name]}
    numbers = range(1, max(seeds, folds) + 1)
    for kind, splits, compare in (
        ("seeds", [PAPER_SPLIT] * seeds, difference),
        ("folds", [f"fold-{fold}-of-{folds}" for fold in range(1, folds + 1)], fold_difference),
    ):
        pairs = [
            (full, other)
            for split, seed in zip(splits, numbers, strict=False)
            if (full := result_of(Run(name, split, FULL, 64, seed), work, 64)) is not None
            and (other := result_of(Run(name, split, without, 64, seed), work, 64)) is not None
        ]
        if len(pairs) > 1:
            first = [pair[0] for pair in pairs]
            found[kind] = {
                "count": len(pairs),
                "epochs": first[0].epochs,
                "queries": len(first[0].label) if kind == "seeds" else sum(len(one.label) for one in first),
                "macro_map10_full": _macro_mean(first, kind),
                "macro_map10_without": _macro_mean([pair[1] for pair in pairs], kind),
                "dice_full": float(np.nanmean([np.nanmean(one.dice) for one in first])),
                **compare(*zip(*pairs, strict=True)),
            }
    return found


def _macro_mean(results: Sequence[Result], kind: str) -> float:
    """Return the macro mAP@10: its mean over the seeds, or once over all folds' queries."""
    if kind == "seeds":
        return float(np.mean([metrics.macro(one.precision, one.label) or 0.0 for one in results]))
    precision, label = (np.concatenate([getattr(one, name) for one in results]) for name in ("precision", "label"))
    return metrics.macro(precision, label) or 0.0


def variants(without: Sequence[str], bits: Sequence[int]) -> list[tuple[str, str, int, int]]:
    """Return the rows of our table: name, part left out, bits that are compared, bits that are trained."""
    rows = [(ROWS[part], part, 64, 64) for part in without]
    return rows + [(f"Y-Net, {one} bits", FULL, one, PADDED.get(one, one)) for one in bits if one != 64]
