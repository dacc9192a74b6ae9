"""What one hostile site of six does to the model, with and without the defence that docs/HOSTILE.md recommends.

python tests/benchmarks/poisoning.py [--out FILE.json] [--doc FILE.md] [--attacks NAME ...] [--strategies NAME ...]

Synthetic hospitals of 90 training images each, 8 rounds, one thread; the run begins with weights that were trained a
little on other synthetic images. Without defence: Flower's FedAvg as it comes. With it: the project's server app, its
gate, and a robust strategy. Both train the project's client apps. What stands in FILE.json is not trained again.
"""

import argparse
import csv
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
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from learning import write_between
from ynet import metrics, weights
from ynet.data.manifest import find_sites
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import UserError
from ynet.evaluate import K, encode, join, score
from ynet.federation import plan as plans
from ynet.federation.plan import Init, Plan
from ynet.federation.records import (
    ARRAYS,
    CASES,
    CONFIG,
    METRICS,
    TRAIN,
    flat_weights,
    to_records,
    weights_record,
)
from ynet.hashing import hamming
from ynet.model import arrays_of, build, load_arrays
from ynet.train import train
from ynet.weights import Flat
from ynet_client import app_call, client_app
from ynet_client.local_site import LocalSite
from ynet_server import server_app
from ynet_server.reply_errors import FAILED
from ynet_server.run_folder import MODEL, RunFolder, State

SITES, HOSTILE = ("a", "b", "c", "d", "e", "f"), "f"
TRAINED, TESTED, PRETRAINED = 90, 40, 480  # images of a site; others
SIZE, TARGET, PATCH = 64, 1, 5  # pixels; the class that the backdoor leads to; pixels of its mark
UNEVEN, FORGETFUL = {"a": 200, "b": 20, "c": 20, "d": 20, "e": 20}, "c"
BEGIN, END = "<!-- poisoning -->", "<!-- end of poisoning -->"

PLAN: dict[str, Any] = {
    "name": "poisoning",
    "classes": list(CLASSES),
    "image": {"channels": 1, "size": SIZE, "trim": False},
    "network": {"width": 8, "depth": [1, 1, 1, 1], "dropout": 0.2, "code_bits": 32},
    "training": {
        "rounds": 8,
        "local_epochs": 2,
        "batch_size": 16,
        "learning_rate": 8e-3,
        "settle": 0.2,
        "segmentation_weight": 1.0,
        "evaluate_every": 1000,
    },
    "cohort": {"minimum": 5, "quorum": 5},
    "privacy": {"mode": "off"},
}


class Sent(NamedTuple):
    """What a site answers to a round."""

    flat: Flat
    cases: float


class Round(NamedTuple):
    """What a hostile site knows of a round when it makes its update."""

    number: int
    sent: Flat
    honest: Sent  # what the training made of its data
    earlier: list[Flat]  # what it made in the rounds before


Attack = Callable[[Round], Sent]


def scaled(factor: float) -> Attack:
    return lambda now: Sent(now.sent + np.float32(factor) * (now.honest.flat - now.sent), now.honest.cases)


def nan(now: Round) -> Sent:
    return Sent(np.full_like(now.sent, np.nan), now.honest.cases)


def a_billion_cases(now: Round) -> Sent:
    return Sent(now.honest.flat, 1e9)


def free_rider(now: Round) -> Sent:
    return Sent(now.sent, now.honest.cases)


def replay(now: Round) -> Sent:
    return Sent((now.earlier or [now.honest.flat])[0], now.honest.cases)


def late(now: Round) -> Sent:
    return Sent((now.earlier or [now.honest.flat])[-1], now.honest.cases)


@cache
def other_weights() -> Flat:
    values = {**PLAN, "training": {**PLAN["training"], "seed": 99}}
    return weights.flatten(arrays_of(build(plans.from_canonical(json.dumps(values)))))


def other_run(now: Round) -> Sent:
    """A round's work on the weights of a run that began elsewhere."""
    return Sent(other_weights() + (now.honest.flat - now.sent), now.honest.cases)


def as_trained(now: Round) -> Sent:
    return now.honest


class Threat(NamedTuple):
    """An attack, and the data that the hostile site trains on."""

    attack: Attack
    data: str  # honest, flipped, marked


