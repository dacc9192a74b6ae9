"""Rounds whose updates are summed in secret: what the server gets, and what becomes of those who drop out."""

import asyncio
import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loopback import LAYOUT, Consortium, Joined, in_thread, play, runs, tiny_app, until

from ynet import plan as plans
from ynet import weights
from ynet.errors import RefusedError, UserError
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, MASK, OPEN, TRAIN
from ynet.plan import Plan
from ynet.trust import identity
from ynet.trust.identity import Identity
from ynet.weights import Flat
from ynet_client.training.secure_aggregation import Party
from ynet_server.rounds import attendance, conversation, secure_aggregation, server_app
from ynet_server.rounds.grid import HubGrid
from ynet_server.rounds.run_folder import MODEL, RunFolder

SIZE = 7
CASES = {"A": 30, "B": 20, "C": 10, "D": 40}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attendance, "WAIT_AFTER_FAILED_ROUND_S", 0.05)
    monkeypatch.setattr(attendance, "POLL_S", 0.02)
    monkeypatch.setattr(secure_aggregation, "POLL_S", 0.05)
    return iter(())


def plan(aggregation: str = "secure", rounds: int = 2, quorum: int = 3, deadline_s: float = 10.0, **more: Any) -> Plan:
    values = {
        "name": "t",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "training": {"rounds": rounds, "learning_rate": 0.1, **more},
        "cohort": {"min_sites": quorum, "quorum": quorum, "round_deadline_s": deadline_s},
        "privacy": {"mode": "off"},
        "aggregation": aggregation,
    }
    return plans.from_canonical(json.dumps(values))


def training(site: str) -> Callable[[int, Flat], Flat]:
    own = np.random.default_rng(ord(site)).standard_normal(SIZE).astype(np.float32)
    return lambda number, flat: (0.5 * flat + own * np.float32(number)).astype(np.float32)


def party(consortium: Consortium, site: str) -> Party:
    member = consortium.enrol(site)
    return Party(site, Identity(member.key, member.certificate), member.authority, None)


class Hears:
    """A site's work that can be told to do something else for a kind of message."""

    def __init__(self, consortium: Consortium, site: str, is_secure: bool = True) -> None:
        self.party = party(consortium, site) if is_secure else None
        self.site = runs(tiny_app(training(site), CASES[site], party=self.party), CASES[site])
        self.instead: dict[str, Callable[[], Any]] = {}
        self.spoil: dict[str, Callable[[Content], Content]] = {}
        self.sent: list[tuple[str, Content]] = []
        self._honest, self.site._task = self.site._task, self.task

    async def task(self, kind: str, received: Path) -> Content:
        if kind in self.instead:
            await self.instead[kind]()
        reply = await self._honest(kind, received)
        reply = self.spoil[kind](reply) if kind in self.spoil else reply
        self.sent.append((kind, reply))
        return reply


async def joined(consortium: Consortium, names: str, *, is_secure: bool = True) -> dict[str, tuple[Hears, Joined]]:
    found = {}
    for name in names:
        hears = Hears(consortium, name, is_secure)
        found[name] = (hears, await consortium.join(name, hears.site))
    return found


async def federate(consortium: Consortium, folder: RunFolder) -> str:
    grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
    return await in_thread(lambda: server_app.federate(grid, folder, grid.name_of, grid.cases_of))


def model(folder: RunFolder) -> Flat:
    arrays, _ = weights.load(folder.path / MODEL)
    return weights.flatten({entry.name: arrays[entry.name] for entry in LAYOUT})


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["kind"] == kind]


def plain(tmp_path: Path, names: str, **changes: Any) -> Flat:
    """What FedAvg makes of the same training in the open."""
    (tmp_path / "plain").mkdir()
    folder = RunFolder(tmp_path / "plain/run").create(plan("plain", **changes))

    async def story(consortium: Consortium) -> None:
        await joined(consortium, names, is_secure=False)
        await federate(consortium, folder)

    play(tmp_path / "plain", story)
    return model(folder)


def secure(
    tmp_path: Path,
    names: str,
    during: Callable[[Consortium, dict[str, tuple[Hears, Joined]]], Any],
    **changes: Any,
) -> RunFolder:
    """A run in secret, during which something may happen."""
    folder = RunFolder(tmp_path / "run").create(plan(**changes))

    async def story(consortium: Consortium) -> None:
        sites = await joined(consortium, names)
        during(consortium, sites)
        await federate(consortium, folder)
        await until(lambda: not list(consortium.spool.iterdir()))

    play(tmp_path, story)
    return folder


