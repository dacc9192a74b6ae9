"""Two hospitals and a hub on loopback: what the one asks, the other tells, and both have written down."""

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback import Consortium, Joined, play

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.manifest import read
from ynet.data.synthetic import make_federation
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.learning.model import arrays_of, build
from ynet_client import asking, audit
from ynet_client.agent import Duties
from ynet_client.display import Display
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.stored_codes import CaseCode
from ynet_client.retrieval import lookup, wire
from ynet_client.retrieval.lookup import Wanted
from ynet_client.settings import ClientSettings, Disclosure
from ynet_client.training.consent import Consent

OPEN = Disclosure(minimum_group=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals' data and a model that nobody trained: its codes are as good as any here."""
    folder = tmp_path_factory.mktemp("asking")
    make_federation(folder / "data", {"A": 24, "B": 24}, seed=1, size=32)
    plan = plans.read(small_plan(folder / "plan.yaml"))
    arrays = arrays_of(build(plan))
    weights.save(folder / "published.safetensors", arrays, {"plan": plan.canonical()})
    (folder / "model").write_text(weights.model_id(arrays, plan.id))
    return folder


class Hospital:
    """A site's duties, its session, and where its data lie."""

    def __init__(self, folder: Path, home: Path, name: str, disclosure: Disclosure) -> None:
        self.name, self.home, self.folder = name, home, folder
        home.mkdir(exist_ok=True)
        self.manifest = folder / "data" / name / "manifest.csv"
        settings = ClientSettings(data=str(self.manifest), device="cpu", disclosure=disclosure)
        self.duties = Duties(home, settings, Display(), 1, Consent(home, settings.policy))
        self.joined: Joined

    async def adopt(self) -> None:
        async def fetch(_: hub.Blob, path: Path) -> None:
            shutil.copy(self.folder / "published.safetensors", path)

        self.duties.offers.say((self.folder / "model").read_text(), "accepted")
        await self.duties.model(hub.Model(id=(self.folder / "model").read_text()), fetch)

    def images(self, count: int) -> list[Path]:
        manifest = read(self.manifest)
        return [manifest.path_of(case.image) for case in manifest.cases[:count]]

    async def query(self, count: int = 1, **wanted: Any) -> asking.Answered:
        asked = lookup.check(Wanted(**wanted))
        return await asking.query(self.name, self.duties, self.joined.session, self.images(count), asked, "Dr. House")

    def log(self) -> list[audit.Entry]:
        """Of what it asked and answered; not of what it did."""
        return [entry for entry in audit.read(self.home) if entry.direction != "did"]


def two(
    folder: Path,
    tmp_path: Path,
    story: Callable[[Hospital, Hospital], Awaitable[None]],
    disclosure: Disclosure = OPEN,
) -> None:
    """Let `story` happen between A and B; B discloses as it is told."""

    async def told(consortium: Consortium) -> None:
        sites = [
            Hospital(folder, tmp_path / f"home-{name}", name, policy)
            for name, policy in (("A", replace(OPEN, detail=True)), ("B", disclosure))
        ]
        try:
            for site in sites:
                await site.adopt()
                site.joined = await consortium.join(site.name, site.duties)  # type: ignore[arg-type]
            await story(*sites)
        finally:
            for site in sites:
                site.duties.close()

    play(tmp_path, told)


def test_a_batch_is_answered_for_each_image_and_is_one_entry_in_both_logs(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        answered = await a.query(3, k=5, filters=Filters(split="train"))
        for number, result in enumerate(answered.results):
            assert result.outcomes["B"].kind == "found"
            assert len(result.by_site["B"]) == 5
            alone = await asking.query(
                "A", a.duties, a.joined.session, [a.images(3)[number]], Wanted(5, Filters(split="train")), "Dr. House"
            )
            assert alone.results[0] == result
        (asked, *_), (told, *_) = a.log(), b.log()
        assert (asked.direction, asked.codes, asked.outcomes, asked.hits) == ("asked", 3, {"B": "found"}, {"B": 15})
        assert (told.direction, told.codes, told.outcomes, told.hits) == ("answered", 3, {"A": "found"}, {"A": 15})
        assert asked.user == told.user != ""
        assert told.filters == ("split",)
        for home in (a.home, b.home):
            assert "House" not in (home / audit.LOG).read_text("utf-8")

    two(folder, tmp_path, story)


def test_suppressed_refused_and_empty_are_three_answers(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        suppressed = (await a.query(filters=Filters(labels=("no such label",)))).results[0]
        assert suppressed.outcomes["B"].kind == "suppressed"
        refused = (await a.query(filters=Filters(attributes=(("grade", "G2"),)))).results[0]
        assert (refused.outcomes["B"].kind, refused.outcomes["B"].code) == ("refused", "not_allowed")
        near = (await a.query(radius=0)).results[0]
        assert near.outcomes["B"].kind == ("found" if near.by_site["B"] else "empty")
        assert [one.outcomes["A"] for one in b.log()] == ["suppressed", "refused", near.outcomes["B"].kind]

    two(folder, tmp_path, story, Disclosure(minimum_group=3))


def test_a_site_with_another_model_says_which(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        gallery = (await b.duties.search(lambda archive: archive)).gallery
        gallery.add_codes("b" * 64, [CaseCode(case.id, bytes(8)) for case in gallery.missing("b" * 64)])
        gallery.activate("b" * 64)
        outcome = (await a.query()).results[0].outcomes["B"]
        assert (outcome.kind, outcome.code) == ("other_model", "b" * 64)

    two(folder, tmp_path, story)


def test_a_site_that_is_denied_is_told_so_and_the_others_are_not_asked_when_some_are_named(
    folder: Path, tmp_path: Path
) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        assert (await a.query()).results[0].outcomes["B"].code == "not_on_the_list"
        assert (await b.query()).results[0].outcomes["A"].kind == "found"
        assert (await b.query(sites=("C",))).results[0].outcomes["C"].kind == "missing"
        assert [len(a.log()), len(b.log())] == [2, 3]

    two(folder, tmp_path, story, replace(OPEN, deny=("A",)))


def test_a_noised_query_sends_a_classs_centre_the_same_each_time_and_ranks_own_hits_apart(
    folder: Path, tmp_path: Path
) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        first = await a.query(4, epsilon=0.5)
        again = await a.query(4, epsilon=0.5)
        assert [look.sent for look in first.looks] == [look.sent for look in again.looks]
        plan = (await a.duties.search(lambda archive: archive.active())).plan
        assert {look.sent for look in first.looks} <= set(lookup.target_codes(plan))
        true = await a.query(4)
        for noised, plain in zip(first.results, true.results, strict=True):
            assert noised.by_site["A"] == plain.by_site["A"]
            assert {one.site for one in noised.hits} == {"B"}
        shown = await a.duties.search(lambda archive: lookup.describe("A", archive, first.looks[0], first.results[0]))
        assert shown["noise"]["epsilon"] == 0.5
        assert {one["site"] for one in shown["own"]} == {"A"}
        assert [entry.epsilon for entry in a.log()] == [0.5, 0.5, 0.0]
        assert [entry.epsilon for entry in b.log()] == [0.0] * 3

    two(folder, tmp_path, story)


@pytest.mark.parametrize("is_allowed", [True, False])
def test_detail_codes_are_compared_where_both_sites_allow_it_and_never_for_a_noised_query(
    folder: Path, tmp_path: Path, is_allowed: bool
) -> None:
    def compared(result: lookup.Result, site: str) -> set[bool]:
        return {hit.detail is not None for hit in result.by_site[site]}

    async def story(a: Hospital, b: Hospital) -> None:
        open_handed, guarded = (await a.query()).results[0], (await b.query()).results[0]
        assert compared(open_handed, "A") == {True}
        assert compared(open_handed, "B") == {is_allowed}
        assert compared(guarded, "A") == {is_allowed}
        assert compared(guarded, "B") == {is_allowed}  # or own cases would stand before all others of their distance
        assert compared((await a.query(epsilon=8.0)).results[0], "B") == {False}

    two(folder, tmp_path, story, replace(OPEN, detail=is_allowed))


def test_an_image_has_the_detail_code_that_the_gallery_has_of_it(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        archive = await a.duties.search(lambda archive: archive)
        for image in a.images(3):
            seen = archive.encode(image)
            (found,) = archive.gallery.search(archive.active().id, [seen.code], 24, details=[seen.detail])
            details = {Path(archive.gallery.case_of(hit.token).image).name: hit.detail for hit in found}
            assert details[image.name] <= 1  # a value near 0 may fall either way when it is made in a batch
            assert max(details.values()) > 4

    two(folder, tmp_path, story)


def test_what_was_asked_today_counts_after_a_restart(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        outcomes = [(await a.query(count)).results[0].outcomes["B"].kind for count in (2, 2, 3)]
        assert outcomes == ["found", "found", "refused"]

    policy = replace(OPEN, queries_per_day_and_site=2)
    two(folder, tmp_path, story, policy)

    async def next_start(a: Hospital, b: Hospital) -> None:
        assert (await a.query(2)).results[0].outcomes["B"].kind == "found"
        assert (await a.query(3)).results[0].outcomes["B"].code == "quota_spent"

    other = tmp_path / "again"
    other.mkdir()
    for name in "AB":
        shutil.copytree(tmp_path / f"home-{name}", other / f"home-{name}")
    two(folder, other, next_start, policy)


def test_a_consult_goes_to_the_owning_site_and_its_answer_comes_back(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        result = (await a.query()).results[0]
        seen = asking.Seen()
        seen.add(result, "A")
        hit = result.by_site["B"][0]
        token, owner = seen.find(hit.token.hex()[:12], "")
        assert (token, owner) == (hit.token, "B")
        note = "How did it\x1b[2J go on?\nRegards"
        sent = await asking.consult("A", a.duties.books, a.joined.session, token, owner, note, "Dr. House")
        (received,) = b.duties.books.consults.listed()
        assert (received.id, received.site, received.note) == (sent.id, "A", "How did it[2J go on?\nRegards")
        archive = await b.duties.search(lambda archive: archive)
        assert received.image == archive.gallery.case_of(hit.token).image
        assert "image" not in sent.to_json()

        assert await asking.fetch_answers(a.duties.books, a.joined.session, "Dr. House") == ""
        assert a.duties.books.consults.listed()[0].decision == "open"
        asking.answer_consult(b.duties.books, received.id.hex()[:6], "yes", "Call 4711", "Dr. Wilson")
        with pytest.raises(RefusedError, match="answered already"):
            asking.answer_consult(b.duties.books, received.id.hex(), "no", "", "Dr. Wilson")
        assert await asking.fetch_answers(a.duties.books, a.joined.session, "Dr. House") == ""
        (answered,) = a.duties.books.consults.listed()
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


def test_a_consult_about_no_case_there_or_at_a_site_that_is_away_is_not_kept(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        books, session = a.duties.books, a.joined.session
        with pytest.raises(UserError, match="names no case there"):
            await asking.consult("A", books, session, bytes(16), "B", "hello", "u")
        with pytest.raises(UnreachableError, match="not connected"):
            await asking.consult("A", books, session, bytes(16), "C", "hello", "u")
        with pytest.raises(UserError, match="no note"):
            await asking.consult("A", books, session, bytes(16), "B", " \x00", "u")
        assert books.consults.listed() == b.duties.books.consults.listed() == []
        assert [entry.outcomes for entry in a.log()] == [{"B": "no_such_case"}, {"C": "missing"}]

    two(folder, tmp_path, story)


def test_an_answer_is_told_to_nobody_but_the_site_that_asked(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        hit = (await a.query()).results[0].by_site["B"][0]
        sent = await asking.consult("A", a.duties.books, a.joined.session, hit.token, "B", "hello", "u")
        asking.answer_consult(b.duties.books, sent.id.hex(), "yes", "secret", "u")
        assert b.duties.books.consults.of("received", "C") == []
        body = asking.pb.Request(user="u", check=asking.pb.ConsultCheck(ids=[sent.id])).SerializeToString()
        reply = wire.read_reply(await b.duties.answer("C", body))
        assert (reply.consult_answers.answers[0].word, reply.consult_answers.answers[0].text) == (3, "")

    two(folder, tmp_path, story)


def test_hostile_bytes_are_answered_as_unreadable_and_written_down(folder: Path, tmp_path: Path) -> None:
    async def story(a: Hospital, b: Hospital) -> None:
        for body in (b"", b"\xff" * 100, b"\x0a\x05\x1b[2J!"):
            reply = wire.read_reply(await b.duties.answer("A", body))
            assert reply.WhichOneof("outcome") == "unreadable"
        assert [entry.outcomes for entry in b.log()] == [{"A": "unreadable"}] * 3

    two(folder, tmp_path, story)
