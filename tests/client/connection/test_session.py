"""A site's connection to a real hub: it reconnects, does its tasks, and reveals little about failures."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from loopback import Consortium, Joined, Site, play, sha256, until

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import content, protocol
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.trust import identity
from ynet_client.adoption.adopting import Fetch
from ynet_client.connection import retries, sealed_answering
from ynet_client.connection import session as sessions
from ynet_server.hub import greeting
from ynet_server.hub.reply_errors import FAILED, REFUSED
from ynet_server.hub.tasks import TaskError


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 0.05)


def test_it_says_to_whom_it_is_connected(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        assert joined.said == [f"connected to federation test at 127.0.0.1:{consortium.port}"]

    play(tmp_path, story)


def test_it_comes_back_by_itself_after_the_server_was_away(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        await consortium.stop()
        await until(lambda: not joined.session.connected)
        with pytest.raises(UnreachableError, match="cannot be asked"):
            await joined.session.ask(b"q", 1)
        await asyncio.sleep(0.2)
        await consortium.open()
        await until(lambda: joined.session.connected)
        assert content.read(await consortium.task("A")).configs == {"got": {"kind": "train"}}
        assert "the connection was lost" in joined.said[1]
        assert joined.said[-1].startswith("connected to")

    play(tmp_path, story)


def test_it_waits_for_a_server_that_is_not_there_yet(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")
        await consortium.stop()
        joined = consortium.session(member)
        await until(lambda: joined.said)
        assert joined.said[0].startswith(f"no connection to 127.0.0.1:{consortium.port}: unavailable; trying again")
        await consortium.open()
        await until(lambda: joined.session.connected)

    play(tmp_path, story)


def test_a_certificate_that_is_no_longer_in_use_ends_it_with_what_to_do(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        replaced = consortium.enrol("A")
        consortium.enrol("A")
        with pytest.raises(RefusedError, match="does not let this site in") as caught:
            await asyncio.wait_for(consortium.session(replaced).task, 5)
        assert "no longer in use" in caught.value.why
        assert "new invitation" in caught.value.do

    play(tmp_path, story)


class Other:
    """A protocol with other versions."""

    def __init__(self, oldest: int, newest: int) -> None:
        self.SPOKEN, self.VERSION = protocol.Spoken(oldest, newest), newest

    def __getattr__(self, name: str) -> object:
        return getattr(protocol, name)


@pytest.mark.parametrize(
    ("newest", "behind", "do"),
    [(protocol.VERSION + 2, "site", "update this site's ynet"), (1, "server", "ask the coordinator to update")],
)
def test_a_hub_with_no_common_protocol_ends_it_with_who_must_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, newest: int, behind: str, do: str
) -> None:
    monkeypatch.setattr(greeting, "protocol", Other(max(1, newest - 1), newest))

    async def story(consortium: Consortium) -> None:
        with pytest.raises(RefusedError) as caught:
            await asyncio.wait_for(consortium.session(consortium.enrol("A")).task, 5)
        assert f"speaks protocol {newest}" in caught.value.why
        assert f"update the {behind}" in caught.value.why
        assert do in caught.value.do

    play(tmp_path, story)


def test_a_session_one_version_on_goes_on_in_the_hubs_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "protocol", Other(protocol.VERSION, protocol.VERSION + 1))

    async def story(consortium: Consortium) -> None:
        await consortium.join("A")
        assert consortium.hub.connected()["A"].protocol == protocol.VERSION
        assert (await consortium.task("A")).exists()

    play(tmp_path, story)


def test_a_hub_that_goes_on_in_a_version_that_was_not_offered_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "agreed", lambda *_: 7)

    async def story(consortium: Consortium) -> None:
        joined = consortium.session(consortium.enrol("A"))
        with pytest.raises(RefusedError, match="protocol 7, which this site") as caught:
            await asyncio.wait_for(joined.task, 5)
        assert not joined.session.connected
        assert "coordinator" in caught.value.do

    play(tmp_path, story)


def test_a_hub_of_another_authority_is_not_spoken_to(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member = consortium.enrol("A")
        other = identity.make_authority("test", consortium.now)
        joined = consortium.session(member._replace(authority=other.certificate))
        await until(lambda: joined.said)
        assert not joined.session.connected
        assert not consortium.hub.connected()

    play(tmp_path, story)


# --- tasks


def raising(error: Exception) -> Callable[[str, Path], object]:
    async def task(kind: str, received: Path) -> Content:
        raise error

    return task


@pytest.mark.parametrize(
    ("error", "public", "code"),
    [
        (RefusedError("w", "the budget is spent", "d"), "the budget is spent", REFUSED),
        (UserError("image /data/patient7.png", "w", "d"), "the site's data or settings do not allow it", FAILED),
        (ValueError("patient7"), "the site failed; its admin's log says why", FAILED),
    ],
    ids=["refusal", "user's", "fault"],
)
def test_failure_is_detailed_at_the_site_and_one_sentence_for_others(
    tmp_path: Path, error: Exception, public: str, code: int
) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=raising(error)))  # type: ignore[arg-type]
        with pytest.raises(TaskError) as caught:
            await consortium.task("A")
        assert (str(caught.value), caught.value.code) == (public, code)
        if isinstance(error, UserError):
            assert str(error) in joined.said
        assert joined.session.connected
        await until(lambda: not list(joined.spool.iterdir()))

    play(tmp_path, story)


def test_a_reply_that_the_hub_does_not_take_is_a_failure_at_once(tmp_path: Path) -> None:
    async def huge(kind: str, received: Path) -> Content:
        return Content(configs={"c": {"k": "x" * 3_000_000}})

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=huge))
        with pytest.raises(TaskError, match="a transfer was broken off"):
            await asyncio.wait_for(consortium.task("A"), 5)
        # Which of the two the site sees first, the refusal or the end of the stream, is a matter of timing.
        assert joined.said[-1].startswith("a transfer was broken off")

    play(tmp_path, story)


def test_a_content_that_is_not_what_was_announced_is_not_worked_on(tmp_path: Path) -> None:
    worked: list[Path] = []

    async def work(kind: str, received: Path) -> Content:
        worked.append(received)
        return Content()

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=work))
        (tmp_path / "c").write_bytes(b"other")
        for blob in (
            consortium.hub.offer(tmp_path / "c", sha256(b"body"), 5),
            consortium.hub.offer(tmp_path / "c", sha256(b"other"), 4),
            consortium.hub.offer(tmp_path / "c", sha256(b"other"), 6),
            pb.Blob(name="gone", sha256=sha256(b"other"), size_bytes=5),
        ):
            with pytest.raises(TaskError):
                await asyncio.wait_for(consortium.hub.task("A", "train", blob), 5)
        assert not worked
        assert joined.session.connected
        await until(lambda: not list(joined.spool.iterdir()))

    play(tmp_path, story)


def test_a_task_that_was_called_off_knows_it_and_sends_nothing(tmp_path: Path) -> None:
    class Patient(Site):
        async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
            self.begun = True
            await until(cancelled)
            self.noticed = True
            return Content()

    async def story(consortium: Consortium) -> None:
        work = Patient()
        joined = await consortium.join("A", work)
        waiting = asyncio.ensure_future(consortium.task("A"))
        await until(lambda: getattr(work, "begun", False))
        waiting.cancel()
        await until(lambda: getattr(work, "noticed", False))
        await until(lambda: not list(joined.spool.iterdir()))
        assert not list(consortium.spool.iterdir())
        assert len(joined.said) == 1

    play(tmp_path, story)


class Patient(Site):
    """Works on a task until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.noticed = asyncio.Event(), asyncio.Event()

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        self.begun.set()
        await until(cancelled)
        self.noticed.set()
        return Content()


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_site_that_leaves_stops_what_it_works_on(tmp_path: Path, is_connected: bool) -> None:
    async def story(consortium: Consortium) -> None:
        work = Patient()
        joined = await consortium.join("A", work)
        waiting = asyncio.ensure_future(consortium.task("A"))
        await work.begun.wait()
        if not is_connected:
            consortium.hub._tasks.close = lambda: None  # type: ignore[method-assign] (it dies without a word)
            await consortium.stop()
            await until(lambda: not joined.session.connected)
        joined.task.cancel()
        await asyncio.wait_for(work.noticed.wait(), 5)
        waiting.cancel()
        if not is_connected:
            await consortium.open()

    play(tmp_path, story)


