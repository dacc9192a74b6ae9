"""A real hub and the processes of real sites on loopback, for benchmarks."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ynet.runtime import control_server
from ynet.runtime.home import prepare
from ynet_client.connection.hooks import Work
from ynet_client.connection.session import Session
from ynet_client.membership import membership


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[tuple[Path, int]]:
    """Start a real server; return its home and process id."""
    home, config = prepare(folder / "server"), folder / "server.yaml"
    config.write_text(yaml.safe_dump({"listen": {"host": "127.0.0.1", "hub_port": 0, "enrolment_port": 0}}))
    command = [sys.executable, "-m", "ynet_server", "start", "--home", home, "--config", config]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            wait_for(server, b"ready")
            yield home, server.pid
        finally:
            server.terminate()


def wait_for(process: "subprocess.Popen[bytes]", word: bytes) -> None:
    assert process.stdout is not None
    while not (line := process.stdout.readline()).startswith(word):
        assert line, "the process ended"


def enrol(server: Path, folder: Path, name: str) -> Path:
    """Enrol a site and return its home."""
    asked: dict[str, Any] = {"site": name, "replace": True}
    made = control_server.call(server, "POST", "/invitations", "the server", "the benchmark", json=asked)
    membership.enrol(prepare(folder / name), name, str(made["invitation"]))
    return folder / name


def session(home: Path, work: Work) -> Session:
    """Make an enrolled site's session."""
    member = membership.load(home)
    assert member is not None
    (home / "spool").mkdir(exist_ok=True)
    return Session(member, home / "spool", work, lambda _: None)


async def connect(sessions: Sequence[Session]) -> list["asyncio.Task[None]"]:
    """Run the sessions, and return once all are connected."""
    running = [asyncio.create_task(one.run()) for one in sessions]
    while not all(one.connected for one in sessions):
        await asyncio.sleep(0.02)
    return running


async def until_input_ends() -> None:
    """Report that this process is ready, and wait for the end of its input."""
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


@contextlib.contextmanager
def processes(script: str, homes: Sequence[Path], count: int) -> Iterator[None]:
    """Run the sites in a few processes, `script --answer HOME...`; each prints "ready" and ends with its input."""
    with contextlib.ExitStack() as stack:
        started = [_start(stack, [sys.executable, script, "--answer", *homes[n::count]]) for n in range(count)]
        for process in started:
            wait_for(process, b"ready")
        yield


def _start(stack: contextlib.ExitStack, command: Iterable[str | Path]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    stack.enter_context(process)
    stack.callback(process.stdin.close)
    return process
