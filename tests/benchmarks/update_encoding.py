"""Measure updates in 16 and in 8 bits: bytes and accuracy on the demo's synthetic hospitals.

python tests/benchmarks/update_encoding.py [--seeds 1] [--rounds 18] [--out FILE.json]

The sites' apps and the server's rounds are those of a deployment, run one after the other in this process. Messages are
written as the files that cross the wire.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from ynet import plan as plans
from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet.federation import content
from ynet.federation.records import TRAIN, to_content, to_records
from ynet.plan import Plan
from ynet_client.training import app_call, client_app
from ynet_client.training.site_data import LocalSite
from ynet_server.rounds.run_folder import RunFolder
from ynet_server.rounds.server_app import federate

SIZES = {"A": 180, "B": 120, "C": 60}
PLAN = Path(__file__).parents[2] / "configs/plans/demo.yaml"
METRICS = ("macro_map10", "dice", "balanced_accuracy")


class Here(Grid):
    """A Grid whose sites answer at once in this process; it counts the bytes of their updates."""

    def __init__(self, sites: dict[str, LocalSite], spool: Path) -> None:
        self._sites = {number: _node(site) for number, site in enumerate(sites.values(), start=1)}
        self._spool, self.updates = spool, list[int]()
        TaskIdentity.run_id = TaskIdentity.task_id = 1
        TaskIdentity.node_id = 0

    def set_run(self, run: Any) -> None:
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def create_message(self, content: RecordDict, message_type: str, dst_node_id: int, *_: Any) -> Message:
        return Message(content=content, message_type=message_type, dst_node_id=dst_node_id)

    def get_node_ids(self) -> Iterable[int]:
        return list(self._sites)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        app, context = self._sites[message.metadata.dst_node_id]
        asked, path = to_records(self._through(to_content(message.content))[0]), message.metadata.message_type
        reply, size = self._through(app_call.call(app, context, path, asked))
        if path == TRAIN:
            self.updates.append(size)
        return Message(to_records(reply), reply_to=message)

    def _through(self, sent: content.Content) -> tuple[content.Content, int]:
        written = content.write(self._spool / "message", sent)
        return content.read(self._spool / "message"), written.size_bytes


def _node(site: LocalSite) -> tuple[ClientApp, Context]:
    return client_app.build(lambda _: site), app_call.new_context()


def trained(plan: Plan, data: Path, folder: Path) -> dict[str, float]:
    """Train one run; return its scores, its updates' bytes, its seconds of processor time."""
    sites = {name: LocalSite(path, "cpu", 1 << 28) for name, path in find_sites(data).items()}
    (folder / "run").mkdir(parents=True)
    grid, begun = Here(sites, folder), time.process_time()
    federate(grid, RunFolder(folder / "run").create(plan))
    scores = RunFolder(folder / "run").card()["scores"].values()
    found = {metric: statistics.mean(one[metric] for one in scores) for metric in METRICS}
    return {**found, "update_bytes": statistics.mean(grid.updates), "seconds": time.process_time() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    demo, figures = plans.read(PLAN), dict[str, list[dict[str, float]]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_federation(folder / "data", SIZES, seed=1)
        for seed in range(1, arguments.seeds + 1):
            for encoding in ("float32", "float16", "int8"):
                training = replace(demo.training, update_encoding=encoding, seed=seed, evaluate_every=1000)  # type: ignore[arg-type]
                training = replace(training, rounds=arguments.rounds or demo.training.rounds)
                done = trained(replace(demo, training=training), folder / "data", folder / f"{encoding}-{seed}")
                figures.setdefault(encoding, []).append(done)
                print(encoding, seed, {key: round(value, 4) for key, value in done.items()}, flush=True)
    keys = ("update_bytes", *METRICS, "seconds")
    means = {name: {key: statistics.mean(run[key] for run in runs) for key in keys} for name, runs in figures.items()}
    print("\n| encoding | bytes of an update | share | macro mAP@10 | Dice | balanced accuracy | processor s |")
    print("|---|---|---|---|---|---|---|")
    for encoding, mean in means.items():
        share = mean["update_bytes"] / means["float32"]["update_bytes"]
        scores = " | ".join(f"{mean[metric]:.3f}" for metric in METRICS)
        print(f"| `{encoding}` | {mean['update_bytes']:,.0f} | {share:.3f} | {scores} | {mean['seconds']:.0f} |")
    if arguments.out:
        arguments.out.write_text(
            json.dumps({"plan": "demo", "sites": SIZES, "means": means, "runs": figures}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
