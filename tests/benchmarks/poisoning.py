"""Measure how one hostile site of six harms the model, without defence and with that of hostile-sites.md.

python tests/benchmarks/poisoning.py [--out FILE.json] [--doc FILE.md] [--attacks NAME ...] [--strategies NAME ...]

Synthetic hospitals of 90 training images each, 8 rounds, one thread; the run begins with weights that were trained a
little on other synthetic images. Without defence: Flower's plain FedAvg. With it: the project's server app, its update
filter, and a robust strategy. Both train the project's client apps. Entries of FILE.json are not trained again.
"""

import argparse
import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg

from learning import write_between
from poisoned import (
    FORGETFUL,
    HOSTILE,
    PLAN,
    PRETRAINED,
    SITES,
    SIZE,
    TARGET,
    TESTED,
    THREATS,
    TRAINED,
    UNEVEN,
    Node,
    Threat,
    Together,
    as_trained,
    mark,
    mark_half,
    rewrite,
    split,
)
from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet.federation.records import (
    weights_record,
)
from ynet.learning import metrics
from ynet.learning.evaluate import K, encode, join, score
from ynet.learning.hashing import hamming
from ynet.learning.model import arrays_of, build, load_arrays
from ynet.learning.train import train
from ynet.plan import Plan
from ynet.plan_sections import Init
from ynet.weights import Flat
from ynet_client.training.site_data import LocalSite
from ynet_server.rounds import attendance, server_app
from ynet_server.rounds.run_folder import MODEL, RunFolder, State

BEGIN, END = "<!-- poisoning -->", "<!-- end of poisoning -->"


class SameError(Exception):
    """A run equals an earlier one, whose name is the text."""


class Made(NamedTuple):
    """A model and its run's events."""

    flat: Flat
    events: list[dict[str, Any]]


class Trial:
    """The federation's data, and the measurements on them."""

    def __init__(self, folder: Path, pretrained: int = 10) -> None:
        self._folder, self._init = folder, folder / "init.safetensors"
        self._seen: dict[tuple[str, str], dict[int, bytes]] = {}  # by plan and run: the weights after each round
        self.plan = self._begun(plans.from_canonical(json.dumps(PLAN)), pretrained)
        make_federation(folder / "honest", dict.fromkeys(SITES, TRAINED + TESTED), seed=1, size=SIZE)
        make_federation(folder / "uneven", UNEVEN, seed=1, size=SIZE)
        for manifest in find_sites(folder / "honest").values():
            split(manifest, TRAINED)
        for manifest in find_sites(folder / "uneven").values():
            split(manifest, 10_000)
        for data in ("flipped", "marked"):
            shutil.copytree(folder / "honest" / HOSTILE, folder / data / HOSTILE)
        rewrite(folder / "flipped" / HOSTILE / "manifest.csv", lambda _, label: (label + 1) % 3)
        mark_half(folder / "marked" / HOSTILE / "manifest.csv")
        shutil.copytree(folder / "honest", folder / "asked")
        for image in (folder / "asked").glob("*/images/*.png"):
            mark(image)
        shutil.copytree(folder / "honest", folder / "skewed")
        for place, manifest in enumerate(find_sites(folder / "skewed").values()):
            rewrite(manifest, lambda row, label, own=place % 3: label if label == own or row % 5 == 0 else None)  # type: ignore[misc]

    def _begun(self, plan: Plan, rounds: int) -> Plan:
        """Return the plan with initial weights, trained for a while on synthetic images."""
        make_federation(self._folder / "other", {"other": PRETRAINED}, seed=7, size=SIZE)
        site, net, moments = self.site("other", "other"), build(plan), None
        slow = replace(plan, training=replace(plan.training, rounds=40, learning_rate=1e-2))
        for number in range(1, rounds + 1):
            generator, cases = site.generator(plan, number), site.cases(plan)[0]
            made = train(net, cases, slow, number, device=site.device, generator=generator, moments=moments)
            moments = made.moments
        weights.save(self._init, arrays_of(net), {})
        return replace(plan, init=Init(self._init.name, hashlib.sha256(self._init.read_bytes()).hexdigest()))

    def site(self, name: str, data: str = "honest") -> LocalSite:
        return LocalSite(self._folder / data / name / "manifest.csv", "cpu", 1 << 28)

    def nodes(self, threat: Threat | None, data: str = "honest") -> dict[str, Node]:
        """Return all sites, one of them hostile; without a threat only the others."""
        nodes = {name: Node(self.site(name, data), None) for name in SITES if name != HOSTILE}
        return {**nodes, HOSTILE: Node(self.site(HOSTILE, threat.data), threat.attack)} if threat else nodes

    def defended(self, nodes: Mapping[str, Node], plan: Plan, title: str) -> Made:
        """Train with the project's server app. It is deterministic.

        Raises SameError if after three rounds the weights are bit-identical to an earlier run of this plan: the
        hostile site's updates are then refused in every round, or count as in that run.
        """
        folder = RunFolder(Path(tempfile.mkdtemp(dir=self._folder))).create(plan, self._init)
        seen = self._seen.setdefault((plan.id, title), {})

        def after_round(state: State) -> None:
            seen[state.round] = hashlib.sha256(state.flat.data).digest()
            for (plan_id, other), weights_of in self._seen.items():
                is_same = all(weights_of.get(number) == seen.get(number) for number in (1, 2, 3))
                if state.round == 3 and plan_id == plan.id and other != title and is_same:
                    raise SameError(other)

        grid = Together(nodes)
        server_app.federate(grid, folder, grid.names.__getitem__, lambda _: TRAINED, after_round)
        arrays, _ = weights.load(folder.path / MODEL)
        return Made(weights.flatten({name: arrays[name] for name in arrays_of(build(plan))}), folder.events())

    def undefended(self, nodes: Mapping[str, Node]) -> Flat:
        """Train with Flower's plain FedAvg."""
        arrays = arrays_of(build(self.plan))
        layout, given = weights.layout_to_json(weights.layout_of(arrays)), weights.load(self._init)[0]
        start = weights_record(weights.flatten({name: given[name] for name in arrays}))
        config = ConfigRecord({"plan": self.plan.canonical(), "layout": layout})
        grid = Together(nodes)
        stock = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        result = stock.start(grid, start, self.plan.training.rounds, train_config=config)
        return flat_of(result.arrays)

    def score(self, flat: Flat) -> dict[str, float]:
        """Return macro mAP@10 of the honest sites' test cases, and how often the mark leads to its class.

        A model that is not finite has no codes and scores as a random ranking.
        """
        plan, honest = self.plan, [name for name in SITES if name != HOSTILE]
        net = build(plan)
        load_arrays(net, weights.unflatten(np.nan_to_num(flat), weights.layout_of(arrays_of(net))))
        parts = [
            [encode(net, cases, torch.device("cpu"), site=number) for cases in self.site(name).cases(plan)]
            for number, name in enumerate(honest)
        ]
        held, asked = (join([part[side] for part in parts]) for side in (0, 1))
        marked = join([encode(net, self.site(n, "asked").cases(plan)[1], torch.device("cpu")) for n in honest])
        others = marked.label != TARGET
        distances = hamming(marked.codes[others], held.codes)
        is_target = np.broadcast_to(held.label == TARGET, distances.shape)
        shares = metrics.ranking(distances, is_target, K).hit_ratio
        found = score(held, asked, plan)
        is_finite = bool(np.isfinite(flat).all())
        return {
            "macro_map10": round(found.macro_map10 if is_finite else found.macro_map10_random, 4),
            "backdoor": round(float(np.mean(shares > 0.5)) if is_finite else 0.0, 4),
        }


