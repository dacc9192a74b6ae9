"""A consortium of four hospitals during a run, with its status page: for tests, benchmarks and screenshots."""

import asyncio
import contextlib
import datetime as dt
import json
import math
import random
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from loopback import Consortium, Site, play

from ynet import plan as plans
from ynet.federation.content import Content
from ynet.federation.records import TRAIN
from ynet.plan import Plan
from ynet.trust.expiry import Life
from ynet.web.accounts import Accounts
from ynet_server.metrics import ServerState
from ynet_server.rounds.run_folder import RunFolder
from ynet_server.rounds.run_progress import RunProgressReader
from ynet_server.rounds.runs import Runs
from ynet_server.settings import StatusSettings
from ynet_server.status.audit_view import AuditView
from ynet_server.status.serving import serving
from ynet_server.status.snapshot import snapshot
from ynet_server.training_records import PublishedModel

NAME, PASSWORD = "coordinator", "seven quiet lanterns"
SITES = {"lakeside": 1840, "north-clinic": 920, "st-anna": 1310, "university": 2760}
ROUNDS, DONE = 30, 17
DAY = 86_400.0


def plan_of(name: str, *, private: bool = True) -> Plan:
    values = {
        "name": name,
        "classes": ["a", "b", "c"],
        "image": {"channels": 1, "size": 224},
        "training": {"rounds": ROUNDS, "learning_rate": 2e-3, "strategy": "fedmedian", "evaluate_every": 2},
        "cohort": {"min_sites": 4, "quorum": 3, "round_deadline_s": 1800},
        "privacy": {"mode": "patient", "epsilon": 4.0, "delta": 1e-5} if private else {"mode": "off"},
    }
    return plans.from_canonical(json.dumps(values))


class Scene:
    """The parts of the scene, and actions that change it."""

    def __init__(self, consortium: Consortium, runs: Runs, folder: RunFolder, url: str) -> None:
        self.consortium, self.runs, self.folder, self.url = consortium, runs, folder, url
        self._draw = random.Random(7)
        self.loop = asyncio.get_running_loop()

    def next_round(self, number: int) -> None:
        """Finish a round. Any thread may call this."""
        add_round(self.folder, number, self._draw)


def add_round(folder: RunFolder, number: int, draw: random.Random) -> None:
    sites = {}
    for place, site in enumerate(SITES):
        loss = 0.35 + 1.9 * math.exp(-number / (5 + place)) + draw.uniform(-0.03, 0.03)
        sites[site] = {"loss": loss, "seconds": 40.0 + place, "num-examples": SITES[site]}
    if number == 9:
        folder.event("update_refused", round=9, site="st-anna", reason=_GATE)
        del sites["st-anna"]
    if number == 13:
        folder.event("site_failed", round=13, site="north-clinic", reason="no answer before the deadline")
        del sites["north-clinic"]
    folder.event(
        "round", round=number, rounds=ROUNDS, seconds=58.0, sites=sites, ledgers=dict.fromkeys(sites, f"{number} x")
    )
    if number % 2 == 0:
        folder.event(
            "evaluated", round=number, sites={site: _scores(number, place) for place, site in enumerate(SITES)}
        )


_GATE = "it changes 41.2 times as much as the round's median, and the plan's update_norm_limit is 10"


def _scores(number: int, place: int) -> dict[str, Any]:
    reached = 1 - math.exp(-number / (6 + 1.5 * place))
    return {
        "macro_map10": 0.2 + (0.62 - 0.04 * place) * reached,
        "case_hit10": 0.03 + (0.5 - 0.05 * place) * reached,
        "median_tie10": 60 - 50 * reached,
        "dice": 0.1 + (0.71 - 0.05 * place) * reached,
        "balanced_accuracy": 0.33 + 0.5 * reached,
        "queries": 83,
        "ranked": 85,
        "siblings": 40,
        "likened": 60,
        "masks": 65,
        "empty_masks": 20,
        "queries_per_class": {"ring": 40, "smooth": 25, "none": 20},
    }


