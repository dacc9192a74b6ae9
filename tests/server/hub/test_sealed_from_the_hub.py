"""What a real hub's process holds of a query, on its way and after: ciphertext, read out of its memory."""

import asyncio
import contextlib
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopback import Site, until

from ynet.federation import hub_pb2 as pb
from ynet.runtime import control_server
from ynet.runtime.home import prepare
from ynet_client.connection.session import Session
from ynet_client.membership import membership

CODE, LABEL, MODEL = secrets.token_bytes(24), b"label " + secrets.token_hex(12).encode(), secrets.token_hex(32).encode()
QUERY, ANSWER = b"model_id " + MODEL + b" code " + CODE, b"hits " + LABEL
PLAIN = (CODE, LABEL, MODEL, CODE.hex().encode(), bytes.fromhex(MODEL.decode()))


@contextlib.contextmanager
def hub(folder: Path) -> Iterator[tuple[Path, int]]:
    """A server's home and its process number."""
    home, config = prepare(folder / "server"), folder / "server.yaml"
    config.write_text(yaml.safe_dump({"listen": {"host": "127.0.0.1", "hub_port": 0, "enrolment_port": 0}}))
    recorder = Path(__file__).parents[2] / "story" / "recording_server.py"
    command = [sys.executable, recorder, home, config, folder / "record"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            while not server.stdout.readline().startswith(b"ready"):
                assert server.poll() is None
            yield home, server.pid
        finally:
            server.terminate()


def memory(pid: int) -> bytes:
    """All that a process could write to, of its memory."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            begins, ends, may = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
            if may.startswith("rw"):
                file.seek(int(begins, 16))
                with contextlib.suppress(OSError):  # the kernel's own pages
                    found.append(file.read(int(ends, 16) - int(begins, 16)))
    return b"".join(found)


def join(server: Path, folder: Path, name: str, work: Site) -> Session:
    asked: dict[str, Any] = {"site": name, "replace": False}
    made = control_server.call(server, "POST", "/invitations", "the server", "a test", json=asked)
    member = membership.enrol(prepare(folder / name), name, str(made["invitation"]))
    return Session(member, folder / name, work, lambda _: None)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="reads a process's memory as Linux shows it")
def test_hub_memory_and_traffic_hold_no_code_label_or_model(tmp_path: Path) -> None:
    passed: list[bytes] = []
    seen: list[bytes] = []

    async def story(server: Path, pid: int) -> None:
        is_asked, go_on = asyncio.Event(), asyncio.Event()

        async def answer(from_site: str, body: bytes) -> bytes:
            assert (from_site, body) == ("A", QUERY)
            is_asked.set()
            await go_on.wait()
            return ANSWER

        sessions = [join(server, tmp_path, "A", Site()), join(server, tmp_path, "B", Site(answer))]
        running = [asyncio.create_task(one.run()) for one in sessions]
        await until(lambda: all(one.connected for one in sessions))
        queries = sessions[1]._queries
        take = queries.take

        def record(query: pb.Query, outbox: Any) -> None:
            passed.append(pb.Envelope.FromString(query.body).ciphertext)
            take(query, outbox)

        queries.take = record  # type: ignore[method-assign]
        asking = asyncio.create_task(sessions[0].ask(QUERY, 20))
        await is_asked.wait()
        seen.append(await asyncio.to_thread(memory, pid))
        go_on.set()
        assert [(one.site, one.body) for one in (await asking).answers] == [("B", ANSWER)]
        seen.append(await asyncio.to_thread(memory, pid))
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    with hub(tmp_path) as (server, pid):
        asyncio.run(story(server, pid))
    record = (tmp_path / "record").read_bytes()
    # That the search finds what is there: while the query was on its way, its ciphertext was.
    assert passed[0][:64] in seen[0]
    assert passed[0] in record
    for place in (*seen, record):
        assert not [one for one in PLAIN if one in place]
