"""Measure the server's cost of fifty users with an open status page: python tests/benchmarks/status_page.py.

The server runs in its own process, during a run whose state changes every few seconds. Each user has a persistent TLS
connection, as a browser has, and polls as the page's script does.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from loopback import Consortium, play
from rich.console import Console
from rich.table import Table
from status_scene import DONE, NAME, PASSWORD, scene

from prometheus import free_ports

USERS, POLL_S, MEASURED_S, CHANGES_EVERY_S = 50, 2.0, 30.0, 5.0
SESSIONS = 8


def serve(folder: str, port: int, ready: Event, over: Event) -> None:
    async def story(consortium: Consortium) -> None:
        async with scene(consortium, port) as shown:
            ready.set()
            number, due = DONE, time.monotonic() + CHANGES_EVERY_S
            while not over.is_set():
                await asyncio.sleep(0.1)
                if time.monotonic() >= due:
                    number, due = number + 1, due + CHANGES_EVERY_S
                    shown.next_round(number)

    play(Path(folder), story, within_s=600)


def transport(number: int) -> httpx.AsyncHTTPTransport:
    """Connect each user from its own address, because the server counts connections by address."""
    return httpx.AsyncHTTPTransport(verify=False, local_address=f"127.0.0.{2 + number}")


async def sign_in(url: str, number: int) -> dict[str, str]:
    async with httpx.AsyncClient(base_url=url, transport=transport(number), headers={"origin": url}) as http:
        answer = await http.post("/login", data={"name": NAME, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return dict(answer.cookies)


async def person(
    url: str, number: int, cookies: dict[str, str], until: float, times: list[float], kept: list[int]
) -> None:
    tag = ""
    async with httpx.AsyncClient(base_url=url, transport=transport(number), cookies=cookies) as http:
        await asyncio.sleep(POLL_S * number / USERS)
        while time.monotonic() < until:
            begun = time.monotonic()
            answer = await http.get("/state", headers={"if-none-match": tag, "x-background": "1"})
            assert answer.status_code in (200, 304), answer.text
            tag = answer.headers["etag"]
            times.append(time.monotonic() - begun)
            kept.append(len(answer.content))
            await asyncio.sleep(max(0.0, POLL_S - (time.monotonic() - begun)))


async def page_bytes(url: str, cookies: dict[str, str]) -> int:
    """Return the size of the page and all that it loads."""
    async with httpx.AsyncClient(base_url=url, verify=False, cookies=cookies, trust_env=False) as http:
        page = await http.get("/", headers={"accept": "text/html"})
        names = {part.split('"')[0] for part in page.text.split('="/assets/')[1:]}
        sizes = [len((await http.get(f"/assets/{name}")).content) for name in sorted(names)]
        assert len(sizes) >= 5
        return len(page.content) + sum(sizes)


async def watch(url: str, process: psutil.Process) -> dict[str, float]:
    cookies = [await sign_in(url, number) for number in range(SESSIONS)]
    weight = await page_bytes(url, cookies[0])
    times, sizes = list[float](), list[int]()
    until = time.monotonic() + MEASURED_S + POLL_S
    people = [
        asyncio.create_task(person(url, number, cookies[number % SESSIONS], until, times, sizes))
        for number in range(USERS)
    ]
    await asyncio.sleep(POLL_S)  # all are connected
    times.clear(), sizes.clear()
    before, begun = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.gather(*people)
    used, lasted = sum(process.cpu_times()[:2]) - before, time.monotonic() - begun
    return {
        "users": USERS,
        "asks_per_second": round(len(times) / lasted, 1),
        "unchanged_share": round(sizes.count(0) / len(sizes), 3),
        "core_share": round(used / lasted, 4),
        "median_ms": round(1000 * statistics.median(times), 2),
        "p99_ms": round(1000 * statistics.quantiles(times, n=100)[98], 2),
        "page_bytes": weight,
        "state_bytes": max(sizes),
    }


async def idle(process: psutil.Process) -> float:
    """Measure the server without users."""
    before, begun = sum(process.cpu_times()[:2]), time.monotonic()
    await asyncio.sleep(10)
    return round((sum(process.cpu_times()[:2]) - before) / (time.monotonic() - begun), 4)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, help="a JSON file")
    out = arguments.parse_args().out
    (port,) = free_ports(1)
    spawn = multiprocessing.get_context("spawn")
    ready, over = spawn.Event(), spawn.Event()
    with tempfile.TemporaryDirectory() as folder:
        server = spawn.Process(target=serve, args=(folder, port, ready, over))
        server.start()
        assert ready.wait(60)
        process = psutil.Process(server.pid)
        try:
            nobody = asyncio.run(idle(process))
            found = {"idle_core_share": nobody, **asyncio.run(watch(f"https://127.0.0.1:{port}", process))}
        finally:
            over.set()
            server.join(30)
    found["load_average"] = round(os.getloadavg()[0], 1)
    table = Table("what", "", title=f"{USERS} people, one question each {POLL_S:g} s")
    for key, value in found.items():
        table.add_row(key, f"{value:g}")
    Console().print(table)
    if out:
        out.write_text(json.dumps(found, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
