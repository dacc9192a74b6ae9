"""Measure the server's extra memory and time to send a published 100 MB model to four sites.

python tests/benchmarks/model_fetch.py [--out FILE.json] [--megabytes 100] [--sites 4]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from round_overhead import PeakMemory, plan
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.runtime import control_server
from ynet.runtime.home import prepare
from ynet_client.adoption.adopting import Fetch
from ynet_client.connection.session import Session
from ynet_client.membership import membership
from ynet_server.clock import now
from ynet_server.registry import Registry
from ynet_server.rounds.run_folder import RunFolder
from ynet_server.training_records import PublishedModel


class Fetches:
    """A site that only fetches the model."""

    def __init__(self, home: Path) -> None:
        self._path = home / "model"
        self.fetched = asyncio.Event()

    def cases(self) -> int:
        return 1

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        raise NotImplementedError

    async def answer(self, from_site: str, body: bytes) -> bytes:
        return body

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        await fetch(model.weights, self._path)
        self.fetched.set()


def publish(home: Path, megabytes: float) -> None:
    """Write a finished run with a model of this size into a server's home."""
    frozen = plan(1)
    registry = Registry(home / "registry.sqlite")
    run = registry.training.start_run(registry.training.freeze(frozen, now()), now())
    folder = RunFolder(home / "runs" / f"{run:04d}").create(frozen)
    model = folder.save_model({"weights": np.zeros(int(megabytes * 1e6 / 4), np.float32)}, {"plan": frozen.name})
    registry.training.publish(PublishedModel(model, run, folder.card(), now()))
    registry.training.end_run(run, "finished", "", model, now())
    registry.close()


async def fetch_all(homes: list[Path], invitations: list[str]) -> float:
    """Return the seconds until every site has the model."""
    works, sessions = [], []
    begun = time.monotonic()
    for number, (home, invitation) in enumerate(zip(homes, invitations, strict=True)):
        member = membership.enrol(prepare(home), f"S{number}", invitation)
        (home / "spool").mkdir()
        works.append(Fetches(home))
        sessions.append(asyncio.create_task(Session(member, home / "spool", works[-1], lambda _: None).run()))
    await asyncio.gather(*(work.fetched.wait() for work in works))
    took = time.monotonic() - begun
    for session in sessions:
        session.cancel()
    await asyncio.gather(*sessions, return_exceptions=True)
    return took


def measure(megabytes: float, sites: int, folder: Path) -> dict[str, float]:
    home, config = prepare(folder / "server"), folder / "server.yaml"
    config.write_text(yaml.safe_dump({"listen": {"host": "127.0.0.1", "hub_port": 0, "enrolment_port": 0}}))
    publish(home, megabytes)
    command = [sys.executable, "-m", "ynet_server", "start", "--home", home, "--config", config]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            while not server.stdout.readline().startswith(b"ready"):
                pass

            def invite(name: str) -> str:
                asked: dict[str, Any] = {"site": name, "replace": False}
                made = control_server.call(home, "POST", "/invitations", "the server", "the benchmark", json=asked)
                return str(made["invitation"])

            invitations = [invite(f"S{number}") for number in range(sites)]
            memory = PeakMemory([server.pid])
            rest = memory.now()
            memory.start()
            took = asyncio.run(fetch_all([folder / f"S{number}" for number in range(sites)], invitations))
            memory.end()
        finally:
            server.terminate()
    return {
        "model_mb": megabytes,
        "sites": sites,
        "seconds": took,
        "server_rest_mb": rest / 1e6,
        "server_peak_mb": memory.total / 1e6,
        "server_cost_mb": (memory.total - rest) / 1e6,
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--megabytes", type=float, default=100.0)
    arguments.add_argument("--sites", type=int, default=4)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        row = measure(options.megabytes, options.sites, Path(folder))
    for key, value in row.items():
        print(f"{key:16} {value:10.2f}")
    if options.out:
        options.out.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