def nothing(consortium: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
    pass


async def vanish() -> None:
    raise ConnectionError


def masked(block: np.ndarray) -> Content:
    return Content(arrays={ARRAYS: {"block00000": block}})


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_the_model_is_that_of_plain_aggregation(tmp_path: Path, strategy: str) -> None:
    folder = secure(tmp_path, "ABCD", nothing, strategy=strategy)
    np.testing.assert_allclose(model(folder), plain(tmp_path, "ABCD", strategy=strategy), atol=1e-6)
    assert folder.card()["sites"] == CASES
    assert [event["sites"]["A"]["loss"] for event in events(folder, "round")] == [1.0, 1.0]
    assert not (folder.path / secure_aggregation.PENDING).exists()


def test_no_reply_of_a_site_holds_its_update(tmp_path: Path) -> None:
    heard: list[tuple[str, Content]] = []

    def keep(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        sites["A"][0].sent = heard

    secure(tmp_path, "ABC", keep, rounds=1)
    assert [kind for kind, _ in heard] == ["query.initial", TRAIN, MASK, OPEN, "evaluate"]
    assert not heard[1][1].arrays
    masked = heard[2][1].arrays[ARRAYS]["block00000"]
    assert masked.shape == (2 * SIZE,)
    update = training("A")(1, np.zeros(SIZE, np.float32))
    assert not np.isin(update, masked).any()


def test_secure_sum_restarts_with_fresh_keys_without_a_lost_site(tmp_path: Path) -> None:
    def leave(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        sites["D"][0].instead[MASK] = vanish

    folder = secure(tmp_path, "ABCD", leave)
    assert [event["without"] for event in events(folder, "sum_restarted")] == [["D"], ["D"]]
    assert sorted(events(folder, "round")[0]["sites"]) == ["A", "B", "C"]
    np.testing.assert_allclose(model(folder), plain(tmp_path, "ABC"), atol=1e-6)


@pytest.mark.parametrize("kind", [TRAIN, MASK, OPEN])
def test_a_site_whose_disk_is_full_for_a_moment_is_in_the_sum(tmp_path: Path, kind: str) -> None:
    def fail_twice(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        failures = [1, 2]

        async def full() -> None:
            if failures:
                failures.pop()
                raise OSError(errno.ENOSPC, "No space left on device")

        sites["C"][0].instead[kind] = full

    folder = secure(tmp_path, "ABC", fail_twice)
    np.testing.assert_allclose(model(folder), plain(tmp_path, "ABC"), atol=1e-6)
    assert not events(folder, "sum_restarted")
    assert not events(folder, "round_lost")


def test_a_sum_under_the_quorum_is_held_again_and_ends_with_what_the_sites_said(tmp_path: Path) -> None:
    def leave(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        sites["C"][0].instead[MASK] = vanish

    with pytest.raises(UserError, match=r"held 3 times, and 2 of 3 sites did their part; site C said"):
        secure(tmp_path, "ABC", leave)


def test_a_round_whose_sum_cannot_be_read_changes_nothing_and_the_next_follows(tmp_path: Path) -> None:
    def keep_the_mask_once(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        async def once() -> None:
            del sites["B"][0].instead[OPEN]
            raise RefusedError("no", "not now", "")

        sites["B"][0].instead[OPEN] = once

    folder = secure(tmp_path, "ABC", keep_the_mask_once, rounds=2)
    lost = events(folder, "round_lost")
    assert [event["round"] for event in lost] == [1]
    assert "has B in it" in lost[0]["reason"]
    means = [training(site)(2, np.zeros(SIZE, np.float32)) for site in "ABC"]  # of the weights of the beginning
    np.testing.assert_allclose(model(folder), np.average(means, axis=0, weights=[30, 20, 10]), atol=1e-6)


def test_a_run_ends_with_a_reason_when_no_sum_can_be_read(tmp_path: Path) -> None:
    async def never() -> None:
        raise RefusedError("no", "never", "")

    def keep_the_mask(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        sites["B"][0].instead[OPEN] = never

    with pytest.raises(UserError, match="3 rounds one after the other were lost"):
        secure(tmp_path, "ABC", keep_the_mask, rounds=9)


def test_a_site_that_spoils_its_mask_spoils_a_round_and_not_the_weights(tmp_path: Path) -> None:
    def lie(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        spoil = sites["B"][0].spoil

        def once(_: Content) -> Content:
            del spoil[OPEN]
            return Content(configs={"config": {"mask": "00" * 32}})

        spoil[OPEN] = once

    folder = secure(tmp_path, "ABC", lie)
    assert [event["reason"] for event in events(folder, "round_lost")] == ["the masks do not cancel"]


def test_a_site_that_claims_more_cases_than_it_had_is_not_in_the_sum(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create(plan(rounds=1))

    async def story(consortium: Consortium) -> None:
        await joined(consortium, "ABC")
        app = tiny_app(training("D"), 40, claims=lambda _: 10**6, party=party(consortium, "D"))
        await consortium.join("D", runs(app, 40))
        await federate(consortium, folder)

    play(tmp_path, story)
    assert sorted(events(folder, "round")[0]["sites"]) == ["A", "B", "C"]
    assert "more cases" in events(folder, "update_refused")[0]["reason"]


class KilledError(Exception):
    """What a kill would be."""


@pytest.mark.parametrize("kind", [MASK, OPEN])
def test_a_server_that_is_killed_in_a_sum_goes_on_with_it(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as the replies to `kind` come in: of OPEN the sites give their masks once more, for no other sum."""
    folder = RunFolder(tmp_path / "run").create(plan())
    honest = conversation.Conversation.ask

    def killed(self: Any, number: int, asked: str, *rest: Any, **config: Any) -> Any:
        found = honest(self, number, asked, *rest, **config)
        if (number, asked) == (2, kind):
            raise KilledError
        return found

    async def story(consortium: Consortium) -> None:
        await joined(consortium, "ABC")
        monkeypatch.setattr(conversation.Conversation, "ask", killed)
        with pytest.raises(KilledError):
            await federate(consortium, folder)
        monkeypatch.setattr(conversation.Conversation, "ask", honest)
        await federate(consortium, folder)

    play(tmp_path, story)
    assert [event["round"] for event in events(folder, "round")] == [1, 2]
    np.testing.assert_allclose(model(folder), plain(tmp_path, "ABC"), atol=1e-6)


def test_an_authority_that_the_sites_do_not_know_cannot_bring_a_site_in(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run").create(plan(rounds=1))

    async def story(consortium: Consortium) -> None:
        await joined(consortium, "ABC")
        other = identity.make_authority("other", consortium.now)
        key = identity.new_key()
        certificate = identity.issue_site(other, "D", identity.signing_request(key, "D"), consortium.now)
        stranger = Party("D", Identity(key, certificate), other.certificate, None)
        await consortium.join("D", runs(tiny_app(training("D"), 40, party=stranger), 40))
        with pytest.raises(UserError, match="not one of the consortium's authority"):
            await federate(consortium, folder)

    play(tmp_path, story)


def test_a_masked_vector_of_another_length_is_no_part_of_a_sum(tmp_path: Path) -> None:
    def shorten(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        sites["D"][0].spoil[MASK] = lambda reply: masked(reply.arrays[ARRAYS]["block00000"][:-2])

    folder = secure(tmp_path, "ABCD", shorten, rounds=1)
    assert sorted(events(folder, "round")[0]["sites"]) == ["A", "B", "C"]


def no_offer(offer: str) -> str:
    return ""


def anothers_name(offer: str) -> str:
    return offer.replace('"site": "D"', '"site": "A"')


def no_secret(offer: str) -> str:
    return json.dumps({**json.loads(offer), "key": "00" * 32})


def endless(offer: str) -> str:
    return json.dumps({**json.loads(offer), "certificate": "x" * 100_000})


@pytest.mark.parametrize("spoil", [no_offer, anothers_name, no_secret, endless], ids=lambda spoil: spoil.__name__)
def test_an_offer_that_the_others_would_refuse_keeps_out_the_one_who_made_it(
    tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    def lie(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        def offer(reply: Content) -> Content:
            config = {"offer": spoil(str(reply.configs["config"]["offer"]))}
            return Content(configs={"config": config}, metrics=reply.metrics)

        sites["D"][0].spoil[TRAIN] = offer

    folder = secure(tmp_path, "ABCD", lie, rounds=1)
    assert sorted(events(folder, "round")[0]["sites"]) == ["A", "B", "C"]
    assert events(folder, "update_refused")[0]["site"] == "D"


def test_a_masked_vector_with_a_second_dimension_ends_no_run(tmp_path: Path) -> None:
    def fold(_: Consortium, sites: dict[str, tuple[Hears, Joined]]) -> None:
        sites["D"][0].spoil[MASK] = lambda reply: masked(reply.arrays[ARRAYS]["block00000"].reshape(SIZE, 2))

    folder = secure(tmp_path, "ABCD", fold, rounds=1)
    assert sorted(events(folder, "round")[0]["sites"]) == ["A", "B", "C"]
