"""Measure the overhead of a round: three sites as real processes over mutual TLS, models of 5 and 100 MB.

python tests/benchmarks/round_overhead.py [--out FILE.json] [--rounds 10] [--megabytes 5 100]
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

from ynet.config import parse
from ynet.plan import Plan
from ynet.runtime import control_server

SITES = ("A", "B", "C")
TRAIN_S = 0.05
HERE = Path(__file__).parent


class PeakMemory(threading.Thread):
    """Peak of the processes' total resident memory, sampled every 20 ms."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self._processes = [psutil.Process(pid) for pid in pids]
        self.total = 0
        self.each = [0] * len(pids)
        self._ended = threading.Event()

    def now(self) -> int:
        """Return the current sum."""
        return sum(process.memory_info().rss for process in self._processes)

    def run(self) -> None:
        while not self._ended.wait(0.02):
            try:
                now = [process.memory_info().rss for process in self._processes]
            except psutil.NoSuchProcess:
                return
            self.total = max(self.total, sum(now))
            self.each = [max(pair) for pair in zip(self.each, now, strict=True)]

    def end(self) -> None:
        self._ended.set()
        self.join()


def plan(rounds: int) -> Plan:
    values: dict[str, Any] = {
        "name": "overhead",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "training": {"rounds": rounds, "learning_rate": 1e-3, "evaluate_every": 1_000_000},
        "cohort": {"min_sites": len(SITES), "quorum": len(SITES), "round_deadline_s": 600},
        "privacy": {"mode": "off"},
    }
    return parse(Plan, values, "the benchmark's plan")


def measure(megabytes: float, rounds: int, folder: Path) -> dict[str, float]:
    home = folder / "server"
    config = folder / "server.yaml"
    config.write_text(yaml.safe_dump({"listen": {"host": "127.0.0.1", "hub_port": 0, "enrolment_port": 0}}))

    def call(method: str, path: str, **request: Any) -> Any:
        return control_server.call(home, method, path, "the server", "the benchmark", **request)

    begun = time.monotonic()
    server = subprocess.Popen(
        [sys.executable, "-m", "ynet_server", "start", "--home", home, "--config", config], stdout=subprocess.PIPE
    )
    processes = [server]
    try:
        assert server.stdout is not None
        while not server.stdout.readline().startswith(b"ready"):
            pass
        for name in SITES:
            invited = call("POST", "/invitations", json={"site": name, "replace": False})["invitation"]
            site = [sys.executable, HERE / "idle_site.py", name, invited, folder / name, str(megabytes), str(TRAIN_S)]
            processes.append(subprocess.Popen(site, stdout=subprocess.DEVNULL))
        while len(call("GET", "/status")["connected"]) < len(SITES):
            time.sleep(0.02)
        ready_s = time.monotonic() - begun
        memory = PeakMemory([process.pid for process in processes])
        memory.start()
        run = call("POST", "/runs", json={"plan": json.loads(plan(rounds).canonical()), "init": None})["run"]
        while call("GET", "/status")["runs"][0]["status"] == "running":
            time.sleep(0.05)
        memory.end()
        events = call("GET", f"/runs/{run}/events")["events"]
        took = [event["time"] for event in events if event["kind"] in ("started", "round")]
        assert len(took) == rounds + 1, events
        return {
            "model_mb": megabytes,
            "round_s_median": statistics.median(b - a for a, b in itertools.pairwise(took)),
            "round_s_mean": (took[-1] - took[0]) / rounds,
            "ready_s": ready_s,
            "peak_mb_all": memory.total / 1e6,
            "peak_mb_server": memory.each[0] / 1e6,
        }
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--megabytes", type=float, nargs="+", default=[5.0, 100.0])
    options = arguments.parse_args()
    rows = []
    print(f"{'model MB':>9} {'round s (median)':>17} {'(mean)':>7} {'ready s':>8} {'peak MB all':>12} {'server':>7}")
    for megabytes in options.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(megabytes, options.rounds, Path(folder))
        rows.append(row)
        print(
            f"{row['model_mb']:9.0f} {row['round_s_median']:17.3f} {row['round_s_mean']:7.3f} {row['ready_s']:8.2f}"
            f" {row['peak_mb_all']:12.0f} {row['peak_mb_server']:7.0f}"
        )
    if options.out:
        options.out.write_text(json.dumps({"train_s": TRAIN_S, "sites": len(SITES), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
