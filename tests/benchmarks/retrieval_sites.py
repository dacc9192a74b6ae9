"""Sealed queries to sites with galleries through a real hub on loopback: the whole deployed path.

A query passes the asking site's own gallery, sealing, the hub, each answering site's disclosure control, quotas, search
and audit log, and the merging and audit log of the asking site. Only the encoding of the image is left out: its code
is given.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch

import federation
import galleries
from ynet_client import asking
from ynet_client.agent import Agent
from ynet_client.connection.session import Session
from ynet_client.display import Display
from ynet_client.gallery.indexer import EncodedImage
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.query import Query
from ynet_client.settings import ClientSettings, Disclosure
from ynet_client.training.consent import Consent

K = 10
BATCH = 64
WARM_UP = 40
ASKER = "ASKER"
PROCESSES = 2  # of answering sites
SETTINGS = ClientSettings(
    data="none.csv",
    threads=1,
    disclosure=Disclosure(queries_per_day_and_site=10_000_000, queries_per_day_and_user=10_000_000),
)


class Took(NamedTuple):
    """Timings of the queries of one federation."""

    sites: int
    cases: int  # of each site
    kind: str
    p50_ms: float
    p99_ms: float
    queries: int
    cpu_ms: float  # of all processes, a query
    per_s: float | None  # queries of batches, one batch after the other
    batch_cpu_ms: float | None


class Asked(NamedTuple):
    """A query's code, and its result."""

    code: bytes
    result: Result


def agent_of(home: Path) -> Agent:
    return Agent(home, SETTINGS, Display(), 1, Consent(home, SETTINGS.policy))


async def answer_all(homes: Sequence[Path]) -> None:
    """Run a process of sites until its input ends."""
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        agents = [stack.enter_context(contextlib.closing(agent_of(home))) for home in homes]
        for one in agents:
            await one.search(lambda archive: archive)
        running = await federation.connect(
            [federation.session(home, one) for home, one in zip(homes, agents, strict=True)]
        )
        await federation.until_input_ends()
        for task in running:
            task.cancel()


class Asker:
    """The asking site, connected."""

    def __init__(self, agent: Agent, session: Session, sites: int) -> None:
        self._agent, self._session, self._sites = agent, session, sites

    async def ask(self, codes: np.ndarray) -> list[Asked]:
        """Query with these codes, and return the results."""
        images = [Path(code.tobytes().hex()) for code in codes]
        results = await asking.query(ASKER, self._agent, self._session, images, Query(K), "radiologist")
        for result in results:
            assert len(result.outcomes) == self._sites, result.outcomes
            assert all(one.kind == "found" for one in result.outcomes.values()), result.outcomes
            assert len(result.hits) == K
        return [Asked(*each) for each in zip((code.tobytes() for code in codes), results, strict=True)]


def encoded(image: Path) -> EncodedImage:
    """Replace the network: the image's name contains the code."""
    code = bytes.fromhex(image.name)
    return EncodedImage(code, np.zeros((1, 1), np.uint8), np.zeros((1, 1, 1), np.float32), 4 * image.name)


async def ask_all(home: Path, sites: int, ask: "Callable[[Asker], object]") -> object:
    torch.set_num_threads(1)
    with contextlib.closing(agent_of(home)) as agent:
        archive = await agent.search(lambda archive: archive)
        archive.encode = encoded  # type: ignore[method-assign]
        session = federation.session(home, agent)
        (running,) = await federation.connect([session])
        try:
            return await ask(Asker(agent, session, sites))  # type: ignore[misc]
        finally:
            running.cancel()


async def latencies(asker: Asker, codes: np.ndarray) -> list[float]:
    took = []
    for code in codes:
        begun = time.perf_counter()
        await asker.ask(code[None])
        took.append(time.perf_counter() - begun)
    return took


def cpu_s() -> float:
    """Return the processor time of this process and its children."""
    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))


def measure(folder: Path, sites: int, n: int, kind: str, queries: int, batches: int) -> tuple[Took, list[Asked]]:
    """Return the figures and the results of the batches."""
    random = np.random.default_rng(99)

    async def ask(asker: Asker) -> tuple[Took, list[Asked]]:
        await latencies(asker, galleries.CODES[kind](random, WARM_UP))
        before = cpu_s()
        single = await latencies(asker, galleries.CODES[kind](random, queries))
        cpu_ms = 1e3 * (cpu_s() - before) / queries
        p50, p99 = np.percentile(single, [50, 99]) * 1e3
        results, per_s, batch_cpu_ms = list[Asked](), None, None
        if batches:
            asked = galleries.CODES[kind](random, BATCH * (batches + 2)).reshape(-1, BATCH, 8)
            for batch in asked[:2]:
                await asker.ask(batch)
            took, before = [], cpu_s()
            for batch in asked[2:]:
                begun = time.perf_counter()
                results += await asker.ask(batch)
                took.append(time.perf_counter() - begun)
            per_s, batch_cpu_ms = BATCH / float(np.median(took)), 1e3 * (cpu_s() - before) / batches
        return Took(sites, n, kind, float(p50), float(p99), queries, cpu_ms, per_s, batch_cpu_ms), results

    with federation.hub(folder) as (server, _):
        names = [f"S{number}" for number in range(sites)]
        homes = [federation.enrol(server, folder, name) for name in (*names, ASKER)]
        with federation.processes(__file__, homes[:-1], PROCESSES):
            return asyncio.run(ask_all(homes[-1], sites, ask))  # type: ignore[return-value]


def fill(folder: Path, sites: int, n: int, kind: str) -> None:
    """Fill the galleries of all sites and the asking one, two at a time; existing ones are kept."""
    names = [*(f"S{number}" for number in range(sites)), ASKER]
    missing = [
        (folder / name, n, kind, seed) for seed, name in enumerate(names) if not (folder / name / "whole").exists()
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.starmap(_fill, missing, chunksize=1)


def _fill(home: Path, n: int, kind: str, seed: int) -> None:
    torch.set_num_threads(1)
    galleries.fill(home, n, kind, seed)
    (home / "whole").touch()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--answer", type=Path, nargs="+")
    arguments.add_argument("--sites", type=int, default=10)
    arguments.add_argument("--cases", type=int, default=1_000_000)
    arguments.add_argument("--kind", choices=galleries.CODES, default="trained")
    arguments.add_argument("--queries", type=int, default=500)
    arguments.add_argument("--batches", type=int, default=20)
    arguments.add_argument("--work", type=Path)
    options = arguments.parse_args()
    if options.answer:
        asyncio.run(answer_all(options.answer))
        return
    options.work.mkdir(exist_ok=True, parents=True)
    fill(options.work, options.sites, options.cases, options.kind)
    print(measure(options.work, options.sites, options.cases, options.kind, options.queries, options.batches)[0])


if __name__ == "__main__":
    main()
