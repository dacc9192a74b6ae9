"""Measure growth over many rounds: each process's memory, open files and threads, and its disk use.

python tests/benchmarks/thousand_rounds.py [--rounds 1000] [--out FILE.json] [--doc FILE.md]

Real processes: a server and three sites that train a tiny network, and a query from each site every few seconds. This
is a day of rounds of a real consortium, compressed: a leak of one round grows a thousandfold. The slope is that of a
line through the samples of the second half, when all caches are warm.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "story"))
sys.path.insert(0, str(Path(__file__).parents[2] / "deploy"))

from hospitals import small_plan
from learning import write_between
from ynet.data.manifest import find_sites, read
from ynet.data.synthetic import make_federation
from ynet_lab.trial import Trial
from ynet_server.rounds.run_folder import RunFolder

SITES = {"A": 12, "B": 12, "C": 12}
SAMPLE_EVERY_S = 1.0
ROUNDS_OF_A_DAY = 1000
TARGET_MB_AN_HOUR = 1.0
BEGIN, END = "<!-- rounds -->", "<!-- end of rounds -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS_OF_A_DAY)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = watch(Path(folder), options.rounds)
    print(table(found))
    if options.doc:
        write_between(options.doc, BEGIN, END, table(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def watch(folder: Path, rounds: int) -> dict[str, Any]:
    """Run and return all measurements for the JSON."""
    make_federation(folder / "data", SITES, seed=1, size=32)
    with Trial(folder / "trial", find_sites(folder / "data")) as trial:
        trial.start_server()
        trial.join_all()
        first = small_plan(folder / "first.yaml", rounds=1)
        assert trial.server_command("train", "--plan", first).returncode == 0
        trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])
        plan = small_plan(folder / "plan.yaml", rounds=rounds, evaluate_every=50, seed=2)
        assert trial.server_command("train", "--plan", plan, "--detach").returncode == 0
        over, asked = threading.Event(), threading.Thread(target=lambda: ask(trial, over), daemon=True)
        asked.start()
        begun, samples = time.time(), list[dict[str, Any]]()
        events = RunFolder(trial.server_home / "runs" / "0002")
        while (done := sum(event["kind"] == "round" for event in events.events())) < rounds:
            processes = {name: state(trial, name) for name in ("server", *SITES)}
            samples.append({"round": done, "seconds": time.time() - begun, "of": processes})
            time.sleep(SAMPLE_EVERY_S)
        over.set()
        asked.join(30)
        seconds = time.time() - begun
    return {
        "rounds": rounds,
        "seconds": round(seconds, 1),
        "of": {name: slope(samples, name, rounds) for name in ("server", *SITES)},
    }


def ask(trial: Trial, over: threading.Event) -> None:
    """Send a query from each site in turn, one a second."""
    while True:
        for site in SITES:
            if over.wait(1):
                return
            manifest = read(trial.sites[site])
            trial.query(site, manifest.path_of(manifest.test[0].image))


def state(trial: Trial, name: str) -> dict[str, float]:
    process = psutil.Process(trial.pid(name))
    home = trial.server_home if name == "server" else trial.home(name)
    with process.oneshot():
        held = {"memory_mb": process.memory_full_info().uss / 1e6, "threads": process.num_threads()}
    files = [path.stat().st_size for path in home.rglob("*") if path.is_file() and path.parent.name != "spool"]
    return {**held, "open_files": process.num_fds(), "disk_mb": sum(files) / 1e6}


def slope(samples: list[dict[str, Any]], name: str, rounds: int) -> dict[str, float]:
    """Return a process's last values and its growth in a thousand rounds, which represent 24 hours."""
    half = samples[len(samples) // 2 :]
    at, last = np.array([sample["round"] for sample in half]), samples[-1]["of"][name]
    grew = {}
    for key in last:
        values = np.array([sample["of"][name][key] for sample in half])
        grew[f"{key}_per_1000_rounds"] = round(float(np.polyfit(at, values, 1)[0]) * 1000, 3)
    begun = samples[0]["of"][name]["memory_mb"]
    return {
        "memory_mb_first": round(begun, 1),
        **{f"{key}_last": round(value, 1) for key, value in last.items()},
        **grew,
        "memory_mb_an_hour": round(grew["memory_mb_per_1000_rounds"] / 24, 3),
    }


def table(found: dict[str, Any]) -> str:
    keys = ("memory_mb", "open_files", "threads", "disk_mb")
    lines = [
        f"{found['rounds']} rounds, which represent {found['rounds'] * 0.024:.0f} hours, took {found['seconds']:.0f} s."
    ]
    lines += [
        "",
        "| | MB, at the end | MB an hour | open files; in 1,000 rounds | threads | MB on disk in 1,000 rounds |",
    ]
    lines.append("|---|---|---|---|---|---|")
    for name, one in found["of"].items():
        last, grew = ({key: one[f"{key}_{end}"] for key in keys} for end in ("last", "per_1000_rounds"))
        lines.append(
            f"| {name} | {last['memory_mb']:.1f} | {one['memory_mb_an_hour']:.2f} | {last['open_files']:.0f};"
            f" {grew['open_files']:+.1f} | {last['threads']:.0f} | {grew['disk_mb']:.2f} |"
        )
    worst = max(one["memory_mb_an_hour"] for one in found["of"].values())
    lines += ["", f"Aim: under {TARGET_MB_AN_HOUR:g} MB an hour. The highest is {worst:.2f}."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