def flat_of(record: ArrayRecord) -> Flat:
    return weights.join([record[key].numpy().astype(np.float32) for key in sorted(record)])


def with_strategy(plan: Plan, name: str) -> Plan:
    return replace(plan, training=replace(plan.training, strategy=name))  # type: ignore[arg-type]


def reasons(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Count the refusals of the hostile site's update by reason."""
    found: Counter[str] = Counter()
    for event in events:
        if event["kind"] == "update_refused" and event["site"] == HOSTILE:
            why = str(event["reason"])
            found[next((word for word in ("median", "not new", "nothing", "finite") if word in why), why)] += 1
        if event["kind"] == "round" and HOSTILE in event.get("left_out", ()):
            found["left out"] += 1
    return dict(found)


def wrongly(events: Iterable[Mapping[str, Any]]) -> int:
    """Count the refused updates of honest sites."""
    return sum(event["kind"] == "update_refused" and event["site"] != HOSTILE for event in events)


class Notes:
    """Measurements, saved as they come; existing ones are not repeated."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path and path.exists() else {}

    def note(self, part: str, key: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        place = self.found.setdefault(part, {})
        if key not in place:
            begun = time.monotonic()
            place[key] = work()
            print(f"{part}, {key}: {place[key]}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            if self._path:
                self._path.write_text(json.dumps(self.found, indent=1) + "\n", "utf-8")
        return dict(place[key])


def measure(trial: Trial, notes: Notes, attacks: Iterable[str], strategies: Iterable[str], *, skewed: bool) -> None:
    notes.note("honest changes", "of the median", lambda: honest_changes(trial))
    for name in ("fedavg", *strategies):
        nodes = trial.nodes(Threat(as_trained, "honest"))
        notes.note(
            "undisturbed", name, partial(defended, trial, notes, with_strategy(trial.plan, name), nodes, "undisturbed")
        )
    for name in strategies:
        plan = with_strategy(trial.plan, name)
        notes.note(
            "without the site", name, partial(defended, trial, notes, plan, trial.nodes(None), "without the site")
        )
    for title in attacks:
        threat = THREATS[title]
        notes.note(title, "without", partial(undefended, trial, threat))
        for name in strategies:
            plan = with_strategy(trial.plan, name)
            notes.note(title, name, partial(defended, trial, notes, plan, trial.nodes(threat), title))
    for name in ("fedavg", *strategies) if skewed else ():
        nodes = {site: Node(trial.site(site, "skewed"), None) for site in SITES}
        plan = with_strategy(trial.plan, name)
        notes.note("classes skewed", name, partial(defended, trial, notes, plan, nodes, "classes skewed"))


def defended(trial: Trial, notes: Notes, plan: Plan, nodes: Mapping[str, Node], title: str) -> dict[str, Any]:
    try:
        made = trial.defended(nodes, plan, title)
    except SameError as error:
        return {**notes.found[str(error)][plan.training.strategy], "as": str(error)}
    return {**trial.score(made.flat), "refused": reasons(made.events), "wrongly_refused": wrongly(made.events)}


def undefended(trial: Trial, threat: Threat) -> dict[str, Any]:
    return trial.score(trial.undefended(trial.nodes(threat)))


def honest_changes(trial: Trial) -> dict[str, Any]:
    """Measure the distance of honest sites of very different size, in medians of the round."""
    nodes = {name: Node(trial.site(name, "uneven"), None, forgets=name == FORGETFUL) for name in UNEVEN}
    events = trial.defended(nodes, trial.plan, "uneven").events
    found: dict[str, list[float]] = {name: [] for name in UNEVEN}
    for event in events:
        if event["kind"] == "round":
            changes = {site: figures["change"] for site, figures in event["sites"].items()}
            for site, change in changes.items():
                found[site].append(round(change / float(np.median(list(changes.values()))), 3))
    return {
        "cases": UNEVEN,
        "without moments": FORGETFUL,
        "of the median": found,
        "refused": sum(event["kind"] == "update_refused" for event in events),
    }


def page(found: Mapping[str, Any], recommended: str) -> list[str]:
    """Return the tables of docs/explanation/hostile-sites.md."""
    base = found["undisturbed"]["fedavg"]
    heads = ["attack", "without defence", "with it", "drop", "marked: without", "with", "what became of its updates"]
    lines = [row(heads), row(["---"] * len(heads))]
    calm = found["undisturbed"][recommended]
    lines.append(row(["none", *figures(base, calm, "macro_map10"), "", *figures(base, calm, "backdoor"), ""]))
    for title in THREATS:
        if recommended in found.get(title, {}):
            without, given = found[title]["without"], found[title][recommended]
            drop = f"{100 * (base['macro_map10'] - given['macro_map10']):.1f}"
            became = ", ".join(f"{WORDS.get(why, why)} in {number}" for why, number in given["refused"].items())
            if "as" in given:
                became = f"bit-identical to the run {given['as']}"
            scores = [*figures(without, given, "macro_map10"), drop, *figures(without, given, "backdoor")]
            lines.append(row([title, *scores, became or "taken"]))
    calm_titles = [title for title in ("undisturbed", "without the site", "classes skewed") if title in found]
    lines += ["", row(["strategy", *calm_titles]), row(["---"] * (1 + len(calm_titles)))]
    for name in found["undisturbed"]:
        cells = [found[title].get(name) for title in calm_titles]
        lines.append(row([f"`{name}`", *(f"{100 * one['macro_map10']:.1f}" if one else "" for one in cells)]))
    return lines


WORDS = {
    "median": "too far",
    "not new": "not new",
    "nothing": "no change",
    "finite": "not finite",
}


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figures(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> list[str]:
    return [f"{100 * figure[key]:.1f}" for figure in (one, other)]


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    attendance.WAIT_AFTER_FAILED_ROUND_S = 0.0
    notes = Notes(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        measure(
            Trial(Path(folder), arguments.pretrained),
            notes,
            arguments.attacks,
            arguments.strategies,
            skewed=not arguments.even,
        )
    text = "\n".join(page(notes.found, arguments.strategies[0]))
    print(text)
    if arguments.doc:
        write_between(arguments.doc, BEGIN, END, text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    parser.add_argument("--attacks", nargs="+", default=list(THREATS))
    parser.add_argument("--strategies", nargs="+", default=["fedmedian"])
    parser.add_argument("--pretrained", type=int, default=10, help="rounds on others' images; 4: codes hardly differ")
    parser.add_argument("--even", action="store_true", help="leave out the federation whose sites have other classes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
