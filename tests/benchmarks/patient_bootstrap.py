"""Compare two models' macro mAP@10, with an interval for the choice of patients.

python tests/benchmarks/patient_bootstrap.py --data DIR --model FOLDER --against FOLDER [FOLDER ...] [--validation]
    [--draws 2000]

The folders are those of finished models, as `ynet-lab simulate` leaves them. The queries' patients are bootstrapped
(the gallery stays): 95 % of the draws lie in the interval shown. Seeds do not vary.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import find_sites
from ynet.learning import metrics
from ynet.learning.evaluate import K, encode, join
from ynet.learning.hashing import hamming
from ynet.learning.model import build, load_arrays
from ynet_client.training.site_data import LocalSite
from ynet_server.rounds.run_folder import MODEL, PLAN

Floats = npt.NDArray[np.float64]


class Queries(NamedTuple):
    """The queries of all sites, numbered."""

    precision: Floats  # average precision at K
    label: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]  # numbered over all sites


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--against", type=Path, nargs="+", required=True)
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    first = ask(given.model, given.data, given.validation)
    drawn = draws(first, given.draws)
    print(f"{given.model}: {shown(macro(first, w) for w in drawn)} over {first.patient.max() + 1} patients")
    for folder in given.against:
        other = ask(folder, given.data, given.validation)
        print(f"{folder} minus it: {shown(macro(other, w) - macro(first, w) for w in drawn)}")


def ask(folder: Path, data: Path, is_validation: bool) -> Queries:
    """Score every site's queries against all sites' galleries."""
    plan = plans.from_canonical((folder / PLAN).read_text("utf-8"))
    net, held, asked, patients = build(plan), [], [], list[tuple[str, str]]()
    load_arrays(net, weights.load(folder / MODEL)[0])
    for name, manifest in find_sites(data).items():
        site = LocalSite(manifest, "cpu", 1 << 30, is_validation=is_validation)
        gallery, queries = site.cases(plan)
        held.append(encode(net, gallery, site.device))
        asked.append(encode(net, queries, site.device))
        patients += [(name, case.patient) for case in site.manifest(plan.training.seed).test]
    gallery_codes, query_codes = join(held), join(asked)
    relevant = query_codes.label[:, None] == gallery_codes.label[None, :]
    found = metrics.ranking(hamming(query_codes.codes, gallery_codes.codes), relevant, K)
    return Queries(found[0], query_codes.label, np.unique(patients, axis=0, return_inverse=True)[1])


def draws(queries: Queries, count: int) -> list[Floats]:
    """Yield the weight of each query: first every patient once, then as often as drawn."""
    patients, random = int(queries.patient.max()) + 1, np.random.default_rng(1)
    times = random.multinomial(patients, np.full(patients, 1 / patients), count).astype(np.float64)
    return [np.ones(len(queries.patient)), *times[:, queries.patient]]


def macro(queries: Queries, weight: Floats) -> float:
    """Return the mean over the classes of their queries' mean, without classes that were not drawn."""
    classes = [queries.label == label for label in np.unique(queries.label)]
    return float(np.mean([np.average(queries.precision[c], weights=weight[c]) for c in classes if weight[c].any()]))


def shown(figures: Iterable[float]) -> str:
    first, *drawn = figures
    low, high = np.percentile(drawn, [2.5, 97.5])
    return f"{first:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
