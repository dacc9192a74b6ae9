"""Measure a large update over a line that breaks repeatedly, against starting from zero each time.

PYTHONPATH=tests python tests/benchmarks/broken_link.py [--megabytes 50] [--megabytes-per-s 1] [--cut-every-s 20]
    [--give-up-s 180] [--out FILE.json]

A real hub and a real site over mutual TLS, and between them a proxy with a limited bandwidth in each direction that
resets all connections at an interval. The update goes up, then weights of the same size go down.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from broken_line import line_to
from loopback import Consortium, Site, play, until

from ynet.federation import content
from ynet.federation.content import Content
from ynet_client.connection import transfers

MB = 1_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--megabytes-per-s", type=float, default=1)
    parser.add_argument("--cut-every-s", type=float, default=20)
    parser.add_argument("--give-up-s", type=float, default=180)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [measure(way, options) for way in ("update, resumed", "weights, resumed", "update, from zero each time")]
    print("| | arrived | s | cuts | MB over the wire | of the size |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        arrived = "yes" if row["arrived"] else f"no, after {options.give_up_s:g} s"
        moved = f"{row['cuts']} | {row['mb']:.1f} | {row['share']:.2f}"
        print(f"| {row['way']} | {arrived} | {row['seconds']:.0f} | {moved} |")
    if options.out:
        asked = {key: value for key, value in vars(options).items() if key != "out"}
        options.out.write_text(json.dumps({**asked, "rows": rows}, indent=1) + "\n")


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one transfer."""
    values = np.random.default_rng(1).standard_normal(int(options.megabytes * MB / 4)).astype(np.float32)
    large = Content(arrays={"arrays": {"block00000": values}})
    if way.endswith("from zero each time"):
        transfers._arrived = nothing_arrived

    async def train(kind: str, received: Path) -> Content:
        return large if way.startswith("update") else Content()

    async def story(consortium: Consortium) -> dict[str, Any]:
        consortium.hub._max_model_bytes = 2 * values.nbytes
        body = b"question"
        if way.startswith("weights"):
            content.write(consortium.folder / "large", large)
            body = (consortium.folder / "large").read_bytes()
        async with line_to(consortium.port, options.megabytes_per_s * MB, options.cut_every_s) as line:
            joined = consortium.session(consortium.enrol("A")._replace(hub=line.address), Site(task=train))
            await until(lambda: joined.session.connected)
            begun, has_arrived = time.monotonic(), await arrives(lambda: consortium.task("A", body), options.give_up_s)
            moved = line.up_bytes if way.startswith("update") else line.down_bytes
            return {
                "way": way,
                "arrived": has_arrived,
                "seconds": round(time.monotonic() - begun, 1),
                "cuts": line.cuts,
                "mb": round(moved / MB, 2),
                "share": round(moved / values.nbytes, 3),
            }

    with tempfile.TemporaryDirectory() as folder:
        return play(Path(folder), story, within_s=options.give_up_s + 60)


async def arrives(task: Callable[[], Awaitable[Path]], within_s: float) -> bool:
    try:
        await asyncio.wait_for(task(), within_s)
    except TimeoutError:
        return False
    return True


async def nothing_arrived(*_: grpc.aio.Channel | object) -> int:
    return 0


if __name__ == "__main__":
    main()
