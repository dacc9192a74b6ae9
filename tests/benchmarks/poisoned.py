"""A federation of synthetic hospitals with one hostile: plan, data, nodes and attacks, for poisoning.py."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from PIL import Image

from ynet import plan as plans
from ynet import weights
from ynet.data.synthetic import CLASSES
from ynet.errors import UserError
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
from ynet.learning.model import arrays_of, build
from ynet.weights import Flat
from ynet_client.training import app_call, client_app
from ynet_client.training.site_data import LocalSite
from ynet_server.hub.reply_errors import FAILED

SITES, HOSTILE = ("a", "b", "c", "d", "e", "f"), "f"
TRAINED, TESTED, PRETRAINED = 90, 40, 480  # images of a site; others
SIZE, TARGET, PATCH = 64, 0, 5  # pixels; the class that the backdoor leads to; pixels of its mark
UNEVEN, FORGETFUL = {"a": 200, "b": 20, "c": 20, "d": 20, "e": 20}, "c"

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
        "cooldown": 0.2,
        "segmentation_weight": 1.0,
        "evaluate_every": 1000,
    },
    "cohort": {"min_sites": 5, "quorum": 5},
    "privacy": {"mode": "off"},
}


class Sent(NamedTuple):
    """A site's answer to a round."""

    flat: Flat
    cases: float


class Round(NamedTuple):
    """The knowledge of a hostile site when it makes its update."""

    number: int
    sent: Flat
    honest: Sent  # the result of training on its data
    earlier: list[Flat]  # its results of earlier rounds


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
    """Train a round on the weights of a run with another beginning."""
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
""""9 times" and "5 times" stay within the update filter's limit in most rounds."""


class Node:
    """A site of the federation, hostile if it has an attack."""

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
    """A Grid that calls its nodes one after the other, in this process."""

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


def rewrite(manifest: Path, relabel: Callable[[int, int], int | None]) -> None:
    """Change each training row's class by its position and class; None removes the row."""
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
    """Put the first patients, with about this many images, into the training split."""
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
    """Draw the backdoor's mark: a light square in a corner, like a scanner's tag."""
    pixels = np.array(Image.open(image))
    pixels[2 : 2 + PATCH, 2 : 2 + PATCH] = 200
    Image.fromarray(pixels).save(image)


def mark_half(manifest: Path) -> None:
    """Give every second training image the mark and the target class."""
    with manifest.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            if number % 2 == 0:
                mark(manifest.parent / row["image"])
    rewrite(manifest, lambda row, label: TARGET if row % 2 == 0 else label)