@pytest.mark.parametrize("hub", ["restarted", "older"])
def test_a_task_for_which_nobody_waits_after_a_lost_connection_is_called_off(tmp_path: Path, hub: str) -> None:
    """A restarted hub does not know the task; an older hub has reported its failure at once."""

    async def story(consortium: Consortium) -> None:
        work = Patient()
        joined = await consortium.join("A", work)
        if hub == "older":
            (tmp_path / "c").write_bytes(b"")
            blob = consortium.hub.offer(tmp_path / "c", sha256(b""), 0)
            consortium.hub._connections.send("A", pb.ToSite(task=pb.Task(id="1", kind="train", content=blob)))
        else:
            waiting = asyncio.ensure_future(consortium.task("A"))
        await work.begun.wait()
        await consortium.stop()
        if hub == "restarted":
            with pytest.raises(TaskError):
                await waiting
            await consortium.open()
            await until(lambda: joined.session.connected)
        await asyncio.wait_for(work.noticed.wait(), 5)
        await until(lambda: not list(joined.spool.iterdir()))
        if hub == "older":
            await consortium.open()

    play(tmp_path, story)


def test_many_tasks_and_queries_at_once_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    async def work(kind: str, received: Path) -> Content:
        await asyncio.sleep(0.01)
        return Content(configs={"got": {"kind": kind, "body": received.read_text()}})

    async def story(consortium: Consortium) -> None:
        await consortium.join("A", Site(task=work))
        asker = await consortium.join("B")

        async def one(number: int) -> None:
            path = tmp_path / f"c{number}"
            path.write_text(str(number))
            blob = consortium.hub.offer(path, sha256(str(number).encode()), len(str(number)))
            reply = content.read(await consortium.hub.task("A", f"k{number}", blob))
            assert reply.configs["got"] == {"kind": f"k{number}", "body": str(number)}

        async def ask() -> None:
            answers = await asker.session.ask(b"q", 5)
            assert [(one.site, one.body) for one in answers.answers] == [("A", b"answer to B")]

        await asyncio.gather(*map(one, range(20)), *(ask() for _ in range(20)))

    play(tmp_path, story)


