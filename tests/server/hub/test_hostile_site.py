"""What an enrolled site that means harm can do to the hub and to the other sites: nothing that lasts."""

import asyncio
import contextlib
import socket
from pathlib import Path

import grpc
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from loopback import Consortium, Site, hello, in_thread, play, sha256, until

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.federation.content import Content
from ynet_server import ports
from ynet_server.hub import relay
from ynet_server.hub.hub import MAX_QUESTION_BYTES, MAX_QUESTIONS
from ynet_server.hub.transfers import MAX_TRANSFERS
from ynet_server.rounds.grid import HubGrid

Code = grpc.StatusCode


def refused(code: grpc.StatusCode, words: str = "") -> "pytest.RaisesExc[grpc.aio.AioRpcError]":
    def fits(error: grpc.aio.AioRpcError) -> bool:
        return error.code() is code and words in (error.details() or "")

    return pytest.RaisesExc(grpc.aio.AioRpcError, check=fits)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_fault_of_the_server_tells_a_stranger_nothing_of_its_files(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            gone = consortium.hub.offer(tmp_path / "registry-of-secrets", sha256(b""), 0)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await wire.download(gone.name)
            assert caught.value.code() is Code.INTERNAL
            assert caught.value.details() == "the server failed; its log says why"

    play(tmp_path, story)


def test_a_place_beyond_any_file_is_no_fault_of_the_server(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        (tmp_path / "model").write_bytes(b"weights")
        offered = consortium.hub.offer(tmp_path / "model", sha256(b"weights"), 7)
        async with consortium.wire(consortium.enrol("A")) as wire:
            for offset in (7, 8, 2**63, 2**64 - 1):
                assert await wire.download(offered.name, offset) == b""

    play(tmp_path, story)


def test_unread_downloads_hold_few_files_and_block_no_other_site(tmp_path: Path) -> None:
    size = 64 << 20

    async def story(consortium: Consortium) -> None:
        with (tmp_path / "model").open("wb") as file:
            file.truncate(size)
        offered = consortium.hub.offer(tmp_path / "model", "", size)
        async with consortium.wire(consortium.enrol("A")) as hostile, consortium.wire(consortium.enrol("B")) as other:
            before = open_files()
            calls = [hostile.downloading(offered.name) for _ in range(200)]
            begun = await asyncio.gather(*(call.read() for call in calls), return_exceptions=True)
            assert open_files() - before <= MAX_TRANSFERS + 8
            assert sum(isinstance(one, pb.Chunk) for one in begun) <= MAX_TRANSFERS
            assert len(await other.download(offered.name)) == size
            for call in calls:
                call.cancel()
            await until(lambda: open_files() <= before + 4)
            assert len(await hostile.download(offered.name)) == size

    play(tmp_path, story)


def test_one_task_takes_one_upload_at_a_time(tmp_path: Path) -> None:
    """Else a site could fill the server's disk with replies that nobody awaits."""

    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            stream = await wire.attached()
            waiting = asyncio.ensure_future(consortium.task("A"))
            task = (await stream.read()).task
            header = pb.UploadHeader(task_id=task.id, sha256=sha256(b"reply"), size_bytes=5)
            calls = [wire.uploading() for _ in range(5)]
            for call in calls:
                await call.write(pb.UploadPart(header=header))
                await call.write(pb.UploadPart(data=b"re"))
            await until(lambda: sum(call.done() for call in calls) == 4)
            assert len(list(consortium.spool.iterdir())) == 1
            for call in calls:
                call.cancel()
            for body in (b"other", b"reply"):
                other = pb.UploadHeader(task_id=task.id, sha256=sha256(body), size_bytes=9)
                with refused(Code.DATA_LOSS):
                    await wire.upload(other, body)
                assert len(list(consortium.spool.iterdir())) == 1
            await wire.upload(header, b"reply")
            assert (await waiting).read_bytes() == b"reply"
        assert [path.suffix for path in consortium.spool.iterdir()] == [".whole"]

    play(tmp_path, story)


def test_hello_with_too_many_tasks_is_answered_in_few_messages(tmp_path: Path) -> None:
    greeting = hello()
    greeting.hello.keeps_tasks = True
    greeting.hello.tasks.extend(["0" * 32] * 100_000)

    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = wire.attach()
            await call.write(greeting)
            assert (await call.read()).HasField("welcome")
            waiting = asyncio.ensure_future(consortium.task("A"))
            called_off = 0
            while not (message := await call.read()).HasField("task"):
                assert message.HasField("cancel")
                called_off += 1
            assert called_off <= protocol.MAX_TASKS
            waiting.cancel()

    play(tmp_path, story)


def test_a_flood_of_queries_costs_nobody_the_connection(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("B")) as b, consortium.wire(consortium.enrol("A")) as a:
            busy = await b.attached()  # it reads nothing for now, as over a slow line
            body = b"q" * protocol.MAX_QUERY_BYTES
            for _ in range(40):  # 80 MiB: more than the line and the hub's queue hold
                asked = [a.ask(body, "B", deadline_ms=1) for _ in range(32)]
                await asyncio.gather(*asked, return_exceptions=True)
            assert "B" in consortium.hub.connected()
            waiting = asyncio.ensure_future(consortium.task("B"))
            while not (message := await busy.read()).HasField("task"):
                assert message.WhichOneof("body") in ("query", "cancel")
            await b.upload(pb.UploadHeader(task_id=message.task.id, sha256=sha256(b"r"), size_bytes=1), b"r")
            assert (await waiting).read_bytes() == b"r"

    play(tmp_path, story)


def test_a_site_has_few_questions_open_at_a_time(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with (
            consortium.wire(consortium.enrol("B")) as b,
            consortium.wire(consortium.enrol("A")) as a,
            contextlib.AsyncExitStack() as stack,
        ):
            await b.attached()
            sites = ["B", "C", "D"]  # more than one, for at one it may have fewer still
            for name in sites[1:]:
                await (await stack.enter_async_context(consortium.wire(consortium.enrol(name)))).attached()
            asked = [
                asyncio.ensure_future(a.ask(b"q", sites[number % 3], deadline_ms=2000))
                for number in range(MAX_QUESTIONS + 9)
            ]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            told = [one.code() for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
            assert told == [Code.RESOURCE_EXHAUSTED] * 9
            assert list((await a.ask(b"q", "B", deadline_ms=1)).late) == ["B"]

    play(tmp_path, story)


def test_questions_of_one_site_and_their_answers_use_bounded_hub_memory(tmp_path: Path) -> None:
    large = pb.Question.ToOne(body=bytes(protocol.MAX_QUERY_BYTES))
    names = [f"B{number}" for number in range(40)]

    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("B")) as b, consortium.wire(consortium.enrol("A")) as a:
            await b.attached()
            queries = [pb.Question.ToOne(site="B", body=b"q")]
            queries += [pb.Question.ToOne(site=name, body=large.body) for name in names]
            question = pb.Question(queries=queries, deadline_ms=1000)
            asked = [a.put(question) for _ in range(20)]
            outcomes = await asyncio.gather(*asked, return_exceptions=True)
            taken = sum(isinstance(one, pb.Answers) for one in outcomes)
            assert taken == MAX_QUESTION_BYTES // question.ByteSize()
            refusals = [one for one in outcomes if isinstance(one, grpc.aio.AioRpcError)]
            assert {one.code() for one in refusals} == {Code.RESOURCE_EXHAUSTED}
            assert isinstance(await a.put(question), pb.Answers)

    play(tmp_path, story)


def test_answers_that_the_asking_site_does_not_take_are_not_piled_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MAX_HELD_BYTES", 4 << 20)

    async def story(consortium: Consortium) -> None:
        async with (
            consortium.wire(consortium.enrol("B")) as b,
            consortium.wire(consortium.enrol("C")) as silent,
            consortium.wire(consortium.enrol("A")) as a,
        ):
            await silent.attached()  # so that no question is at its end before its deadline
            body = bytes(protocol.PADDING_BYTES * 700)
            async with b.answering(lambda query: pb.Answer(query_id=query.id, body=body)):
                asked = [a.ask(b"q", "B", "C", deadline_ms=1000) for _ in range(20)]
                outcomes = await asyncio.gather(*asked)
            assert sum(len(one.answers) for one in outcomes) == (4 << 20) // len(body)
            assert all(bool(one.answers) != bool(one.busy) for one in outcomes)
            assert all(list(one.late) == ["C"] for one in outcomes)

    play(tmp_path, story)


def test_a_question_that_names_a_hundred_thousand_sites_is_refused(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as a:
            with refused(Code.INVALID_ARGUMENT):
                await a.ask(b"q", *(f"{number:x}" for number in range(100_000)))

    play(tmp_path, story)


def test_a_flood_of_figures_is_refused_and_is_not_kept_with_the_run(tmp_path: Path) -> None:
    figures = {"metrics": {"num-examples": 7.0, **{f"figure {number}": 0.5 for number in range(50_000)}}}

    async def work(kind: str, received: Path) -> Content:
        return Content(metrics=figures)

    async def story(consortium: Consortium) -> None:
        await consortium.join("A", Site(task=work))
        grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)

        def ask() -> Message:
            (node,) = grid.get_node_ids()
            content = RecordDict({"config": ConfigRecord({"x": 1})})
            (reply,) = grid.send_and_receive([Message(content, node, "evaluate")], timeout=5)
            return reply

        reply = await in_thread(ask)
        assert reply.has_error()
        assert "16 KiB" in reply.error.reason

    play(tmp_path, story)


def test_a_message_that_cannot_be_read_is_refused_and_no_fault_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = wire._channel.stream_stream(f"/{protocol.SERVICE}/Attach", None, pb.ToSite.FromString)()
            await call.write(b"\xff\xff\xff")
            with refused(Code.INVALID_ARGUMENT, "cannot be read"):
                await call.read()
        assert "site A sent a message that cannot be read" in caplog.text
        assert "Traceback" not in "".join(one.getMessage() for one in caplog.records if one.name.startswith("ynet"))

    play(tmp_path, story)


def test_strangers_who_connect_and_say_nothing_are_few_and_soon_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"grpc.max_allowed_incoming_connections": 8, "grpc.server_handshake_timeout_ms": 500}
    assert set(few) < {name for name, _ in ports.OPTIONS}
    monkeypatch.setattr(ports, "OPTIONS", [*(one for one in ports.OPTIONS if one[0] not in few), *few.items()])

    def is_closed(stranger: socket.socket) -> bool:
        try:
            return stranger.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionError:
            return True

    async def story(consortium: Consortium) -> None:
        strangers = [socket.create_connection(("127.0.0.1", consortium.port)) for _ in range(20)]
        try:
            for stranger in strangers:
                stranger.setblocking(False)
            await until(lambda: sum(map(is_closed, strangers)) >= 12)
            await until(lambda: all(map(is_closed, strangers)))
            await consortium.join("A")
        finally:
            for stranger in strangers:
                stranger.close()

    play(tmp_path, story)


def test_an_update_for_a_round_that_is_over_or_that_never_was_reaches_no_round(tmp_path: Path) -> None:
    """A reply belongs to one task of one run and round: another round's is not waited for any more, or not yet."""

    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            stream = await wire.attached()
            first = asyncio.ensure_future(consortium.task("A", b"round 1"))
            over = (await stream.read()).task.id
            update = pb.UploadHeader(task_id=over, sha256=sha256(b"update 1"), size_bytes=8)
            await wire.upload(update, b"update 1")
            assert (await first).read_bytes() == b"update 1"
            second = asyncio.ensure_future(consortium.task("A", b"round 2"))
            now = (await stream.read()).task.id
            for wrong in (over, "0" * 32, "", "../" + now, now.upper() + " "):
                with refused(Code.NOT_FOUND, "nobody waits"):
                    header = pb.UploadHeader(task_id=wrong, sha256=sha256(b"update 1"), size_bytes=8)
                    await wire.upload(header, b"update 1")
            assert not second.done()
            await wire.upload(pb.UploadHeader(task_id=now, sha256=sha256(b"update 2"), size_bytes=8), b"update 2")
            assert (await second).read_bytes() == b"update 2"
            with refused(Code.NOT_FOUND, "nobody waits"):  # nor twice
                await wire.upload(pb.UploadHeader(task_id=now, sha256=sha256(b"update 3"), size_bytes=8), b"update 3")

    play(tmp_path, story)
