"""Measure what 32 detail bits add inside ties: recall of the cases whose features are nearest to the query's.

python tests/benchmarks/detail_recall.py --data DIR --model FOLDER [--validation] [--draws 20] [--out FILE.json]

The folder is that of a finished model, as `ynet-lab simulate` leaves it. Queries are all sites' test cases (with
`--validation` the held-back training patients), the gallery all sites' training cases. The cosine of the features
behind the code, each channel centred and divided by the gallery's deviation, defines true neighbours for all rows.
For each ranking these are measured, as means over the queries and over `--draws` orders of the ties:

  gallery    the share of the ten true neighbours in the whole gallery that are among the first ten
  near       the same, for neighbours among the cases as near as the tenth hit's code, or nearer
  ties       the same, among the cases exactly as far as the tenth hit: if only some of them are in the first ten,
             the share of these ranks that true neighbours get
  pixels     as `near`, by the cosine of the images less the gallery's mean image
  macro mAP  macro mAP@10 of the classes, its exact expectation over the orders of the ties

The rows below the detail code are other ways to make 32 bits. Those fitted on the gallery use all sites' features at
once, which no site may do: they are upper bounds.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import find_sites
from ynet.learning import metrics
from ynet.learning.detail import DETAIL_BITS, FARTHEST, QUIET, Detail
from ynet.learning.evaluate import K
from ynet.learning.hashing import codebook, hamming, pack
from ynet.learning.model import build, load_arrays
from ynet.plan import Plan
from ynet_client.training.site_data import LocalSite
from ynet_lab.attacks.code_inversion import Revealed, reveal
from ynet_server.rounds.run_folder import MODEL, PLAN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
COLUMNS = ("gallery", "near", "ties", "pixels", "macro_map10")
ITQ_STEPS = 50


class Asked(NamedTuple):
    """The queries against the gallery, each of shape (queries, gallery)."""

    distance: Ints  # of the codes, bits
    likeness: Floats  # of the features
    pixels: Floats  # similarity of the images
    relevant: npt.NDArray[np.bool_]
    label: Ints  # (queries,)

    @property
    def tenth(self) -> Ints:
        """Return the distance of each query's tenth hit, (queries, 1)."""
        return np.sort(self.distance, 1)[:, K - 1 : K]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = plans.from_canonical((given.model / PLAN).read_text("utf-8"))
    held, queries = read(given.model, plan, given.data, given.validation)
    asked, split = ask(held, queries), "held-back training patients" if given.validation else "test"
    rows = {name: measured(asked, order, given.draws) for name, order in ways(plan, held, queries)}
    found = {"plan": plan.name, "split": split, **groups(held, asked), "rows": rows}
    print("\n".join(table(found)))
    if given.out:
        given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def read(folder: Path, plan: Plan, data: Path, is_validation: bool) -> tuple[Revealed, Revealed]:
    """Compute the network's outputs for all sites' galleries and queries."""
    net, held, asked = build(plan), list[Revealed](), list[Revealed]()
    load_arrays(net, weights.load(folder / MODEL)[0])
    for manifest in find_sites(data).values():
        site = LocalSite(manifest, "cpu", 1 << 30, is_validation=is_validation)
        for parts, cases in zip((held, asked), site.cases(plan), strict=True):
            parts.append(reveal(net, cases, site.device))
    galleries, queries = (Revealed._make(map(np.concatenate, zip(*parts, strict=True))) for parts in (held, asked))
    return galleries, queries


def ask(held: Revealed, queries: Revealed) -> Asked:
    mean, deviation = held.feature.mean(0), held.feature.std(0)
    moves = deviation > 1e-6  # a channel that never fires has a deviation of 0
    standard = [((part.feature - mean) / np.where(moves, deviation, 1))[:, moves] for part in (queries, held)]
    images = [part.image - held.image.mean(0) for part in (queries, held)]
    relevant = queries.label[:, None] == held.label[None, :]
    return Asked(hamming(queries.code, held.code), cosine(*standard), cosine(*images), relevant, queries.label)


def cosine(one: Floats, other: Floats) -> Floats:
    one, other = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, other))
    product: Floats = one @ other.T
    return product


def groups(held: Revealed, asked: Asked) -> dict[str, float]:
    """Count the ties."""
    return {
        "queries": len(asked.label),
        "gallery": len(held.label),
        "distinct_codes": len(np.unique(held.code, axis=0)),
        "distinct_with_detail": len(np.unique(np.concatenate([held.code, held.detail], 1), axis=0)),
        "median_near": float(np.median((asked.distance <= asked.tenth).sum(1))),
        "median_ties": float(np.median((asked.distance == asked.tenth).sum(1))),
    }


# --- ways to make 32 bits


def ways(plan: Plan, held: Revealed, queries: Revealed) -> Iterator[tuple[str, Ints | Floats]]:
    """Yield rankings inside ties by name; (queries, gallery), lowest first."""
    yield "the tie key alone", np.zeros((len(queries.label), len(held.label)), np.int64)
    yield "detail code", hamming(queries.detail, held.detail)
    turn = seeded(plan, held.feature.shape[1])
    yield "bare feature, seeded rotation", compared(held.feature, queries.feature, turn)
    for name, rest in residuals(plan, held, queries).items():
        yield f"less the {name}, seeded rotation", compared(*rest, turn)
        yield f"less the {name}, principal axes, turned", compared(*rest, principal(rest[0], steps=0))
        yield f"less the {name}, ITQ", compared(*rest, principal(rest[0], ITQ_STEPS))
    yield "the features themselves", 1 - ask(held, queries).likeness


