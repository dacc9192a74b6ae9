"""Measure how often an encoder's file travels when the server and the site are killed (`kill -9`) on the way.

PYTHONPATH=tests python tests/benchmarks/encoder_fetch.py [--megabytes 800] [--kills 2] [--out FILE.json]

The hub and the site are processes of their own, over mutual TLS on loopback. The file has random values. Each side is
killed so many times, in turn, at equal parts of the file; both restart at the same address and from the same home.
"""

import argparse
import asyncio
import datetime as dt
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from loopback import Consortium, Site, until

from ynet import weights
from ynet.config import parse
from ynet.federation import content
from ynet.federation.content import Content
from ynet.federation.records import CONFIG, INITIAL
from ynet.plan import Plan
from ynet.trust.identity import Identity
from ynet_client.connection.given_files import GivenFiles
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.membership.membership import Membership
from ynet_client.training.fixed_files import FixedFile, FixedFiles
from ynet_server.hub.tasks import TaskError

MB = 1_000_000
RECEIVED = "received"
PLAN = {
    "name": "fetch",
    "classes": ["a", "b"],
    "image": {"channels": 1, "size": 32},
    "network": {"encoder": "resnet50", "encoder_weights": "0" * 64},
    "training": {"rounds": 1, "learning_rate": 0.1, "trained": "heads"},
    "cohort": {"min_sites": 1, "quorum": 1},
    "privacy": {"mode": "off"},
}


class AnySize(FixedFiles):
    """A site's files; no encoder that a plan can name is as large as the benchmark's file."""

    def lacking(self, kind: str, received: Path) -> list[FixedFile]:
        return [file._replace(most_bytes=1 << 40) for file in super().lacking(kind, received)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=800)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--role", choices=["hub", "site"], help="of a process that the benchmark starts")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.role:
        asyncio.run({"hub": hub, "site": site}[options.role](options.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        row = measure(options.megabytes, options.kills, Path(folder))
    for key, value in row.items():
        print(f"{key:20} {value:10.2f}")
    if options.out:
        options.out.write_text(json.dumps(row, indent=2) + "\n")


def measure(megabytes: float, kills: int, folder: Path) -> dict[str, Any]:
    sha256, size = encoder(folder, int(megabytes * MB / 4))
    partial = folder / "home/encoders" / f"{sha256}.partial"
    running = {"hub": start("hub", folder)}
    while not (folder / "site.json").exists():
        time.sleep(0.05)
    running["site"] = start("site", folder)
    begun, killed = time.monotonic(), 0
    try:
        for turn in range(2 * kills):
            wanted = size * (turn + 1) / (2 * kills + 1)
            while not partial.exists() or partial.stat().st_size < wanted:
                time.sleep(0.002)
            role = ("hub", "site")[turn % 2]
            running[role].kill()
            running[role].wait()
            killed += 1
            running[role] = start(role, folder)
        whole = partial.with_suffix(".safetensors")
        while not whole.exists():
            time.sleep(0.05)
        seconds = time.monotonic() - begun
        with whole.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
    finally:
        for process in running.values():
            process.kill()
    received = sum(int(line) for line in (folder / RECEIVED).read_text().split())
    at_site = sum(path.stat().st_size for path in (folder / "home").rglob("*") if path.is_file())
    return {
        "file_mb": size / MB,
        "kills": killed,
        "seconds": seconds,
        "received_mb": received / MB,
        "received_share": received / size,
        "site_disk_mb": at_site / MB,
        "free_disk_mb": shutil.disk_usage(folder).free / MB,
    }


def encoder(folder: Path, values: int) -> tuple[str, int]:
    """Write a made-up encoder. Returns its digest and size."""
    made = np.random.default_rng(1).standard_normal(values, np.float32)
    weights.save(folder / "encoder", {"conv1.weight": made}, {"encoder": "resnet50"})
    with (folder / "encoder").open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    plan = parse(Plan, PLAN, "the benchmark's plan")
    plan = replace(plan, network=replace(plan.network, encoder_weights=sha256))
    (folder / "plan.json").write_text(plan.canonical())
    return sha256, (folder / "encoder").stat().st_size


def start(role: str, folder: Path) -> "subprocess.Popen[bytes]":
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen([sys.executable, __file__, "--role", role, "--folder", folder], env=surroundings)


async def hub(folder: Path) -> None:
    """Run a hub that asks its site for the first message of a run until the reply is there."""
    state = folder / "hub"
    state.mkdir(exist_ok=True)
    consortium = Consortium(state)
    if (folder / "site.json").exists():
        about = json.loads((folder / "site.json").read_text())
        consortium.port = int(about["hub"].rpartition(":")[2])
        consortium.authority = Identity(about["authority_key"].encode(), about["authority"].encode())
        consortium.hub_identity = Identity(about["hub_key"].encode(), about["hub_certificate"].encode())
    await consortium.open()
    if not (folder / "site.json").exists():
        write_site(folder, consortium, consortium.enrol("A"))
    path, given = state / "content", folder / "encoder"
    written = content.write(path, Content(configs={CONFIG: {"plan": (folder / "plan.json").read_text()}}))
    sha256 = str(json.loads((folder / "plan.json").read_text())["network"]["encoder_weights"])
    while True:
        await until(lambda: "A" in consortium.hub.connected(), 600)
        files = [consortium.hub.offer(given, sha256, given.stat().st_size)]
        try:
            reply = await consortium.hub.task("A", INITIAL, consortium.hub.offer(path, *written), files=files)
            reply.unlink()
        except TaskError:
            continue
        await asyncio.sleep(3600)


def write_site(folder: Path, consortium: Consortium, member: Membership) -> None:
    """Write what both processes need after a restart."""
    about = {
        "hub": member.hub,
        "key": member.key.decode(),
        "certificate": member.certificate.decode(),
        "authority": consortium.authority.certificate.decode(),
        "authority_key": consortium.authority.key.decode(),
        "hub_key": consortium.hub_identity.key.decode(),
        "hub_certificate": consortium.hub_identity.certificate.decode(),
    }
    (folder / "site.part").write_text(json.dumps(about))
    (folder / "site.part").rename(folder / "site.json")


async def site(folder: Path) -> None:
    """Run a site that fetches the files of its tasks, and log the size of each part that arrives."""
    about = json.loads((folder / "site.json").read_text())
    key, certificate = about["key"].encode(), about["certificate"].encode()
    member = Membership("A", about["hub"], key, certificate, about["authority"].encode())
    home = folder / "home"
    spool = home / f"spool-{dt.datetime.now(dt.UTC).timestamp()}"
    spool.mkdir(parents=True)
    with (folder / RECEIVED).open("a", buffering=1) as log:
        count = lambda method, size: log.write(f"{size}\n") if method == "download" else None  # noqa: E731
        hooks = SessionHooks(received=count, files=GivenFiles(AnySize(home)))
        await Session(member, spool, Site(), print, hooks).run()


if __name__ == "__main__":
    main()