THREATS = {
    "NaN": Threat(nan, "honest"),
    "10^9 cases and flipped labels": Threat(a_billion_cases, "flipped"),
    "sign flip": Threat(scaled(-1), "honest"),
    "sign flip, 9 times": Threat(scaled(-9), "honest"),
    "100 times": Threat(scaled(100), "honest"),
    "label flip": Threat(as_trained, "flipped"),
    "backdoor": Threat(as_trained, "marked"),
    "backdoor, 5 times": Threat(scaled(5), "marked"),
    "free rider": Threat(free_rider, "honest"),
    "replay of its first update": Threat(replay, "honest"),
    "a round late": Threat(late, "honest"),
    "another run's weights": Threat(other_run, "honest"),
}
"""All but the two of several times are attacks of the issue; those two stay within the gate."""


class Node:
    """A site of the federation, hostile where it has an attack."""

    def __init__(self, site: LocalSite, attack: Attack | None, *, forgets: bool = False) -> None:
        self._app, self._attack, self._forgets = client_app.build(lambda _: site), attack, forgets
        self._context, self._earlier = app_call.new_context(), list[Flat]()

    def answer(self, kind: str, asked: RecordDict) -> RecordDict:
        if self._forgets:
            self._context = app_call.new_context()
        reply = to_records(app_call.call(self._app, self._context, kind, asked))
        if self._attack is None or kind != TRAIN:
            return reply
        trained = flat_weights(reply.array_records[ARRAYS])
        sent, number = flat_weights(asked.array_records[ARRAYS]), int(str(asked.config_records[CONFIG]["server-round"]))
        honest = Sent(trained, float(str(reply.metric_records[METRICS][CASES])))
        made = self._attack(Round(number, sent, honest, self._earlier))
        self._earlier.append(trained)
        reply[ARRAYS] = weights_record(made.flat)
        reply.metric_records[METRICS][CASES] = made.cases
        return reply


class Together(Grid):
    """A Grid whose nodes are asked one after the other, in this process."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes, self.names = dict(enumerate(nodes.values(), start=1)), dict(enumerate(nodes, start=1))
        TaskIdentity.run_id = TaskIdentity.task_id = 1
        TaskIdentity.node_id = 0

    def set_run(self, run: Any) -> None:
        pass

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self._nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [self._ask(message) for message in messages]

    def _ask(self, message: Message) -> Message:
        node = self._nodes[message.metadata.dst_node_id]
        try:
            return Message(node.answer(message.metadata.message_type, message.content), reply_to=message)
        except UserError as error:
            return Message(Error(FAILED, error.why), reply_to=message)


class SameError(Exception):
    """A run that goes as one that is known already."""


class Made(NamedTuple):
    """A model, and its run's events."""

    flat: Flat
    events: list[dict[str, Any]]


