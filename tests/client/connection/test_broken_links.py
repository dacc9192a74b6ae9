"""Slow and broken connections between a site and the hub: work continues, and every file arrives once and whole."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from broken_line import Line, line_to
from loopback import Consortium, Joined, Site, hello, in_thread, play, runs, sha256, tiny_app, until

from ynet import plan as plans
from ynet import weights
from ynet.federation import content, protocol
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.trust.identity import Identity
from ynet.weights import Flat
from ynet_client.adoption.adopting import Fetch
from ynet_client.connection import current_channel as links
from ynet_client.connection import retries
from ynet_client.training.secure_aggregation import Party
from ynet_server.hub import hub as hubs
from ynet_server.hub import tasks
from ynet_server.hub.reply_errors import LOST
from ynet_server.hub.tasks import TaskError
from ynet_server.rounds import server_app
from ynet_server.rounds.grid import HubGrid
from ynet_server.rounds.run_folder import MODEL, RunFolder

MB = 1_000_000
VALUES = np.random.default_rng(1).standard_normal(12_500_000).astype(np.float32)  # 50 MB
SENT = Content(arrays={"arrays": {"block00000": VALUES}})
MB_PER_S, CUT_EVERY_S = 20, 0.5  # a fifth of it at a time: from zero each time it would never arrive


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 0.05)
    monkeypatch.setattr(links, "AGAIN_S", 0.02)


@contextlib.asynccontextmanager
async def joined_over(
    consortium: Consortium, work: Site, bytes_per_s: float | None = None, cut_every_s: float | None = None
) -> AsyncIterator[tuple[Joined, Line]]:
    """A site with an unreliable connection."""
    consortium.hub._max_model_bytes = 64 << 20
    async with line_to(consortium.port, bytes_per_s, cut_every_s) as line:
        joined = consortium.session(consortium.enrol("A")._replace(hub=line.address), work)
        await until(lambda: joined.session.connected)
        yield joined, line


def test_an_update_of_50_mb_arrives_over_a_line_that_breaks_all_the_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = []

    async def train(kind: str, received: Path) -> Content:
        trained.append(received.stat().st_size)
        return SENT

    async def story(consortium: Consortium) -> None:
        async with joined_over(consortium, Site(task=train), MB_PER_S * MB, CUT_EVERY_S) as (joined, line):
            reply = await consortium.task("A")
            assert content.is_digest_of(reply, sha256((reply).read_bytes()))
            np.testing.assert_array_equal(content.read(reply).arrays["arrays"]["block00000"], VALUES)
            assert line.cuts >= 3
            assert len(trained) == 1
            assert not caplog.records  # a line that breaks is no fault of the server
            await until(lambda: not list(joined.spool.iterdir()))
        assert [path.suffix for path in consortium.spool.iterdir()] == [".whole"]

    play(tmp_path, story, within_s=120)


def test_weights_of_50_mb_reach_a_site_over_a_line_that_breaks_all_the_time(tmp_path: Path) -> None:
    content.write(tmp_path / "weights", SENT)
    body, got = (tmp_path / "weights").read_bytes(), []

    async def train(kind: str, received: Path) -> Content:
        got.append(sha256(received.read_bytes()))
        return Content()

    async def story(consortium: Consortium) -> None:
        async with joined_over(consortium, Site(task=train), MB_PER_S * MB, CUT_EVERY_S) as (_, line):
            await consortium.task("A", body)
            assert got == [sha256(body)]
            assert line.cuts >= 3

    play(tmp_path, story, within_s=120)


class Slow(Site):
    """Works until the test releases it."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.going_on = asyncio.Event()
        self.was_called_off = False

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        self.begun += 1
        await until(lambda: self.going_on.is_set() or cancelled())
        self.was_called_off = cancelled()
        return Content(configs={"got": {"kind": kind}})


