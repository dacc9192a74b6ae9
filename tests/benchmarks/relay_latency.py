"""Measure the cost of sealing for a query through a real hub and back, with 1, 10 and 50 sites, on loopback.

python tests/benchmarks/relay_latency.py [--out FILE.json] [--sites 1 10 50] [--queries 600] [--processes 2]

Sites answer immediately with a constant of the size of ten hits: nothing is searched. The same hub and sites carry
sealed and plain queries in turns, so that other load on the machine affects both.
"""

import argparse
import asyncio
import datetime as dt
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import psutil

import federation
from ynet.federation import hub_pb2 as pb
from ynet.federation import sealed
from ynet.federation.content import Content
from ynet_client.adoption.adopting import Fetch
from ynet_client.connection.sealed_answering import Answering, Opened
from ynet_client.connection.sealed_asking import Asking, Sent
from ynet_client.connection.session import Session
from ynet_client.membership import membership

QUERY, ANSWER = os.urandom(110), os.urandom(420)
BARE, SEALED = "bare", "sealed"
TURN = 20  # queries of one kind in a row
WARM_UP = 60


class Answers:
    """A site that answers at once."""

    def cases(self) -> int:
        return 1

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        raise NotImplementedError

    async def answer(self, from_site: str, body: bytes) -> bytes:
        return ANSWER

    async def witness(self, head: pb.LedgerHead) -> None:
        raise NotImplementedError

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        raise NotImplementedError


class BareAsking(Asking):
    """Asking without sealing, as a prototype would."""

    def __init__(self, member: membership.Membership, sites: list[str]) -> None:
        super().__init__(member)
        self._sites = sites

    def known(self) -> list[str]:
        return self._sites

    def seal(self, framed: bytes, sites: Iterable[str], now: dt.datetime) -> dict[str, Sent]:
        return dict.fromkeys(sites, Sent(sealed.read_query(framed).body, None, 0))  # type: ignore[arg-type]

    def open(self, sent: Sent, ciphertext: bytes) -> bytes:
        return ciphertext


class BareAnswering(Answering):
    """Answering that reads one site's queries unsealed, and opens all others'."""

    def open(self, from_site: str, envelope: bytes, now: dt.datetime) -> Opened:
        return Opened(envelope, bytes) if from_site == BARE else super().open(from_site, envelope, now)


def answering_session(home: Path) -> Session:
    opened = federation.session(home, Answers())
    opened._answering = BareAnswering(opened._member)
    return opened


async def answer_all(homes: list[Path]) -> None:
    """Run a process of sites until its input ends."""
    running = await federation.connect([answering_session(home) for home in homes])
    await federation.until_input_ends()
    for one in running:
        one.cancel()


async def ask_all(homes: dict[str, Path], sites: list[str], queries: int, server: int) -> list[dict[str, float | str]]:
    """Measure both kinds of asking, and return the rows."""
    asking = {name: federation.session(home, Answers()) for name, home in homes.items()}
    running = await federation.connect(list(asking.values()))
    asking[BARE]._asking = BareAsking(asking[BARE]._member, sites)
    took: dict[str, list[float]] = {BARE: [], SEALED: []}
    cpu = dict.fromkeys(took, 0.0)

    async def ask(kind: str) -> float:
        begun = time.perf_counter()
        found = await asking[kind].ask(QUERY, 10, sites)
        assert len(found.answers) == len(sites), found
        return time.perf_counter() - begun

    first = {kind: await ask(kind) for kind in took}
    for kind in list(took) * (WARM_UP // 2):
        await ask(kind)
    process = psutil.Process(server)
    for _ in range(queries // TURN):
        for kind, seconds in took.items():
            before = sum(process.cpu_times()[:2])
            seconds += [await ask(kind) for _ in range(TURN)]
            cpu[kind] += sum(process.cpu_times()[:2]) - before
    for one in running:
        one.cancel()
    return [row(kind, len(sites), first[kind], took[kind], cpu[kind] / len(took[kind])) for kind in took]


def row(kind: str, sites: int, first: float, took: list[float], cpu: float) -> dict[str, float | str]:
    p50, p99 = np.percentile(took, [50, 99]) * 1e3
    first_ms, hub_cpu_ms = round(first * 1e3, 2), round(cpu * 1e3, 2)
    return {
        "sites": sites,
        "query": kind,
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "first_ms": first_ms,  # sealed: after all cards are exchanged and checked, and all sessions have begun
        "hub_cpu_ms": hub_cpu_ms,
        "queries": len(took),
    }


def measure(count: int, queries: int, processes: int, folder: Path) -> list[dict[str, float | str]]:
    with federation.hub(folder) as (server, pid):
        names = [f"S{number}" for number in range(count)]
        sites = {name: federation.enrol(server, folder, name) for name in names}
        asking = {name: federation.enrol(server, folder, name) for name in (BARE, SEALED)}
        with federation.processes(__file__, list(sites.values()), min(processes, count)):
            return asyncio.run(ask_all(asking, list(sites), queries, pid))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--out", type=Path)
    arguments.add_argument("--sites", type=int, nargs="+", default=[1, 10, 50])
    arguments.add_argument("--queries", type=int, default=600)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--answer", type=Path, nargs="+", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.answer:
        asyncio.run(answer_all(options.answer))
        return
    rows = []
    for count in options.sites:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(count, options.queries, options.processes, Path(folder))
    print(" ".join(f"{key:>10}" for key in rows[0]))
    for one in rows:
        print(" ".join(f"{value:>10}" for value in one.values()))
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
