"""Two hospitals and a hub on loopback: queries and consults, their answers, and both audit logs."""

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from loopback import Consortium, Joined, play

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import read
from ynet.data.synthetic import make_federation
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.learning import code_moments
from ynet.learning.model import arrays_of, build
from ynet_client import asking, audit
from ynet_client.agent import Agent
from ynet_client.display import Display
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.stored_codes import CaseCode
from ynet_client.retrieval import merging, own_search, wire
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.query import Query
from ynet_client.settings import ClientSettings, Disclosure
from ynet_client.training.consent import Consent
from ynet_client.training.site_data import LocalSite

OPEN = Disclosure(minimum_group=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals' data and a model that nobody trained. Its codes are of the moments of A's cases: distinct."""
    folder = tmp_path_factory.mktemp("asking")
    make_federation(folder / "data", {"A": 24, "B": 24}, seed=1, size=32)
    plan = plans.read(small_plan(folder / "plan.yaml"))
    net = build(plan)
    cases, _ = LocalSite(folder / "data/A/manifest.csv", "cpu", 0).cases(plan)
    code_moments.fit(net, plan, [code_moments.GalleryEncoder().moments(net, cases, plan, torch.device("cpu"))])
    arrays = arrays_of(net)
    weights.save(folder / "published.safetensors", arrays, {"plan": plan.canonical()})
    (folder / "model").write_text(weights.model_id(arrays, plan.id))
    return folder


class Hospital:
    """A site's agent, its session, and the paths of its data."""

    def __init__(self, folder: Path, home: Path, name: str, disclosure: Disclosure) -> None:
        self.name, self.home, self.folder = name, home, folder
        home.mkdir(exist_ok=True)
        self.manifest = folder / "data" / name / "manifest.csv"
        settings = ClientSettings(data=str(self.manifest), device="cpu", disclosure=disclosure)
        self.agent = Agent(home, settings, Display(), 1, Consent(home, settings.policy))
        self.joined: Joined

    async def adopt(self) -> None:
        async def fetch(_: hub.Blob, path: Path) -> None:
            shutil.copy(self.folder / "published.safetensors", path)

        self.agent.offers.say((self.folder / "model").read_text(), "accepted")
        await self.agent.model(hub.Model(id=(self.folder / "model").read_text()), fetch)

    def images(self, count: int) -> list[Path]:
        manifest = read(self.manifest)
        return [manifest.path_of(case.image) for case in manifest.cases[:count]]

    async def query(self, count: int = 1, **wanted: Any) -> list[Result]:
        asked = Query(**wanted)
        return await asking.query(self.name, self.agent, self.joined.session, self.images(count), asked, "Dr. House")

    def log(self) -> list[audit.Entry]:
        """Return its questions and answers, without its other actions."""
        return [entry for entry in audit.read(self.home) if entry.direction != "did"]


def two(
    folder: Path,
    tmp_path: Path,
    story: Callable[[Hospital, Hospital], Awaitable[None]],
    disclosure: Disclosure = OPEN,
) -> None:
    """Run `story` between A and B; `disclosure` is B's."""

    async def joined(consortium: Consortium) -> None:
        sites = [
            Hospital(folder, tmp_path / f"home-{name}", name, policy)
            for name, policy in (("A", OPEN), ("B", disclosure))
        ]
        try:
            for site in sites:
                await site.adopt()
                site.joined = await consortium.join(site.name, site.agent)  # type: ignore[arg-type]
            await story(*sites)
        finally:
            for site in sites:
                site.agent.close()

    play(tmp_path, joined)


def test_batch_has_result_per_image_and_one_log_entry(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        results = await a.query(3, k=5, filters=Filters(split="train"))
        for number, result in enumerate(results):
            assert result.outcomes["B"].kind == "found"
            assert len(result.by_site["B"]) == 5
            (alone,) = await asking.query(
                "A", a.agent, a.joined.session, [a.images(3)[number]], Query(5, Filters(split="train")), "Dr. House"
            )
            assert (alone.hits, alone.by_site, alone.outcomes) == (result.hits, result.by_site, result.outcomes)
        (asked, *_), (answered, *_) = a.log(), b.log()
        assert (asked.direction, asked.codes, asked.outcomes, asked.hits) == ("asked", 3, {"B": "found"}, {"B": 15})
        assert (answered.direction, answered.codes, answered.outcomes, answered.hits) == (
            "answered",
            3,
            {"A": "found"},
            {"A": 15},
        )
        assert asked.user == answered.user != ""
        assert answered.filters == ("split",)
        for home in (a.home, b.home):
            assert "House" not in (home / audit.LOG).read_text("utf-8")

    two(folder, tmp_path, story)


def test_suppressed_refused_and_empty_differ(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        suppressed = (await a.query(filters=Filters(labels=("no such label",))))[0]
        assert suppressed.outcomes["B"].kind == "suppressed"
        refused = (await a.query(filters=Filters(attributes=(("grade", "G2"),))))[0]
        assert (refused.outcomes["B"].kind, refused.outcomes["B"].code) == ("refused", "not_allowed")
        near = (await a.query(radius=0))[0]
        assert near.outcomes["B"].kind == ("found" if near.by_site["B"] else "empty")
        assert [one.outcomes["A"] for one in b.log()] == ["suppressed", "refused", near.outcomes["B"].kind]

    two(folder, tmp_path, story, Disclosure(minimum_group=3))


def test_site_with_other_model_names_it(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        gallery = (await b.agent.search(lambda archive: archive)).gallery
        gallery.add_codes("b" * 64, [CaseCode(case.id, bytes(8)) for case in gallery.missing("b" * 64)])
        gallery.activate("b" * 64)
        outcome = (await a.query())[0].outcomes["B"]
        assert (outcome.kind, outcome.code) == ("other_model", "b" * 64)

    two(folder, tmp_path, story)


def test_denied_site_is_refused_and_only_named_sites_are_asked(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        assert (await a.query())[0].outcomes["B"].code == "not_on_the_list"
        assert (await b.query())[0].outcomes["A"].kind == "found"
        assert (await b.query(sites=("C",)))[0].outcomes["C"].kind == "missing"
        assert [len(a.log()), len(b.log())] == [2, 3]

    two(folder, tmp_path, story, replace(OPEN, deny=("A",)))


def test_noised_query_sends_same_target_code_each_time(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        first = await a.query(4, epsilon=0.5)
        again = await a.query(4, epsilon=0.5)
        assert [one.own.sent for one in first] == [one.own.sent for one in again]
        model = await a.agent.search(lambda archive: archive.active())
        assert {one.own.sent for one in first} <= set(own_search.target_codes(model))
        true = await a.query(4)
        for noised, plain in zip(first, true, strict=True):
            assert [hit[:4] for hit in noised.by_site["A"]] == [hit[:4] for hit in plain.by_site["A"]]
            assert {one.site for one in noised.hits} == {"B"}
        shown = (await a.agent.search(lambda archive: merging.answer(archive, first[0]))).to_json()
        assert shown["noise"]["epsilon"] == 0.5
        assert {one["site"] for one in shown["own"]} == {"A"}
        assert [entry.epsilon for entry in a.log()] == [0.5, 0.5, 0.0]
        assert [entry.epsilon for entry in b.log()] == [0.0] * 3

    two(folder, tmp_path, story)


def test_quota_survives_restart(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        outcomes = [(await a.query(count))[0].outcomes["B"].kind for count in (2, 2, 3)]
        assert outcomes == ["found", "found", "refused"]

    policy = replace(OPEN, queries_per_day_and_site=2)
    two(folder, tmp_path, story, policy)

    async def next_start(a: Hospital, b: Hospital) -> None:
        assert (await a.query(2))[0].outcomes["B"].kind == "found"
        assert (await a.query(3))[0].outcomes["B"].code == "quota_spent"

    other = tmp_path / "again"
    other.mkdir()
    for name in "AB":
        shutil.copytree(tmp_path / f"home-{name}", other / f"home-{name}")
    two(folder, other, next_start, policy)


def test_consult_is_answered_by_owning_site(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        result = (await a.query())[0]
        owners = asking.TokenOwners()
        owners.add([result])
        hit = result.by_site["B"][0]
        token, owner = owners.find(hit.token.hex()[:12], "")
        assert (token, owner) == (hit.token, "B")
        note = "How did it\x1b[2J go on?\nRegards"
        sent = await asking.consult("A", a.agent.stores, a.joined.session, token, owner, note, "Dr. House")
        (received,) = b.agent.stores.consults.listed()
        assert (received.id, received.site, received.note) == (sent.id, "A", "How did it[2J go on?\nRegards")
        archive = await b.agent.search(lambda archive: archive)
        assert received.image == archive.gallery.case_of(hit.token).image
        assert "image" not in sent.to_json()

        assert await asking.fetch_answers(a.agent.stores, a.joined.session, "Dr. House") == ""
        assert a.agent.stores.consults.listed()[0].decision == "open"
        asking.answer_consult(b.agent.stores, received.id.hex()[:6], "yes", "Call 4711", "Dr. Wilson")
        with pytest.raises(RefusedError, match="has an answer already"):
            asking.answer_consult(b.agent.stores, received.id.hex(), "no", "", "Dr. Wilson")
        assert await asking.fetch_answers(a.agent.stores, a.joined.session, "Dr. House") == ""
        (answered,) = a.agent.stores.consults.listed()
        assert (answered.decision, answered.text) == ("yes", "Call 4711")
        assert [(one.kind, one.outcomes) for one in a.log()[1:]] == [
            ("consult", {"B": "kept"}), ("consult-check", {"B": "found"}), ("consult-check", {"B": "found"})
        ]  # fmt: skip
        assert [one.kind for one in b.log()] == ["query", "consult", "consult-check", "consult-answer", "consult-check"]
        assert audit.verify(a.home).number == len(list(audit.read(a.home)))
        everything = b"".join(path.read_bytes() for home in (a.home, b.home) for path in [home / audit.LOG])
        assert b"Regards" not in everything
        assert hit.token.hex().encode() not in everything

    two(folder, tmp_path, story)


def test_consult_that_fails_is_not_kept(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        stores, session = a.agent.stores, a.joined.session
        with pytest.raises(UserError, match="names no case there"):
            await asking.consult("A", stores, session, bytes(16), "B", "hello", "u")
        with pytest.raises(UnreachableError, match="not connected"):
            await asking.consult("A", stores, session, bytes(16), "C", "hello", "u")
        with pytest.raises(UserError, match="no note"):
            await asking.consult("A", stores, session, bytes(16), "B", " \x00", "u")
        assert stores.consults.listed() == b.agent.stores.consults.listed() == []
        assert [entry.outcomes for entry in a.log()] == [{"B": "no_such_case"}, {"C": "missing"}]

    two(folder, tmp_path, story)


def test_consult_answer_goes_to_asking_site_only(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        hit = (await a.query())[0].by_site["B"][0]
        sent = await asking.consult("A", a.agent.stores, a.joined.session, hit.token, "B", "hello", "u")
        asking.answer_consult(b.agent.stores, sent.id.hex(), "yes", "secret", "u")
        assert b.agent.stores.consults.of("received", "C") == []
        body = asking.pb.Request(user="u", check=asking.pb.ConsultCheck(ids=[sent.id])).SerializeToString()
        reply = wire.read_reply(await b.agent.answer("C", body))
        assert (reply.consult_answers.answers[0].word, reply.consult_answers.answers[0].text) == (3, "")

    two(folder, tmp_path, story)


def test_hostile_bytes_are_unreadable_and_logged(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        for body in (b"", b"\xff" * 100, b"\x0a\x05\x1b[2J!"):
            reply = wire.read_reply(await b.agent.answer("A", body))
            assert reply.WhichOneof("outcome") == "unreadable"
        assert [entry.outcomes for entry in b.log()] == [{"A": "unreadable"}] * 3

    two(folder, tmp_path, story)