def test_a_site_goes_on_training_while_its_line_is_broken_and_the_reply_follows(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        work = Slow()
        async with joined_over(consortium, work) as (joined, line):
            waiting = asyncio.ensure_future(consortium.task("A"))
            await until(lambda: work.begun)
            line.is_cut = True
            line.cut()
            await until(lambda: not joined.session.connected and not consortium.hub.connected())
            assert list(consortium.hub.present()) == ["A"]
            work.going_on.set()
            await until(lambda: list(joined.spool.glob("out-*")))
            assert not waiting.done()
            line.is_cut = False
            assert content.read(await waiting).configs == {"got": {"kind": "train"}}
            assert work.begun == 1

    play(tmp_path, story)


def test_a_task_for_a_site_that_is_away_for_a_moment_is_given_when_it_is_back(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with joined_over(consortium, Site()) as (_, line):
            line.is_cut = True
            line.cut()
            await until(lambda: not consortium.hub.connected())
            waiting = asyncio.ensure_future(consortium.task("A"))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            line.is_cut = False
            assert content.read(await waiting).configs == {"got": {"kind": "train"}}

    play(tmp_path, story)


def test_a_site_that_does_not_come_back_is_lost_after_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "GRACE_S", 0.3)

    async def story(consortium: Consortium) -> None:
        async with joined_over(consortium, Slow()) as (_, line):
            waiting = asyncio.ensure_future(consortium.task("A"))
            await until(lambda: consortium.hub.connected())
            line.is_cut = True
            line.cut()
            with pytest.raises(TaskError, match="connection to the site was lost") as caught:
                await asyncio.wait_for(waiting, 5)
            assert caught.value.code == LOST
            assert not consortium.hub.present()
            with pytest.raises(TaskError, match="not connected"):
                await consortium.task("A")

    play(tmp_path, story)


def test_a_task_that_was_called_off_while_the_site_was_away_stops_when_it_is_back(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        work = Slow()
        async with joined_over(consortium, work) as (joined, line):
            waiting = asyncio.ensure_future(consortium.task("A"))
            await until(lambda: work.begun)
            line.is_cut = True
            line.cut()
            await until(lambda: not consortium.hub.connected())
            waiting.cancel()
            await asyncio.sleep(0.05)
            assert not work.was_called_off
            line.is_cut = False
            await until(lambda: work.was_called_off)
            await until(lambda: not joined.session.tasks_held and not list(joined.spool.iterdir()))
            assert not list(consortium.spool.iterdir())

    play(tmp_path, story)


def test_a_site_that_never_comes_back_in_time_stops_by_itself(tmp_path: Path) -> None:
    """The hub sends how long it waits, so clocks may differ."""

    async def story(consortium: Consortium) -> None:
        work = Slow()
        async with joined_over(consortium, work) as (joined, line):
            (tmp_path / "c").write_bytes(b"c")
            blob = consortium.hub.offer(tmp_path / "c", sha256(b"c"), 1)
            waiting = asyncio.ensure_future(consortium.hub.task("A", "train", blob, 0.5))
            await until(lambda: work.begun)
            line.is_cut = True
            line.cut()
            await until(lambda: work.was_called_off, within_s=5)
            await until(lambda: not list(joined.spool.iterdir()))
            waiting.cancel()

    play(tmp_path, story)


def test_restarted_site_gets_its_task_again(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        work = Slow()
        async with joined_over(consortium, work) as (killed, line):
            waiting = asyncio.ensure_future(consortium.task("A"))
            await until(lambda: work.begun)
            line.is_cut = True
            line.cut()
            killed.task.cancel()
            await until(lambda: not consortium.hub.connected())
            consortium.session(killed.session.member._replace(hub=f"127.0.0.1:{consortium.port}"), Site())
            assert content.read(await waiting).configs == {"got": {"kind": "train"}}

    play(tmp_path, story)


def test_a_site_that_loses_its_work_again_and_again_is_not_given_it_for_ever(tmp_path: Path) -> None:
    greeting = hello()
    greeting.hello.keeps_tasks = True

    async def story(consortium: Consortium) -> None:
        member, waiting, given = consortium.enrol("A"), None, 0
        while waiting is None or not waiting.done():
            async with consortium.wire(member) as wire:
                call = wire.attach()
                await call.write(greeting)
                assert (await call.read()).HasField("welcome")
                waiting = waiting or asyncio.ensure_future(consortium.task("A"))
                if given < tasks.MOST_GIVEN:
                    assert (await call.read()).HasField("task")
                    given += 1
                call.cancel()
            await until(lambda: not consortium.hub.connected())
        with pytest.raises(TaskError, match="again and again"):
            await waiting
        assert given == tasks.MOST_GIVEN

    play(tmp_path, story)


def test_model_fetch_resumes_after_server_restart(tmp_path: Path) -> None:
    """The file has a new name at the restarted server; its content decides."""
    body, path = bytes(range(256)) * 20_000, tmp_path / "model.partial"

    class Fetching(Site):
        async def model(self, model: pb.Model, fetch: Fetch) -> None:
            await fetch(model.weights, path)
            self.models.append(model)

    async def story(consortium: Consortium) -> None:
        (tmp_path / "m").write_bytes(body)
        work = Fetching()
        async with joined_over(consortium, work, 3 * MB) as (_, line):
            consortium.hub.publish("m", consortium.hub.offer(tmp_path / "m", sha256(body), len(body)))
            await until(lambda: path.exists() and path.stat().st_size >= 2 * protocol.CHUNK_BYTES)
            line.is_cut = True
            line.cut()
            await consortium.stop()
            begun = path.stat().st_size
            assert not work.models
            await consortium.open()
            consortium.hub.publish("m", consortium.hub.offer(tmp_path / "m", sha256(body), len(body)))
            before, line.is_cut = line.down_bytes, False
            await until(lambda: work.models)
            assert path.read_bytes() == body
            assert line.down_bytes - before < len(body) - begun + 100_000

    play(tmp_path, story)


def test_what_a_fetch_finds_of_another_file_does_not_spoil_it(tmp_path: Path) -> None:
    body, path = b"the weights", tmp_path / "model.partial"

    class Fetching(Site):
        async def model(self, model: pb.Model, fetch: Fetch) -> None:
            path.write_bytes(b"others")
            await fetch(model.weights, path)
            self.models.append(model)

    async def story(consortium: Consortium) -> None:
        (tmp_path / "m").write_bytes(body)
        joined = await consortium.join("A", Fetching())
        consortium.hub.publish("m", consortium.hub.offer(tmp_path / "m", sha256(body), len(body)))
        await until(lambda: joined.work.models)
        assert path.read_bytes() == body

    play(tmp_path, story)


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_a_run_over_lines_that_break_all_the_time_is_that_over_whole_ones(tmp_path: Path, aggregation: str) -> None:
    """Each site trains each round once, and no round or sum is repeated."""
    trained, cases, names, rounds = Counter[tuple[str, int]](), 10, "ABC", 4
    values = {
        "name": "t",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "training": {"rounds": rounds, "learning_rate": 0.1},
        "cohort": {"min_sites": 3, "quorum": 3, "round_deadline_s": 60},
        "privacy": {"mode": "off"},
        "aggregation": aggregation,
    }
    folder = RunFolder(tmp_path / "run").create(plans.from_canonical(json.dumps(values)))

    def training(name: str) -> Callable[[int, Flat], Flat]:
        def train(number: int, flat: Flat) -> Flat:
            trained[name, number] += 1
            time.sleep(0.3)
            return flat + np.float32(ord(name) * number)

        return train

    async def story(consortium: Consortium) -> None:
        grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
        async with contextlib.AsyncExitStack() as stack:
            for name in names:
                member = consortium.enrol(name)
                is_secure = aggregation == "secure"
                own = Identity(member.key, member.certificate)
                party = Party(name, own, member.authority, None) if is_secure else None
                line = await stack.enter_async_context(line_to(consortium.port, cut_every_s=0.4))
                app = tiny_app(training(name), cases, party=party)
                consortium.session(member._replace(hub=line.address), runs(app, cases))
            await in_thread(lambda: server_app.federate(grid, folder, grid.name_of, grid.cases_of))

    play(tmp_path, story, within_s=90)
    kinds = Counter(event["kind"] for event in folder.events() if event["kind"] != "waiting")
    assert kinds == {"started": 1, "round": rounds, "evaluated": 1, "finished": 1}
    assert trained == {(name, number): 1 for name in names for number in range(1, rounds + 1)}
    arrays, _ = weights.load(folder.path / MODEL)
    expected = sum(map(ord, names)) / 3 * sum(range(1, rounds + 1))
    np.testing.assert_allclose(weights.flatten(arrays), expected, rtol=1e-6)


# --- uploads by hand


@contextlib.asynccontextmanager
async def broken_off(consortium: Consortium, body: bytes, part: int) -> "AsyncIterator[tuple[object, pb.UploadHeader]]":
    """A connection that carried only the first `part` bytes of a reply."""
    async with consortium.wire(consortium.enrol("A")) as wire:
        stream = await wire.attached()
        waiting = asyncio.ensure_future(consortium.task("A"))
        header = pb.UploadHeader(task_id=(await stream.read()).task.id, sha256=sha256(body), size_bytes=len(body))
        upload = wire.uploading()
        await upload.write(pb.UploadPart(header=header))
        await upload.write(pb.UploadPart(data=body[:part]))
        await until(lambda: [path.stat().st_size for path in consortium.spool.iterdir()] == [part])
        yield (wire, upload, waiting), header


def test_an_upload_goes_on_where_it_broke_off_though_the_old_one_looks_alive(tmp_path: Path) -> None:
    body = b"a whole reply"

    async def story(consortium: Consortium) -> None:
        async with broken_off(consortium, body, 5) as ((wire, old, waiting), header):  # type: ignore[misc]
            header.offset = await wire.resume(header)
            assert header.offset == 5
            await wire.upload(header, body[5:])
            assert (await waiting).read_bytes() == body
            assert await old.code() is grpc.StatusCode.ABORTED
        assert len(list(consortium.spool.iterdir())) == 1

    play(tmp_path, story)


def test_only_the_same_reply_goes_on_and_from_where_it_broke_off(tmp_path: Path) -> None:
    body = b"a whole reply"

    async def story(consortium: Consortium) -> None:
        async with broken_off(consortium, body, 5) as ((wire, _, waiting), header):  # type: ignore[misc]
            other = pb.UploadHeader(task_id=header.task_id, sha256=sha256(b"b"), size_bytes=header.size_bytes)
            assert await wire.resume(other) == 0
            for wrong, offset in ((other, 5), (header, 4), (header, 6), (header, 2**63)):
                wrong.offset = offset
                with pytest.raises(grpc.aio.AioRpcError, match="where the reply broke off"):
                    await wire.upload(wrong, body[5:])
            async with consortium.wire(consortium.enrol("B")) as stranger:
                with pytest.raises(grpc.aio.AioRpcError, match="nobody waits"):
                    await stranger.resume(header)
            header.offset = 5
            with pytest.raises(grpc.aio.AioRpcError, match="did not arrive whole"):
                await wire.upload(header, b"x" * (len(body) - 5))
            assert not list(consortium.spool.iterdir())  # nobody knows which part of it was wrong
            header.offset = 0
            await wire.upload(header, body)
            assert (await waiting).read_bytes() == body

    play(tmp_path, story)


def test_to_a_hub_of_an_older_version_a_reply_is_sent_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older hub has no method Resume, so each upload starts at the beginning."""
    handlers = hubs.grpc.method_handlers_generic_handler

    def without_resume(service: str, methods: dict[str, object]) -> object:
        return handlers(service, {name: one for name, one in methods.items() if name != "Resume"})

    monkeypatch.setattr(hubs.grpc, "method_handlers_generic_handler", without_resume)
    values = VALUES[: 3 * protocol.CHUNK_BYTES]

    async def train(kind: str, received: Path) -> Content:
        return Content(arrays={"arrays": {"block00000": values}})

    async def story(consortium: Consortium) -> None:
        async with joined_over(consortium, Site(task=train), 20 * MB) as (_, line):
            waiting = asyncio.ensure_future(consortium.task("A"))
            await until(lambda: line.up_bytes > 3 * MB)
            line.cut()
            np.testing.assert_array_equal(content.read(await waiting).arrays["arrays"]["block00000"], values)
            assert line.up_bytes > values.nbytes + 3 * MB

    play(tmp_path, story)
