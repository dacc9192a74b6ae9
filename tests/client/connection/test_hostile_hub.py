"""A hostile hub can waste a site's time, and cause no lasting harm."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import Consortium, Site, play, sha256, until

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.synthetic import make_federation
from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import protocol, retrieval_pb2, sealed
from ynet.federation.content import Content
from ynet.learning.model import arrays_of, build
from ynet.search.ranking import Hit
from ynet.trust.identity import Identity
from ynet_client.agent import Agent
from ynet_client.connection.sealed_answering import Answering
from ynet_client.display import Display
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.indexer import Archive, EncodedImage
from ynet_client.retrieval import merging, wire
from ynet_client.retrieval.own_search import OwnSearch
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.wire import CodedQuery
from ynet_client.settings import ClientSettings
from ynet_client.training.consent import Consent
from ynet_client.training.site_data import LocalSite
from ynet_server.hub.relay import _Question
from ynet_server.hub.reply_errors import REFUSED
from ynet_server.hub.tasks import TaskError


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A small hospital's manifest."""
    make_federation(tmp_path / "data", {"A": 8}, seed=1, size=32)
    return tmp_path / "data" / "A" / "manifest.csv"


def archive(home: Path, manifest: Path) -> Archive:
    """The site's archive, opened as at every start."""
    gallery = Gallery.open(home / "gallery.sqlite", b"secret")
    return Archive(home / "models", LocalSite(manifest, "cpu", 1 << 20), gallery)


def model(folder: Path) -> tuple[str, Path]:
    """A published model: its id and its file."""
    plan = plans.read(small_plan(folder / "plan.yaml"))
    arrays = arrays_of(build(plan))
    path = folder / "published.safetensors"
    weights.save(path, arrays, {"plan": plan.canonical()})
    return weights.model_id(arrays, plan.id), path


def quiet(*_: object) -> None:
    """Show no progress."""


# --- models


@pytest.mark.parametrize("name", ["../../stolen", "/{tmp}/stolen", "", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_a_models_name_is_no_path(tmp_path: Path, manifest: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    fetched: list[Path] = []

    async def fetch(blob: hub.Blob, path: Path) -> None:
        fetched.append(path)
        path.write_bytes(b"anything")

    async def story() -> None:
        settings = ClientSettings(data=str(manifest), device="cpu")
        home = tmp_path / "home"
        agent = Agent(home, settings, Display(), 1, Consent(home, settings.policy))
        try:
            with pytest.raises(RefusedError, match="id"):
                await agent.model(hub.Model(id=name.format(tmp=tmp_path)), fetch)
        finally:
            agent.close()

    asyncio.run(story())
    assert not fetched
    assert not list(tmp_path.glob("stolen*"))


@pytest.mark.parametrize("kept", [b"", b"cut off", None], ids=["empty", "cut", "gone"])
def test_damaged_model_file_is_fetched_again_after_restart(tmp_path: Path, manifest: Path, kept: bytes | None) -> None:
    model_id, published = model(tmp_path)
    first = archive(tmp_path, manifest)
    first.file_of(model_id).write_bytes(published.read_bytes())
    first.adopt(model_id, first.file_of(model_id), quiet)
    first.gallery.close()
    if kept is None:
        first.file_of(model_id).unlink()
    else:
        first.file_of(model_id).write_bytes(kept)

    again = archive(tmp_path, manifest)
    assert again.model_id is None
    assert not again.file_of(model_id).exists()
    again.file_of(model_id).write_bytes(published.read_bytes())
    again.adopt(model_id, again.file_of(model_id), quiet)
    assert again.model_id == model_id
    again.gallery.close()


@pytest.mark.parametrize("body", [b"", b"no weights", None], ids=["empty", "garbage", "no plan"])
def test_a_model_that_is_none_is_refused_and_not_kept(tmp_path: Path, manifest: Path, body: bytes | None) -> None:
    model_id, published = model(tmp_path)
    opened = archive(tmp_path, manifest)
    path = opened.file_of(model_id)
    if body is None:
        weights.save(path, weights.load(published)[0], {"plan": "[1]"})
    else:
        path.write_bytes(body)
    with pytest.raises(UserError):
        opened.adopt(model_id, path, quiet)
    assert not path.exists()
    opened.gallery.close()


# --- what comes over the stream


def test_a_content_larger_than_any_model_is_refused_before_a_byte_of_it_is_kept(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        (tmp_path / "endless").write_bytes(b"x")
        blob = consortium.hub.offer(tmp_path / "endless", sha256(b"x"), protocol.MAX_BLOB_BYTES + 1)
        with pytest.raises(TaskError, match="larger than"):
            await consortium.hub.task("A", "train", blob)
        assert not list(joined.spool.iterdir())

    play(tmp_path, story)


def test_a_site_takes_few_tasks_at_a_time_and_leaves_no_file_of_them(tmp_path: Path) -> None:
    started, go_on = [], asyncio.Event()

    async def work(kind: str, received: Path) -> Content:
        started.append(kind)
        await go_on.wait()
        return Content()

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=work))
        tasks = [asyncio.ensure_future(consortium.task("A")) for _ in range(protocol.MAX_TASKS + 20)]
        await until(lambda: sum(task.done() for task in tasks) == 20)
        await until(lambda: len(started) == protocol.MAX_TASKS)
        assert len(list(joined.spool.iterdir())) == protocol.MAX_TASKS
        go_on.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, TaskError) and one.code == REFUSED for one in outcomes) == 20
        await until(lambda: not list(joined.spool.iterdir()))

    play(tmp_path, story)