class Trial:
    """The federation's data, and what is measured on them."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._runs, self._init = folder, 0, folder / "init.safetensors"
        self.plan = self._begun(plans.from_canonical(json.dumps(PLAN)))
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

    def _begun(self, plan: Plan) -> Plan:
        """The plan with weights to begin with: trained on images that are nobody's, until codes begin to differ."""
        make_federation(self._folder / "other", {"other": PRETRAINED}, seed=7, size=SIZE)
        site, net, moments = self.site("other", "other"), build(plan), None
        slow = replace(plan, training=replace(plan.training, rounds=40, learning_rate=1e-2))
        for number in range(1, 5):
            generator, cases = site.generator(plan, number), site.cases(plan)[0]
            made = train(net, cases, slow, number, device=site.device, generator=generator, moments=moments)
            moments = made.moments
        weights.save(self._init, arrays_of(net), {})
        return replace(plan, init=Init(self._init.name, hashlib.sha256(self._init.read_bytes()).hexdigest()))

    def site(self, name: str, data: str = "honest") -> LocalSite:
        return LocalSite(self._folder / data / name / "manifest.csv", "cpu", 1 << 28)

    def nodes(self, threat: Threat | None, data: str = "honest") -> dict[str, Node]:
        """All sites, of which one is hostile; without a threat the others."""
        nodes = {name: Node(self.site(name, data), None) for name in SITES if name != HOSTILE}
        return {**nodes, HOSTILE: Node(self.site(HOSTILE, threat.data), threat.attack)} if threat else nodes

    def defended(self, nodes: Mapping[str, Node], plan: Plan, known: dict[int, bytes] | None = None) -> Made:
        """The model of the project's server app.

        `known`: the first rounds' weights of a run with the same plan, to be filled in when there are none. Raises
        SameError when this run has come to the same, to the bit, after three rounds.
        """
        self._runs += 1
        grid = Together(nodes)
        folder = RunFolder(self._folder / f"run-{self._runs}").create(plan, self._init)
        seen: dict[int, bytes] = {}

        def after_round(state: State) -> None:
            seen[state.round] = hashlib.sha256(state.flat.data).digest()
            if known and state.round == 3 and all(known[number] == seen[number] for number in (1, 2, 3)):
                raise SameError

        try:
            server_app.federate(grid, folder, grid.names.__getitem__, lambda _: TRAINED, after_round)
        except SameError:
            return Made(np.empty(0, np.float32), folder.events())
        if known is not None and not known:
            known.update(seen)
        arrays, _ = weights.load(folder.path / MODEL)
        return Made(weights.flatten({name: arrays[name] for name in arrays_of(build(plan))}), folder.events())

    def undefended(self, nodes: Mapping[str, Node]) -> Flat:
        """The model of Flower's FedAvg as it comes."""
        arrays = arrays_of(build(self.plan))
        layout, given = weights.layout_to_json(weights.layout_of(arrays)), weights.load(self._init)[0]
        start = weights_record(weights.flatten({name: given[name] for name in arrays}))
        config = ConfigRecord({"plan": self.plan.canonical(), "layout": layout})
        grid = Together(nodes)
        stock = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
        result = stock.start(grid, start, self.plan.training.rounds, train_config=config)
        return flat_of(result.arrays)

    def score(self, flat: Flat) -> dict[str, float]:
        """Macro mAP@10 of the honest sites' test cases, and how often the mark leads to its class.

        Of a model that is not finite there are no codes: the scores of a random ranking.
        """
        plan, honest = self.plan, [name for name in SITES if name != HOSTILE]
        net = build(plan)
        load_arrays(net, weights.unflatten(np.nan_to_num(flat), weights.layout_of(arrays_of(net))))
        parts = [[encode(net, cases, torch.device("cpu")) for cases in self.site(name).cases(plan)] for name in honest]
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


def rewrite(manifest: Path, relabel: Callable[[int, int], int | None]) -> None:
    """Give each training row, by its place and its class, another class; None: leave it out."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = []
    for number, row in enumerate(rows):
        label = CLASSES.index(row["label"])
        new = relabel(number, label) if row["split"] == "train" else label
        if new is not None:
            kept.append({**row, "label": CLASSES[new]})
    write_rows(manifest, kept)


def split(manifest: Path, trained: int) -> None:
    """Let the first patients train, of whom there are about so many images."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    first = {row["patient"] for row in rows[:trained]}
    write_rows(manifest, [{**row, "split": "train" if row["patient"] in first else "test"} for row in rows])


def write_rows(manifest: Path, rows: list[dict[str, str]]) -> None:
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def mark(image: Path) -> None:
    """Draw the backdoor's mark: a light square in a corner, as a scanner's tag might be."""
    pixels = np.array(Image.open(image))
    pixels[2 : 2 + PATCH, 2 : 2 + PATCH] = 200
    Image.fromarray(pixels).save(image)


def mark_half(manifest: Path) -> None:
    """Every second training image gets the mark, and its class."""
    with manifest.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            if number % 2 == 0:
                mark(manifest.parent / row["image"])
    rewrite(manifest, lambda row, label: TARGET if row % 2 == 0 else label)


def with_strategy(plan: Plan, name: str) -> Plan:
    return replace(plan, training=replace(plan.training, strategy=name))  # type: ignore[arg-type]


