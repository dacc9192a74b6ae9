"""A site has one process: a copy of its folder is refused with the reason, and waits, while the first process lives."""

import asyncio
import datetime as dt
from pathlib import Path

import grpc
import pytest
from loopback import Consortium, Site, play, until

from ynet.federation import hub_pb2 as pb
from ynet_client.connection import doctor, retries
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.retries import Retries
from ynet_client.connection.session import Session
from ynet_client.membership import membership
from ynet_client.membership.membership import KEY, Membership


def test_second_process_of_a_site_is_refused_with_the_reason_and_waits_minutes(tmp_path: Path) -> None:
    written: list[tuple[object, ...]] = []

    async def story(consortium: Consortium) -> None:
        copies: list[bool] = []
        said: list[str] = []
        member = consortium.enrol("A")
        (tmp_path / "of A").mkdir()
        first = Session(
            member, tmp_path / "of A", Site(), said.append, SessionHooks(copied=lambda: copies.append(True))
        )
        running = consortium.run(first)
        await until(lambda: first.connected)
        second = consortium.session(member)
        await until(lambda: second.said)
        assert second.said[0].startswith("site A is already connected from elsewhere")
        assert second.said[0].endswith("trying again in about 60 s")
        assert (await consortium.task("A")).exists()  # the first continues
        assert any("refused another process with this site's identity" in line for line in said)
        assert copies == [True]
        assert [one[:2] for one in written if one[0] == "copy-refused"] == [("copy-refused", "A")]
        running.cancel()  # whoever stops the first can start the second at once
        await until(lambda: "A" not in consortium.hub.connected())
        third = consortium.session(member)
        await until(lambda: third.session.connected)

    play(tmp_path, story, audit=lambda *entry: written.append(entry))


def test_copy_that_tries_again_and_again_is_not_told_and_written_down_each_time(tmp_path: Path) -> None:
    written: list[tuple[object, ...]] = []

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        member = joined.session.member
        async with consortium.wire(member) as wire:
            for _ in range(20):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await (await wire.attached(b"another")).read()
                assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        assert joined.session.connected
        assert len([one for one in written if one[0] == "copy-refused"]) == 3
        assert len([line for line in joined.said if "another process" in line]) == 3

    play(tmp_path, story, audit=lambda *entry: written.append(entry))


def test_process_whose_line_broke_without_a_word_makes_way_within_seconds(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.stop()
        consortium.answer_within_s = 0.5
        await consortium.open()
        member = consortium.enrol("A")
        async with consortium.wire(member) as wire:
            silent = await wire.attached(b"killed behind a firewall that says nothing")
            joined = consortium.session(member)
            await until(lambda: joined.session.connected, 5.0)
            assert (await silent.read()).HasField("are_you_there")
            assert await silent.read() is grpc.aio.EOF
        assert joined.said == [f"connected to federation test at 127.0.0.1:{consortium.port}"]

    play(tmp_path, story)


def test_many_copies_at_once_leave_one_connected(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.stop()
        consortium.answer_within_s = 0.5
        await consortium.open()
        member = consortium.enrol("A")
        async with consortium.wire(member) as wire:
            await wire.attached(b"silent")
            joined = [consortium.session(member) for _ in range(4)]
            await until(lambda: all(one.said for one in joined))
            assert sum(one.session.connected for one in joined) == 1
            assert sum("already connected from elsewhere" in one.said[0] for one in joined) == 3

    play(tmp_path, story)


def test_same_process_takes_the_place_of_its_older_stream_at_once(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")
        async with consortium.wire(member) as before, consortium.wire(member) as after:
            older = await before.attached(b"one process")
            begun = asyncio.get_running_loop().time()
            await after.attached(b"one process")
            assert asyncio.get_running_loop().time() - begun < consortium.answer_within_s / 2
            assert await older.read() is grpc.aio.EOF

    play(tmp_path, story)


def test_site_of_an_older_ynet_makes_way_as_before(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")
        async with consortium.wire(member) as before, consortium.wire(member) as after:
            older = await before.attached()
            await after.attached()
            assert await older.read() is grpc.aio.EOF

    play(tmp_path, story)


def test_answer_of_a_stream_that_was_not_asked_changes_nothing(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire:
            call = await wire.attached(b"one")
            await call.write(pb.FromSite(here=pb.Here()))
            await asyncio.sleep(0.05)
            assert list(consortium.hub.connected()) == ["A"]

    play(tmp_path, story)


def home_of(folder: Path, member: Membership) -> Path:
    folder.mkdir(mode=0o700)
    (folder / KEY).write_bytes(member.key)
    membership.keep(folder, member)
    return folder


def test_doctor_says_that_the_site_is_connected_from_elsewhere(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        home = home_of(tmp_path / "copy", joined.session.member)
        steps = await asyncio.to_thread(doctor.examine, home, dt.datetime.now(dt.UTC), {})
        bad = doctor.failure(steps)
        assert bad is not None
        assert (bad.step, bad.exit_code) == ("access", 2)
        assert "a copy of it" in bad.found

    play(tmp_path, story)


def test_waits_grow_to_a_quarter_of_an_hour_and_begin_anew_with_a_connection() -> None:
    waits = Retries()
    assert [waits.wait_s(is_elsewhere=True) for _ in range(6)] == [60.0, 120.0, 240.0, 480.0, 900.0, 900.0]
    assert [waits.wait_s(is_elsewhere=False) for _ in range(7)] == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    waits.connected()
    assert waits.wait_s(is_elsewhere=True) == retries.ELSEWHERE_FIRST_S