@pytest.mark.parametrize("within_s", [float("nan"), float("inf"), -1.0])
def test_a_time_to_wait_that_is_none_does_no_harm(tmp_path: Path, within_s: float) -> None:
    worked = []

    async def work(kind: str, received: Path) -> Content:
        await asyncio.sleep(0.05)
        worked.append(kind)
        return Content()

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=work))
        (tmp_path / "c").write_bytes(b"c")
        blob = consortium.hub.offer(tmp_path / "c", sha256(b"c"), 1)
        task = hub.Task(id="1", kind="train", content=blob, within_s=within_s)
        consortium.hub._connections.send("A", hub.ToSite(task=task))
        await until(lambda: worked)
        await until(lambda: not joined.session.tasks_held and not list(joined.spool.iterdir()))
        assert worked == ["train"]
        assert joined.session.connected

    play(tmp_path, story)


def test_what_the_hub_says_of_itself_is_shown_without_control_characters(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        consortium.hub._greeter.federation = "\x1b]0;owned\x07evil\n"
        joined = await consortium.join("A")
        assert "evil" in joined.said[0]
        assert joined.said[0].isprintable()

    play(tmp_path, story)


# --- sealed queries


class Meddler:
    """A hub that records queries and answers, and may change them."""

    def __init__(self, consortium: Consortium) -> None:
        self.hub, self._relay = consortium.hub, consortium.hub._relay
        self.queries: list[tuple[str, hub.Query]] = []
        self.answers: list[tuple[str, hub.Answer]] = []
        self._hand, self._answered = self.hub._connections.send_query, self._relay.answered
        self.deliver: Callable[[str, hub.ToSite], bool] = self._hand
        self.take: Callable[[str, hub.Answer], None] = self._answered
        self.hub._connections.send_query = self._see_query  # type: ignore[method-assign]
        self._relay.answered = self._see_answer  # type: ignore[method-assign]

    def _see_query(self, site: str, message: hub.ToSite) -> bool:
        if message.HasField("query"):
            self.queries.append((site, message.query))
        return self.deliver(site, message)

    def _see_answer(self, site: str, answer: hub.Answer) -> None:
        self.answers.append((site, answer))
        self.take(site, answer)

    async def told(self, site: str, query: hub.Query) -> hub.Answer:
        """Return a site's reply to a query that the hub has made."""
        before = len(self.answers)
        query.id = f"made up {before}"
        self.hub._connections.send(site, hub.ToSite(query=query))
        self._relay._questions[query.id] = _Question("nobody")  # or the hub would not send it
        await until(lambda: len(self.answers) > before)
        return self.answers[-1][1]


def counting() -> tuple[list[tuple[str, bytes]], Site]:
    """A site's work, and the queries that it received."""
    shown: list[tuple[str, bytes]] = []

    async def answer(from_site: str, body: bytes) -> bytes:
        shown.append((from_site, body))
        return b"answer to " + body

    return shown, Site(answer)


def bodies(found: hub.Answers) -> dict[str, bytes]:
    return {one.site: one.body for one in found.answers}


def test_replayed_query_is_refused_without_a_reason(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        shown, work = counting()
        asker, _ = await consortium.join("A"), await consortium.join("B", work)
        meddler = Meddler(consortium)
        assert bodies(await asker.session.ask(b"q", 5)) == {"B": b"answer to q"}
        for from_site in ("A", "C", "B", "", "\x1b[2J"):
            (_, query), *_ = meddler.queries
            again = await meddler.told("B", hub.Query(from_site=from_site, body=query.body))
            assert (again.body, again.refusal) == (b"", hub.UNREADABLE)
        assert shown == [("A", b"q")]
        assert bodies(await asker.session.ask(b"q2", 5)) == {"B": b"answer to q2"}

    play(tmp_path, story)


def test_whose_query_it_is_a_site_believes_the_seal_and_not_the_hub(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        shown, work = counting()
        asker, _ = await consortium.join("A"), await consortium.join("B", work)
        meddler = Meddler(consortium)

        def in_anothers_name(site: str, message: hub.ToSite) -> bool:
            message.query.from_site = "C"
            return meddler._hand(site, message)

        meddler.deliver = in_anothers_name
        found = await asker.session.ask(b"q", 5)
        assert (list(found.unreadable), bodies(found), shown) == (["B"], {}, [])

    play(tmp_path, story)


def test_queries_for_two_sites_that_the_hub_exchanges_are_read_by_neither(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        shown, work = counting()
        asker = await consortium.join("A")
        for name in "BC":
            await consortium.join(name, work)
        meddler = Meddler(consortium)
        other = {"B": "C", "C": "B"}
        meddler.deliver = lambda site, message: meddler._hand(other[site], message)
        found = await asker.session.ask(b"q", 0.5)
        assert (bodies(found), shown) == ({}, [])

    play(tmp_path, story)


def test_answers_that_the_hub_exchanges_repeats_or_makes_up_are_thrown_away(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        asker = await consortium.join("A")
        for name in "BC":
            await consortium.join(name, counting()[1])
        assert len((await asker.session.ask(b"first", 5)).answers) == 2
        meddler = Meddler(consortium)
        other = {"B": "C", "C": "B"}
        meddler.take = lambda site, answer: meddler._answered(other[site], answer)
        found = await asker.session.ask(b"q", 5)
        assert (bodies(found), sorted(found.unreadable)) == ({}, ["B", "C"])

        _, old = meddler.answers[0]
        meddler.take = lambda site, answer: meddler._answered(site, hub.Answer(query_id=answer.query_id, body=old.body))
        found = await asker.session.ask(b"q", 5)
        assert (bodies(found), sorted(found.unreadable)) == ({}, ["B", "C"])

        meddler.take = lambda site, answer: meddler._answered(site, hub.Answer(query_id=answer.query_id, body=b"no"))
        found = await asker.session.ask(b"q", 5)
        assert (bodies(found), sorted(found.unreadable)) == ({}, ["B", "C"])

        meddler.take = meddler._answered
        assert len((await asker.session.ask(b"last", 5)).answers) == 2

    play(tmp_path, story)


def test_queries_that_come_in_another_order_are_answered_all_the_same(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        asker, _ = await consortium.join("A"), await consortium.join("B", counting()[1])
        assert bodies(await asker.session.ask(b"first", 5))
        meddler, held = Meddler(consortium), list[hub.ToSite]()

        def hold(site: str, message: hub.ToSite) -> bool:
            held.append(message)
            if len(held) == 20:
                for one in reversed(held):
                    meddler._hand(site, one)
            return True

        meddler.deliver = hold
        found = await asyncio.gather(*(asker.session.ask(b"%d" % number, 5) for number in range(20)))
        assert [bodies(one) for one in found] == [{"B": b"answer to %d" % number} for number in range(20)]

    play(tmp_path, story)


@pytest.mark.parametrize("whose", ["another site's", "the hub's own", "signed by another", "none"])
def test_a_card_that_the_hub_puts_in_the_place_of_a_sites_is_not_sealed_to(tmp_path: Path, whose: str) -> None:
    async def story(consortium: Consortium) -> None:
        shown, work = counting()
        asker, _ = await consortium.join("A"), await consortium.join("B", work)
        consortium.hub._connections.of("B").card = forged(consortium, whose)
        meddler = Meddler(consortium)
        found = await asker.session.ask(b"q", 5)
        assert (list(found.unreadable), bodies(found), shown, meddler.queries) == (["B"], {}, [], [])

    play(tmp_path, story)


def forged(consortium: Consortium, whose: str) -> bytes:
    other = consortium.enrol("C")
    if whose == "another site's":
        return Answering(other).card()
    if whose == "the hub's own":
        return sealed.fresh_key(consortium.hub_identity, "B").card
    if whose == "signed by another":
        return sealed.fresh_key(Identity(other.key, other.certificate), "B").card
    return b"none"


def test_a_hub_that_goes_on_telling_of_sites_is_believed_once_of_each_and_of_few(tmp_path: Path) -> None:
    class Endless:
        """A relay that invents sites, and repeatedly reports one as unreadable."""

        def __init__(self, card: bytes) -> None:
            self._card, self.asked = card, 0

        async def ask(self, asker: str, question: hub.Question) -> AsyncIterator[hub.Answers]:
            self.asked += 1
            for number in range(50):
                names = [f"made-up-{number * 100 + place}" for place in range(100)]
                cards = [hub.Answers.CardOf(site="B", card=self._card)]
                yield hub.Answers(unreadable=["B", "\x1b[2J"], cards=cards, missing=names, late=["B"], busy=names)

        def lost(self, site: str) -> None:
            pass

    async def story(consortium: Consortium) -> None:
        asker, _ = await consortium.join("A"), await consortium.join("B")
        endless = Endless(consortium.hub._connections.of("B").card)
        consortium.hub._relay = endless  # type: ignore[assignment]
        found = await asker.session.ask(b"q", 5)
        told = [*found.missing, *found.late, *found.busy, *found.unreadable]
        assert endless.asked <= 2
        assert max(Counter(told).values()) <= 2
        assert len(told) <= 2 * 1024
        assert all(name.isprintable() for name in told)

    play(tmp_path, story)


def test_a_site_says_nothing_of_a_query_in_its_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(consortium: Consortium) -> None:
        asker, _ = await consortium.join("A"), await consortium.join("B", counting()[1])
        meddler = Meddler(consortium)
        await asker.session.ask(b"CANARY", 5)
        await meddler.told("B", hub.Query(from_site="A", body=meddler.queries[0][1].body))

    caplog.set_level("DEBUG", "ynet")
    play(tmp_path, story)
    assert "a query of site A was refused" in caplog.text
    assert "CANARY" not in caplog.text


def test_a_hub_that_floods_a_site_with_queries_gets_busy_and_then_silence(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        outbox: asyncio.Queue[hub.FromSite | None] = asyncio.Queue()
        for number in range(4 * protocol.MAX_OPEN_QUERIES):
            joined.session._queries.take(hub.Query(id=str(number), from_site="B", body=b"x"), outbox)
        waiting = [outbox.get_nowait().answer.refusal for _ in range(outbox.qsize())]
        assert 0 < waiting.count(hub.BUSY) <= protocol.MAX_OPEN_QUERIES
        assert len(waiting) <= 2 * protocol.MAX_OPEN_QUERIES

    play(tmp_path, story)


# --- answers


def found(*hits: Hit) -> bytes:
    body = wire.write_found([hits])
    assert body is not None
    return body


def combined(*answers: tuple[str, bytes]) -> Any:
    query = CodedQuery("a" * 64, (bytes(8),), Query(5))
    given = hub.Answers(answers=[{"site": site, "body": body} for site, body in answers])
    image = np.zeros((1, 4, 4), np.float32)
    mask = np.zeros((4, 4), np.uint8)
    encoded = EncodedImage(bytes(8), mask, image, "0" * 64)
    own = OwnSearch(query.model_id, encoded, [Hit(3, b"o" * 16, "x", 1)], bytes(8))
    (result,) = merging.merge("A", [own], merging.outcomes("A", given, query), 5)
    return result


def test_nobody_answers_in_the_name_of_the_asking_site(tmp_path: Path) -> None:
    result = combined(("A", found(Hit(0, b"f" * 16, "x", 1))), ("B", found(Hit(1, b"b" * 16, "x", 1))))
    assert [(one.site, one.token) for one in result.hits] == [("B", b"b" * 16), ("A", b"o" * 16)]


def test_an_answer_under_a_name_that_names_no_site_is_thrown_away(tmp_path: Path) -> None:
    assert set(combined(("\x1b[2J", found()), ("B", found())).by_site) == {"A", "B"}


def test_another_sites_model_is_named_without_control_characters(tmp_path: Path) -> None:
    other = retrieval_pb2.OtherModel(model_id="no\x1b[2J\n")
    result = combined(("B", retrieval_pb2.Reply(other_model=other).SerializeToString()))
    assert result.outcomes["B"].kind == "other_model"
    assert result.outcomes["B"].reason.isprintable()


def test_late_missing_empty_and_suppressed_are_four_outcomes() -> None:
    query = CodedQuery("a" * 64, (bytes(8),), Query(5))
    suppressed = retrieval_pb2.Reply(suppressed=retrieval_pb2.Suppressed()).SerializeToString()
    bodies = [{"site": "B", "body": found()}, {"site": "C", "body": suppressed}, {"site": "B", "body": suppressed}]
    given = hub.Answers(answers=bodies, missing=["D", "A", "\x1b"], late=["E", "B"])
    outcomes = merging.of_image(merging.outcomes("A", given, query), 0)
    kinds = {site: one.kind for site, one in outcomes.items()}
    assert kinds == {"B": "empty", "C": "suppressed", "D": "missing", "E": "late"}