def residuals(plan: Plan, held: Revealed, queries: Revealed) -> dict[str, tuple[Floats, Floats]]:
    """Yield gallery's and queries' features, centred by a mean and divided by the deviation, both of the gallery."""
    targets = pack(codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed))
    codes = np.unique(held.code, axis=0)
    of = {"mean": codes[:1], "mean of the nearest class": targets, "mean of the code": codes}
    return {
        name: less_means(held, queries, *(hamming(part.code, centres).argmin(1) for part in (held, queries)))
        for name, centres in of.items()
    }


def less_means(held: Revealed, queries: Revealed, of_held: Ints, of_query: Ints) -> tuple[Floats, Floats]:
    buckets = int(max(of_held.max(), of_query.max())) + 1
    counts = np.maximum(np.bincount(of_held, minlength=buckets), 1)
    means = np.stack([np.bincount(of_held, column, buckets) / counts for column in held.feature.T], 1)
    rest = held.feature - means[of_held]
    deviation = np.maximum(rest.std(0), QUIET)
    one, other = rest / deviation, (queries.feature - means[of_query]) / deviation
    return one.clip(-FARTHEST, FARTHEST), other.clip(-FARTHEST, FARTHEST)


def seeded(plan: Plan, features: int) -> Floats:
    """Return the plan's rotation, (32, features): a detail code with means 0 and deviations 1."""
    turned: Floats = Detail(features, plan.network.codebook_seed)(torch.eye(features)).double().numpy().T
    return turned


def compared(held: Floats, queries: Floats, rotation: Floats) -> Ints:
    one, other = (np.packbits(part @ rotation.T > 0, axis=1) for part in (queries, held))
    return hamming(one, other)


def principal(rest: Floats, steps: int) -> Floats:
    """Return principal axes, rotated until the projections are closest to signs (Gong and Lazebnik, CVPR 2011)."""
    axes: Floats = np.linalg.svd(rest, full_matrices=False)[2][:DETAIL_BITS].T
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((DETAIL_BITS, DETAIL_BITS)))[0]
    projected = rest @ axes
    for _ in range(steps):
        left, _, right = np.linalg.svd(np.sign(projected @ rotation).T @ projected)
        rotation = (left @ right).T
    turned: Floats = (axes @ rotation).T
    return turned


# --- recall


def measured(asked: Asked, detail: Ints | Floats, draws: int) -> dict[str, float]:
    random, near = np.random.default_rng(1), asked.distance <= asked.tenth
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        tie = random.random(detail.shape)
        first = np.lexsort((tie, detail, asked.distance))[:, :K]
        for name, likeness in (
            ("gallery", asked.likeness),
            ("near", np.where(near, asked.likeness, -np.inf)),
            ("pixels", np.where(near, asked.pixels, -np.inf)),
        ):
            true = np.argsort(-likeness, 1)[:, :K]
            found.setdefault(name, []).append(float(np.mean([shared(*pair) for pair in zip(first, true, strict=True)])))
        found.setdefault("ties", []).append(in_ties(asked, detail, tie))
    values = {name: float(np.mean(shares)) for name, shares in found.items()}
    return {
        **values,
        "macro_map10": metrics.macro(metrics.ranking(places(asked, detail), asked.relevant, K).ap, asked.label),
    }


def places(asked: Asked, detail: Ints | Floats) -> Ints:
    """Rank by code, then by detail; ties in both share a rank. (queries, gallery)"""
    both = asked.distance + (detail - detail.min()) / (np.ptp(detail) + 1)
    return np.stack([np.unique(row, return_inverse=True)[1] for row in both])


def in_ties(asked: Asked, detail: Ints | Floats, tie: Floats) -> float:
    shares = []
    for query, tenth in enumerate(asked.tenth[:, 0]):
        group = np.flatnonzero(asked.distance[query] == tenth)
        places = K - int((asked.distance[query] < tenth).sum())
        if len(group) > places:
            first = group[np.lexsort((tie[query, group], detail[query, group]))[:places]]
            true = group[np.argsort(-asked.likeness[query, group])[:places]]
            shares.append(shared(first, true))
    return float(np.mean(shares)) if shares else 1.0


def shared(one: Ints, other: Ints) -> float:
    return len(np.intersect1d(one, other)) / len(other)


def table(found: dict[str, Any]) -> Iterator[str]:
    """Return Markdown."""
    yield f"{found['queries']} queries ({found['split']}), {found['gallery']} cases."
    yield f"Distinct codes: {found['distinct_codes']}; with their detail codes: {found['distinct_with_detail']}."
    near, ties = found["median_near"], found["median_ties"]
    yield f"As near as the tenth hit or nearer: a median of {near:.0f} cases; tied with it: {ties:.0f}."
    yield ""
    yield "| ranked by code, then by | gallery | near | ties | pixels | macro mAP@10 |"
    yield "|---|---|---|---|---|---|"
    for name, row in found["rows"].items():
        yield f"| {name} | " + " | ".join(f"{row[column]:.3f}" for column in COLUMNS) + " |"


if __name__ == "__main__":
    main()