@asynccontextmanager
async def scene(consortium: Consortium, port: int) -> AsyncIterator[Scene]:
    """Serve the page at `port`, with an account and four sites; one is away, with a certificate that ends soon."""
    home, begun = consortium.folder, time.time() - 3 * 3600
    Accounts(home).add(NAME, "admin", PASSWORD, begun)
    consortium.registry.invite("harbour", b"s" * 16, time.time(), replace=False)
    runs = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), home, consortium.audit.write)
    _earlier_run(consortium, runs)
    plan = plan_of("lesions-private")
    number = consortium.registry.training.start_run(
        consortium.registry.training.freeze(plan, begun), time.time() - 1300
    )
    folder = runs.folder(number).create(plan)
    folder.event("started", sites=sorted(SITES), parameters=1_204_331, given=0)
    draw = random.Random(7)
    for done in range(1, DONE + 1):
        add_round(folder, done, draw)
    consortium.audit.write("enrolment-refused", "harbour", "the invitation is not the one made for this site")
    working = await _sites(consortium)
    audit_view = AuditView(home, consortium.audit, lambda: (consortium.authority.certificate, []))
    known = known_of(consortium, home, runs)
    settings = StatusSettings(enabled=True, port=port)
    async with serving(home, settings, lambda: snapshot(known, audit_view, time.time()), dt.datetime.now(dt.UTC)):
        yield Scene(consortium, runs, folder, f"https://127.0.0.1:{port}")
    await audit_view.close()
    for one in working:
        one.cancel()
    await asyncio.gather(*working, return_exceptions=True)


def life(now: float, days: float) -> Life:
    """Make the life of a certificate with this many days left."""
    return Life(*(dt.datetime.fromtimestamp(at, dt.UTC) for at in (now - DAY, now + days * DAY)))


def known_of(consortium: Consortium, home: Path, runs: Runs | None = None) -> ServerState:
    """Make the sources of the state."""
    now = consortium.now.timestamp()
    return ServerState(
        "Alpine lesion consortium",
        home,
        consortium.registry,
        consortium.hub,
        runs or Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), home),
        RunProgressReader(),
        lambda: life(now, 3600),
        lambda: life(now, 80),
    )


def _earlier_run(consortium: Consortium, runs: Runs) -> None:
    registry, plan = consortium.registry, plan_of("lesions-pilot", private=False)
    number = registry.training.start_run(registry.training.freeze(plan, 1.0), time.time() - 9 * DAY)
    folder, draw = runs.folder(number).create(plan), random.Random(3)
    for done in range(1, 9):
        add_round(folder, done, draw)
    scores = {site: _scores(30, place + 1) for place, site in enumerate(SITES)}
    card = {"plan": plan.name, "plan_id": plan.id, "rounds": ROUNDS, "sites": SITES, "scores": scores}
    card["privacy"] = {"mode": "off", "aggregation": "plain"}
    registry.training.publish(PublishedModel("9f1c" + "27ab" * 15, number, card, time.time() - 8.9 * DAY))
    registry.training.end_run(number, "finished", "", "9f1c" + "27ab" * 15, time.time() - 8.9 * DAY)


async def _sites(consortium: Consortium) -> list["asyncio.Task[Path]"]:
    """Three sites are connected: one has answered, two work. The fourth was last seen some hours ago."""
    today = consortium.now
    consortium.now = today - dt.timedelta(days=84, hours=20)
    consortium.enrol("north-clinic")
    consortium.registry.saw("north-clinic", "0.1.0", SITES["north-clinic"], time.time() - 2.2 * 3600)
    consortium.now = today

    async def long(kind: str, received: Path) -> Content:
        await asyncio.sleep(3600)
        raise AssertionError

    async def short(kind: str, received: Path) -> Content:
        return Content()

    for name in ("lakeside", "st-anna", "university"):
        await consortium.join(name, Site(task=short if name == "lakeside" else long, cases=SITES[name]))
    working = [asyncio.create_task(consortium.task(name, kind=TRAIN)) for name in ("lakeside", "st-anna", "university")]
    await working[0]
    working[0].result().unlink()
    return working


@contextmanager
def running_scene(folder: Path, port: int) -> Iterator[Scene]:
    """Run the scene in a thread with its own event loop."""
    ready, over, made = threading.Event(), threading.Event(), list[Scene]()

    async def story(consortium: Consortium) -> None:
        async with scene(consortium, port) as shown:
            made.append(shown)
            ready.set()
            await asyncio.to_thread(over.wait)

    def run() -> None:
        with contextlib.suppress(TimeoutError):
            play(folder, story, within_s=600)
        ready.set()

    thread = threading.Thread(target=run, name="scene")
    thread.start()
    try:
        ready.wait()
        yield made[0]
    finally:
        over.set()
        thread.join()