# --- queries and models


def test_a_site_that_fails_to_answer_stays_connected_and_is_late(tmp_path: Path) -> None:
    async def failing(from_site: str, body: bytes) -> bytes:
        raise ValueError("a fault")

    async def story(consortium: Consortium) -> None:
        broken = await consortium.join("A", Site(failing))
        asker = await consortium.join("B")
        answers = await asker.session.ask(b"q", 0.2)
        assert list(answers.late) == ["A"]
        assert broken.said[-1] == "a fault of ynet; this site's log has it"
        assert broken.session.connected

    play(tmp_path, story)


def test_queries_go_on_while_sealing_keys_are_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_answering, "KEY_S", 0.1)

    async def story(consortium: Consortium) -> None:
        answers_to, asker = await consortium.join("A"), await consortium.join("B")
        cards, begun = set(), time.monotonic()
        for _ in range(20):
            found = await asker.session.ask(b"q", 5)
            assert [(one.site, one.body) for one in found.answers] == [("A", b"answer to B")]
            cards.add(consortium.hub._connections.of("A").card)
            await asyncio.sleep(0.03)
        assert 3 <= len(cards) <= 2 + (time.monotonic() - begun) / 0.1
        assert len(answers_to.session._answering._sessions) <= 1

    play(tmp_path, story)


def test_a_query_while_the_connection_breaks_is_unreachable(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        asked = asyncio.Event()

        async def silent(from_site: str, body: bytes) -> bytes:
            asked.set()
            await asyncio.sleep(60)
            return b""

        await consortium.join("A", Site(silent))
        asker = await consortium.join("B")
        asking = asyncio.ensure_future(asker.session.ask(b"q", 20))
        await asked.wait()
        await consortium.stop()
        with pytest.raises(UnreachableError, match="could not be asked"):
            await asyncio.wait_for(asking, 5)
        await consortium.open()

    play(tmp_path, story)


def test_a_model_is_fetched_whole_or_not_at_all(tmp_path: Path) -> None:
    body = bytes(range(256)) * 20_000

    class Fetching(Site):
        def __init__(self) -> None:
            super().__init__()
            self.outcomes: list[object] = []

        async def model(self, model: pb.Model, fetch: Fetch) -> None:
            try:
                await fetch(model.weights, tmp_path / "fetched")
                self.outcomes.append((tmp_path / "fetched").read_bytes() == body)
            except (UserError, grpc.aio.AioRpcError) as error:
                self.outcomes.append(type(error))

    async def story(consortium: Consortium) -> None:
        (tmp_path / "m").write_bytes(body)
        joined: Joined = await consortium.join("A", Fetching())
        for digest, size in ((sha256(body), len(body)), (sha256(b""), len(body)), (sha256(body), 3)):
            consortium.hub.publish("m", consortium.hub.offer(tmp_path / "m", digest, size))
            done = len(joined.work.outcomes)  # type: ignore[attr-defined]
            await until(lambda done=done: len(joined.work.outcomes) > done)  # type: ignore[attr-defined,misc]
        assert joined.work.outcomes == [True, UserError, UserError]  # type: ignore[attr-defined]

    play(tmp_path, story)
