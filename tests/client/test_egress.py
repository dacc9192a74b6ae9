"""The list of what has left a site: no byte more and none fewer than what a hub received."""

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from loopback import Consortium, Site, play, until

from ynet.errors import RefusedError
from ynet.federation import protocol
from ynet.federation.content import Content
from ynet.runtime import background_sync
from ynet_client import egress
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.egress import ClassTotals, Egress


class Recorder(grpc.aio.ServerInterceptor):
    """What a hub receives: messages and bytes, by method."""

    def __init__(self) -> None:
        self.messages, self.bytes = Counter[str](), Counter[str]()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler, method = await continuation(details), details.method.rpartition("/")[2]
        if handler is None:
            return None
        read = handler.request_deserializer

        def received(data: bytes) -> Any:
            self.messages[method] += 1
            self.bytes[method] += len(data)
            return read(data)

        return handler._replace(request_deserializer=received)


METHODS = {
    "Attach": {"greetings", "sealing keys", "answers", "task failures"},
    "Upload": {"initial weights", "updates", "moments", "figures", "secure sums"},
    "Ask": {"queries", "consults"},
    "Download": {"requests"},
}


def test_totals_equal_bytes_at_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, home, spool = Recorder(), tmp_path / "home", tmp_path / "site"
    home.mkdir()
    spool.mkdir()
    make = grpc.aio.server

    def recorded(interceptors: list[Any], options: Any) -> grpc.aio.Server:
        return make(interceptors=[*interceptors, recorder], options=options)

    monkeypatch.setattr(grpc.aio, "server", recorded)

    async def story(consortium: Consortium) -> None:
        left, said = Egress(home), list[str]()

        async def task(kind: str, received: Path) -> Content:
            if kind == "train":
                raise RefusedError("w", "the budget is spent", "d")
            if kind == "evaluate":
                return Content(metrics={"metrics": {"dice": 0.5}})
            return Content(configs={"c": {"padding": "x" * (protocol.CHUNK_BYTES + 9)}})  # two parts

        session = Session(consortium.enrol("A"), spool, Site(task=task), said.append, SessionHooks(sent=left.count))
        running = asyncio.create_task(session.run())
        await until(lambda: session.connected)
        for kind in ("query.initial", "evaluate", "query.mask"):
            (await consortium.task("A", b"question", kind)).unlink()
        with pytest.raises(Exception, match="budget"):
            await consortium.task("A")
        await session.ask(b"a query", 0.1, ["B"])
        await session.ask(b"a consult", 0.1, ["B"], name="consults")
        running.cancel()
        await until(lambda: not consortium.hub.connected())
        left.close()

    play(tmp_path, story)
    found = {row.name: row for row in egress.read(home)}
    assert set(found) == {
        *("greetings", "initial weights", "figures", "secure sums", "task failures", "queries", "consults", "requests")
    }
    for method, names in METHODS.items():
        rows = [found[name] for name in names if name in found]
        assert sum(row.messages for row in rows) == recorder.messages[method], method
        assert sum(row.bytes for row in rows) == recorder.bytes[method], method
    shown = egress.to_json(found.values())
    assert (shown["messages"], shown["bytes"]) == (recorder.messages.total(), recorder.bytes.total())


def test_counts_survive_restart_with_first_and_last_time(tmp_path: Path) -> None:
    for now in (1.0, 2.0, 3.0):
        left = Egress(tmp_path, lambda now=now: now)  # type: ignore[misc]
        left.count("answers", 10)
        left.count("answers", 5)
        left.close()
    assert egress.read(tmp_path) == [ClassTotals("answers", 6, 45, 1.0, 3.0)]


def test_counts_are_shared_and_on_disk_within_a_second(tmp_path: Path) -> None:
    first, second = Egress(tmp_path), Egress(tmp_path)
    first.count("updates", 3)
    second.count("enrolment", 4)
    done = threading.Event()

    def wait() -> None:
        while len(egress.read(tmp_path)) < 2:
            pass
        done.set()

    threading.Thread(target=wait, daemon=True).start()
    assert done.wait(background_sync.SYNC_S + 5)
    first.close()
    second.close()


def test_site_that_never_joined_has_no_counts(tmp_path: Path) -> None:
    assert egress.read(tmp_path) == []
    assert egress.to_json([]) == {"classes": [], "messages": 0, "bytes": 0}
    assert not list(tmp_path.iterdir())