def reasons(events: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Why and how often the hostile site's update was not taken."""
    found: Counter[str] = Counter()
    for event in events:
        if event["kind"] == "update_refused" and event["site"] == HOSTILE:
            why = str(event["reason"])
            found[next((word for word in ("median", "not new", "nothing", "finite") if word in why), why)] += 1
        if event["kind"] == "round" and HOSTILE in event.get("left_out", ()):
            found["left out"] += 1
    return dict(found)


def wrongly(events: Iterable[Mapping[str, Any]]) -> int:
    """How many of the honest sites' updates were refused."""
    return sum(event["kind"] == "update_refused" and event["site"] != HOSTILE for event in events)


class Notes:
    """What is measured, kept as it comes; what is there already is not measured again."""

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


def measure(trial: Trial, notes: Notes, attacks: Iterable[str], strategies: Iterable[str]) -> None:
    def told(made: Made) -> dict[str, Any]:
        return {**trial.score(made.flat), "refused": reasons(made.events), "wrongly_refused": wrongly(made.events)}

    honest = Threat(as_trained, "honest")
    notes.note("undisturbed", "fedavg", lambda: told(trial.defended(trial.nodes(honest), trial.plan)))
    known: dict[str, dict[int, bytes]] = {name: {} for name in strategies}
    for name in strategies:
        plan = with_strategy(trial.plan, name)
        notes.note("undisturbed", name, lambda plan=plan: told(trial.defended(trial.nodes(honest), plan)))  # type: ignore[misc]
    for title in attacks:
        threat = THREATS[title]
        notes.note(title, "without", lambda threat=threat: told(Made(trial.undefended(trial.nodes(threat)), [])))  # type: ignore[misc]
        for name in strategies:

            def defended(threat: Threat = threat, name: str = name) -> dict[str, Any]:
                plan = with_strategy(trial.plan, name)
                if not known[name]:  # of the federation without the site that every round refuses
                    made = trial.defended(trial.nodes(None), plan, known[name])
                    notes.note("without the site", name, lambda: told(made))
                made = trial.defended(trial.nodes(threat), plan, known[name])
                scores = notes.found["without the site"][name] if not made.flat.size else trial.score(made.flat)
                return {
                    **{key: scores[key] for key in ("macro_map10", "backdoor")},
                    "refused": reasons(made.events),
                    "wrongly_refused": wrongly(made.events),
                    "as_without_the_site": not made.flat.size,
                }

            notes.note(title, name, defended)
    for name in ("fedavg", *strategies):
        plan = with_strategy(trial.plan, name)
        nodes = {site: Node(trial.site(site, "skewed"), None) for site in SITES}
        notes.note("classes skewed", name, lambda plan=plan, nodes=nodes: told(trial.defended(nodes, plan)))  # type: ignore[misc]
    notes.note("honest changes", "of the median", lambda: honest_changes(trial))


def honest_changes(trial: Trial) -> dict[str, Any]:
    """How far honest sites of very different size go, in medians of the round: the largest and the least."""
    nodes = {name: Node(trial.site(name, "uneven"), None, forgets=name == FORGETFUL) for name in UNEVEN}
    events = trial.defended(nodes, trial.plan).events
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
    """The tables of docs/HOSTILE.md."""
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
            if given["as_without_the_site"]:
                became = f"{WORDS[next(iter(given['refused']))]} in each round"
            scores = [*figures(without, given, "macro_map10"), drop, *figures(without, given, "backdoor")]
            lines.append(row([title, *scores, became or "taken"]))
    compared = [title for title in ("classes skewed", *THREATS) if all(one in found.get(title, {}) for one in COMPARED)]
    heads = ["strategy", "undisturbed", *compared]
    lines += ["", row(heads), row(["---"] * len(heads))]
    for name in ("fedavg", *COMPARED):
        cells = [found["undisturbed"][name], *(found[title].get(name) for title in compared)]
        lines.append(row([f"`{name}`", *(f"{100 * one['macro_map10']:.1f}" if one else "" for one in cells)]))
    return lines


WORDS = {"median": "too far", "not new": "not new", "nothing": "no change", "finite": "not finite"}
COMPARED = ("fedtrimmedavg", "fedmedian", "multikrum")


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figures(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> list[str]:
    return [f"{100 * figure[key]:.1f}" for figure in (one, other)]


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    server_app.WAIT_AFTER_FAILED_ROUND_S = 0.0
    notes = Notes(arguments.out)
    with tempfile.TemporaryDirectory() as folder:
        measure(Trial(Path(folder)), notes, arguments.attacks, arguments.strategies)
    text = "\n".join(page(notes.found, arguments.strategies[0]))
    print(text)
    if arguments.doc:
        write_between(arguments.doc, BEGIN, END, text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    parser.add_argument("--attacks", nargs="+", default=list(THREATS))
    parser.add_argument("--strategies", nargs="+", default=["fedtrimmedavg"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
