"""Infer membership from released weights, against the claimed epsilon: the table of docs/explanation/privacy.md.

python tests/benchmarks/private_membership.py --data DIR --work DIR [--runs 200] [--out FILE.json] [--doc FILE.md]

The attacker of `lab/ynet_lab/attacks/released_weights.py`, against one step that spends a plan's whole epsilon: at the
smallest hospital of DIR under the plan `private`, and for 32 synthetic patients under `private-synthetic`. In the last
row the noise is an eighth of what epsilon 1 needs, as if a patient moved the sum by eight times the bound: the attack
detects that.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from learning import PLANS, head, row, write_between
from ynet.config import parse, read_yaml
from ynet.data.cases import CaseCache
from ynet.data.manifest import Manifest, find_sites, read
from ynet.data.synthetic import make_federation
from ynet.learning import accountant
from ynet.learning.model import build
from ynet.plan import Plan
from ynet_lab.attacks.released_weights import attack_step, least_epsilon, rates

EPSILONS = ((1.0, 1.0), (3.0, 1.0), (8.0, 1.0), (1.0, 1 / 8))  # and the share of its noise that is used
BEGIN, END = "<!-- membership from weights -->", "<!-- end of membership from weights -->"
MEMORY = 1 << 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    options = parser.parse_args()
    smallest = min((read(path) for path in find_sites(options.data).values()), key=lambda site: len(site.train))
    sites = {"private": smallest, "private-synthetic": synthetic(options.work / "membership-synthetic")}
    found = {name: [measured(name, site, *one, options.runs) for one in EPSILONS] for name, site in sites.items()}
    text = "\n".join(table(found))
    print(text)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if options.doc:
        write_between(options.doc, BEGIN, END, text)


def synthetic(folder: Path) -> Manifest:
    if not folder.exists():
        make_federation(folder, {"north": 140}, seed=1, size=64)
    return read(folder / "north/manifest.csv")


def measured(name: str, site: Manifest, epsilon: float, share: float, runs: int) -> dict[str, Any]:
    values = read_yaml(PLANS / f"{name}.yaml", "the plan")
    values["training"] = {**values["training"], "rounds": 1}
    plan = parse(Plan, values, name)
    patients = list(dict.fromkeys(case.patient for case in site.train))[:32]
    cases = tuple(case for case in site.train if case.patient in patients)
    cache = CaseCache(site, cases, plan.image, plan.classes, MEMORY)
    _, delta = plan.privacy.bound
    noise = share * accountant.noise_multiplier(epsilon, delta, 1.0, 1)
    owners, secret = [case.patient for case in cases], secrets.token_bytes(32)
    print(f"{name}: {len(patients)} patients, epsilon {epsilon:g}, noise x {share:g}", file=sys.stderr, flush=True)
    released = attack_step(build(plan), plan, cache, owners, patients[-1], noise, secret=secret, runs=runs)
    hits, alarms, judged = rates(released)
    least = least_epsilon(released, delta)
    about = {"patients": len(patients), "epsilon": epsilon, "delta": delta, "noise_share": share, "runs": runs}
    return {**about, "found": hits, "false_alarms": alarms, "judged": judged, "epsilon_at_least": least}


def table(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield from head(
        "plan, patients", "epsilon, delta claimed", "noise drawn", "found", "false alarms", "epsilon at least"
    )
    for name, figures in found.items():
        for one in figures:
            share = "all" if one["noise_share"] == 1 else f"{one['noise_share']:.3f} of it"
            judged = one["judged"]
            yield row(
                f"{name}, {one['patients']}",
                f"{one['epsilon']:g}, {one['delta']:g}",
                share,
                f"{one['found']} of {judged}",
                f"{one['false_alarms']} of {judged}",
                f"{one['epsilon_at_least']:.2f}",
            )


if __name__ == "__main__":
    main()
