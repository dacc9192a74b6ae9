"""How often a site may call: what is more is refused before it costs a byte of the disk, and told in one line."""

import asyncio
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from loopback import Consortium, play

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.runtime.rates import Rate
from ynet.runtime.reserve import Reserve
from ynet_server import audit
from ynet_server.audit import ServerAudit
from ynet_server.hub.limits import Limits

Code = grpc.StatusCode


def outcome(error: object) -> object:
    return error.code() if isinstance(error, grpc.aio.AioRpcError) else type(error)


@pytest.mark.parametrize("body", [b"q", b"\xff" * 100], ids=["a question", "garbage"])
def test_a_flood_of_questions_is_a_few_lines_of_the_log_and_another_site_is_heard(tmp_path: Path, body: bytes) -> None:
    now = [0.0]
    (tmp_path / "log").mkdir()

    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as a, consortium.wire(consortium.enrol("B")) as b:
            for _ in range(20):
                asked = [a.ask(body, "C", deadline_ms=1) for _ in range(20)]
                refused = [outcome(one) for one in await asyncio.gather(*asked, return_exceptions=True)]
            assert set(refused) == {Code.RESOURCE_EXHAUSTED}
            assert isinstance(await b.ask(body, "C", deadline_ms=1), pb.Answers)
            now[0] += 10
            assert isinstance(await a.ask(body, "C", deadline_ms=1), pb.Answers)

    with closing(ServerAudit(tmp_path / "log")) as log:
        limits = Limits(log.write, Reserve(tmp_path), {"Ask": Rate(30, 1.0)}, lambda: now[0])
        play(tmp_path, story, within=[limits], audit=log.write)
        limits.flush()
    entries = list(audit.read(tmp_path / "log"))
    assert [entry.action for entry in entries] == ["asked"] * 32 + ["too-many"]
    assert (entries[-1].site, entries[-1].count) == ("A", 400 - 30)
    assert audit.verify(tmp_path / "log").number == 33


def test_heads_of_logs_and_greetings_have_a_limit_too(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            head = pb.WitnessRequest(head=pb.LedgerHead(number=0, digest="0" * 64))
            ask = wire._channel.unary_unary(
                f"/{protocol.SERVICE}/Witness", pb.WitnessRequest.SerializeToString, pb.WitnessReply.FromString
            )
            for _ in range(3):
                await ask(head)
            with pytest.raises(grpc.aio.AioRpcError, match="too often"):
                await ask(head)
            await wire.attached()
            with pytest.raises(grpc.aio.AioRpcError, match="too often"):
                await wire.attached()

    limits = Limits(audit.nowhere, Reserve(tmp_path), {"Witness": Rate(3, 0), "Attach": Rate(1, 0)})
    play(tmp_path, story, within=[limits])


def test_with_little_room_on_the_disk_questions_are_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            await wire.attached()
            with pytest.raises(grpc.aio.AioRpcError, match="disk is nearly full"):
                await wire.ask(b"q", "B")

    play(tmp_path, story, within=[Limits(audit.nowhere, Reserve(tmp_path, 1, floor_bytes=1 << 60))])
