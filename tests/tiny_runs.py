"""Whole runs on a hub in this process, with sites whose training is one line of arithmetic."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from loopback import LAYOUT, Consortium, in_thread, play, runs, tiny_app, until

from ynet import plan as plans
from ynet import weights
from ynet.plan import Plan
from ynet.weights import Flat
from ynet_server.rounds import server_app
from ynet_server.rounds.grid import HubGrid
from ynet_server.rounds.run_folder import MODEL, RunFolder

SIZE = 7


def plan(
    rounds: int = 2,
    min_sites: int = 2,
    quorum: int = 2,
    deadline_s: float = 10.0,
    late_updates: str = "drop",
    min_quorum: int | None = None,
    **training: Any,
) -> Plan:
    values = {
        "name": "t",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "training": {"rounds": rounds, "learning_rate": 0.1, **training},
        "cohort": {
            "min_sites": min_sites,
            "quorum": quorum,
            "round_deadline_s": deadline_s,
            "late_updates": late_updates,
            "min_quorum": min_quorum,
        },
        "privacy": {"mode": "off"},
    }
    return plans.from_canonical(json.dumps(values))


async def federate(consortium: Consortium, folder: RunFolder) -> str:
    grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
    return await in_thread(lambda: server_app.federate(grid, folder, grid.name_of, grid.cases_of))


def run(tmp_path: Path, frozen: Plan, sites: dict[str, Any], cases: dict[str, int]) -> RunFolder:
    """Train `frozen` with the sites' apps, joined in the given order; `cases` go into their greetings."""
    folder = RunFolder(tmp_path / "run").create(frozen)

    async def story(consortium: Consortium) -> None:
        for name, app in sites.items():
            await consortium.join(name, runs(app, cases[name]))
        await federate(consortium, folder)
        await until(lambda: not list(consortium.spool.iterdir()))

    tmp_path.mkdir(exist_ok=True)
    play(tmp_path, story)
    return folder


def model(folder: RunFolder) -> Flat:
    arrays, _ = weights.load(folder.path / MODEL)
    return weights.flatten({entry.name: arrays[entry.name] for entry in LAYOUT})


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["kind"] == kind]


def towards(seed: int) -> Callable[[int, Flat], Flat]:
    """Make a training that depends on the round and the received weights."""
    own = np.random.default_rng(seed).standard_normal(SIZE).astype(np.float32)
    return lambda number, flat: (0.5 * flat + own * np.float32(number)).astype(np.float32)


TRAININGS = {name: (towards(place), 30 - 10 * min(place - 1, 2)) for place, name in enumerate("ABCDEFG", start=1)}
LARGEST = "ABCDEFG"
"""As many sites as the most demanding strategy needs."""


def by_hand(rounds: int, names: str | Callable[[int], str] = "ABC") -> Flat:
    """Compute FedAvg: the mean of the sites' weights, weighted by cases."""
    flat = np.zeros(SIZE)
    for number in range(1, rounds + 1):
        there = names if isinstance(names, str) else names(number)
        updates = [(TRAININGS[name][0](number, flat.astype(np.float32)), TRAININGS[name][1]) for name in there]
        flat = sum(update.astype(np.float64) * n for update, n in updates) / sum(n for _, n in updates)
    return flat.astype(np.float32)


def honest(names: str = "ABC") -> tuple[dict[str, Any], dict[str, int]]:
    return {name: tiny_app(*TRAININGS[name]) for name in names}, {name: TRAININGS[name][1] for name in names}
