"""Flower's Grid over the hub: messages out, replies or errors back, nothing left behind."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from loopback import Consortium, Site, in_thread, play, sha256, until

from ynet.errors import RefusedError
from ynet.federation import content
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, CONFIG, LEDGER, TRAIN, flat_weights, weights_record
from ynet_server.hub.reply_errors import FAILED, REFUSED
from ynet_server.rounds.grid import HubGrid, node_id


def grid_of(consortium: Consortium) -> HubGrid:
    return HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)


def message(grid: HubGrid, site: str, records: RecordDict | None = None) -> Message:
    return grid.create_message(records or RecordDict({CONFIG: ConfigRecord({"to": site})}), TRAIN, node_id(site), "")


async def ask(grid: HubGrid, *messages: Message, timeout: float | None = 10.0) -> dict[str, Message]:
    """Each site's reply."""

    def send() -> Iterable[Message]:
        return grid.send_and_receive(messages, timeout=timeout)

    return {grid.name_of(reply.metadata.src_node_id): reply for reply in await in_thread(send)}


def saying(word: str) -> Site:
    async def task(kind: str, received: Path) -> Content:
        return Content(configs={CONFIG: {"word": word}})

    return Site(task=task)


def raising(error: Exception) -> Site:
    async def task(kind: str, received: Path) -> Content:
        raise error

    return Site(task=task)


def test_every_site_gets_its_message_and_its_reply_is_told_from_the_others(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        grid = grid_of(consortium)
        for name in ("A", "B", "C"):
            await consortium.join(name, saying(f"of {name}"))
        assert set(grid.get_node_ids()) == {node_id(name) for name in ("A", "B", "C")}
        replies = await ask(grid, *(message(grid, name) for name in ("A", "B", "C")))
        assert {site: reply.content[CONFIG]["word"] for site, reply in replies.items()} == {
            name: f"of {name}" for name in ("A", "B", "C")
        }
        assert not list(consortium.spool.glob("in-*"))
        await until(lambda: not list(consortium.spool.iterdir()))

    play(tmp_path, story)


def test_weights_reach_a_site_and_come_back_bit_by_bit(tmp_path: Path) -> None:
    async def echo(kind: str, received: Path) -> Content:
        return content.read(received)

    async def story(consortium: Consortium) -> None:
        grid = grid_of(consortium)
        await consortium.join("A", Site(task=echo))
        grid.get_node_ids()
        flat = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)
        replies = await ask(grid, message(grid, "A", RecordDict({ARRAYS: weights_record(flat)})))
        np.testing.assert_array_equal(flat_weights(replies["A"].content.array_records[ARRAYS]), flat)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (RefusedError("w", "the plan is not mine", "d"), REFUSED, "the plan is not mine"),
        (ValueError("patient 7 at /home"), FAILED, "the site failed; its admin's log says why"),
    ],
    ids=["refusal", "failure"],
)
def test_a_site_that_says_no_or_fails_is_an_error_with_one_public_sentence(
    tmp_path: Path, error: Exception, code: int, reason: str
) -> None:
    async def story(consortium: Consortium) -> None:
        grid = grid_of(consortium)
        await consortium.join("A", raising(error))
        await consortium.join("B", saying("fine"))
        grid.get_node_ids()
        replies = await ask(grid, message(grid, "A"), message(grid, "B"))
        assert (replies["A"].error.code, replies["A"].error.reason) == (code, reason)
        assert not replies["B"].has_error()

    play(tmp_path, story)


def test_a_site_that_is_late_is_called_off_and_one_that_was_never_there_is_an_error(tmp_path: Path) -> None:
    async def late(kind: str, received: Path) -> Content:
        await asyncio.sleep(60)
        raise AssertionError

    async def story(consortium: Consortium) -> None:
        grid = grid_of(consortium)
        await consortium.join("A", Site(task=late))
        gone = await consortium.join("B")
        grid.get_node_ids()
        gone.task.cancel()
        await until(lambda: "B" not in consortium.hub.connected())
        replies = await ask(grid, message(grid, "A"), message(grid, "B"), timeout=0.3)
        assert replies["A"].error.reason == "no answer before the deadline"
        assert replies["B"].error.reason == "the site is not connected"
        await until(lambda: not list(consortium.spool.iterdir()))

    play(tmp_path, story)


@pytest.mark.parametrize("body", [b"", b"garbage", b"\x80\x04\x95" + bytes(20)], ids=["empty", "garbage", "pickle"])
def test_a_reply_that_cannot_be_read_is_an_error_and_nothing_of_it_is_kept(tmp_path: Path, body: bytes) -> None:
    async def story(consortium: Consortium) -> None:
        grid = grid_of(consortium)
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = await wire.attached()
            grid.get_node_ids()
            asking = asyncio.ensure_future(ask(grid, message(grid, "A")))
            task = (await call.read()).task
            await wire.upload(pb.UploadHeader(task_id=task.id, sha256=sha256(body), size_bytes=len(body)), body)
            replies = await asking
        assert replies["A"].error.reason == "it is not a content file of ynet"
        await until(lambda: not list(consortium.spool.iterdir()))

    play(tmp_path, story)


def test_shared_content_is_one_file_and_can_be_sent_again(tmp_path: Path) -> None:
    files: list[int] = []

    async def story(consortium: Consortium) -> None:
        async def task(kind: str, received: Path) -> Content:
            files.append(len(list(consortium.spool.glob("out-*"))))
            return Content()

        grid = grid_of(consortium)
        names = [f"S{i}" for i in range(5)]
        for name in names:
            await consortium.join(name, Site(task=task))
        grid.get_node_ids()
        for _ in range(10):
            shared = RecordDict({ARRAYS: weights_record(np.zeros(9, np.float32))})
            replies = await ask(grid, *(message(grid, name, shared) for name in names))
            assert not any(reply.has_error() for reply in replies.values())
        assert max(files) == 1

    play(tmp_path, story)


def test_a_site_has_the_same_number_in_every_run() -> None:
    assert node_id("A") == node_id("A") != node_id("B")
    numbers: list[Any] = [node_id(f"S{i}") for i in range(1000)]
    assert len(set(numbers)) == 1000
    assert all(0 < number < 2**63 for number in numbers)


def telling(head: str) -> Site:
    async def task(kind: str, received: Path) -> Content:
        return Content(configs={CONFIG: {LEDGER: head}})

    return Site(task=task)


def test_a_site_is_told_at_its_next_greeting_how_far_its_ledger_went(tmp_path: Path) -> None:
    """By its own word: the farthest one counts, and what is no head counts for nothing."""

    async def story(consortium: Consortium) -> None:
        grid, member = grid_of(consortium), consortium.enrol("A")
        for head in (f"7 {'ab' * 32}", f"3 {'cd' * 32}", "nonsense", f"9 {'ab' * 31}"):
            joined = consortium.session(member, telling(head))
            await until(lambda joined=joined: joined.session.connected)  # type: ignore[misc]
            grid.get_node_ids()
            await ask(grid, message(grid, "A"))
            joined.task.cancel()
            await until(lambda: not consortium.hub.connected())
        again, other = consortium.session(member), await consortium.join("B")
        await until(lambda: again.work.witnessed)
        assert [(head.number, head.digest) for head in again.work.witnessed] == [(7, "ab" * 32)]
        assert not other.work.witnessed

    play(tmp_path, story)
