"""What does not change does not travel: messages carry what a run trains, sites fetch the rest once."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from loopback import Consortium, in_thread, play, runs, tiny_app, until
from tiny_runs import events, plan

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.encoders import PREFIX, EncoderName
from ynet.federation.records import CONFIG, EVALUATE, FIXED, TRAIN, flat_weights
from ynet.fixed_arrays import CODE, fixed_arrays, uncarried
from ynet.learning.model import arrays_of, build, layout_of_plan
from ynet.learning.timm_encoder import TimmEncoder
from ynet.plan import Plan
from ynet.strategy_options import STRATEGY_OPTIONS
from ynet.trust.identity import Identity
from ynet.weights import Flat, LayoutEntry
from ynet_client.connection.given_files import GivenFiles
from ynet_client.connection.hooks import SessionHooks
from ynet_client.training import client_app
from ynet_client.training.fixed_files import FixedFiles
from ynet_client.training.privacy_budget import Experiment
from ynet_client.training.secure_aggregation import Party
from ynet_client.training.site_data import LocalSite
from ynet_server import encoder_files
from ynet_server.rounds import attendance, server_app
from ynet_server.rounds.carried_arrays import FILE, CarriedArrays
from ynet_server.rounds.grid import HubGrid
from ynet_server.rounds.run_folder import MODEL, RunFolder

NAME: EncoderName = "tf_efficientnet_lite0"
TINY = (LayoutEntry("stem.weight", (2, 2)), LayoutEntry("hash.weight", (3,)))
HEADS = 3
ONE_AT_A_TIME = threading.Lock()
"""The sites of this process share torch's global generator, from which initial weights are drawn."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attendance, "WAIT_AFTER_FAILED_ROUND_S", 0.05)
    monkeypatch.setattr(attendance, "POLL_S", 0.02)
    return iter(())


class WholeMessages(HubGrid):
    """A Grid that offers no files, as Flower's own: its messages carry all arrays."""

    offer = None  # type: ignore[assignment]


def added(home: Path) -> str:
    """Add an encoder with random weights to a server's folder. Returns its SHA-256."""
    folder = home / encoder_files.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    weights.save(folder / "made", arrays_of(TimmEncoder(NAME, is_pretrained=True).net), {"encoder": NAME})
    return encoder_files.keep(folder, folder / "made").sha256


def planned(
    training: dict[str, Any] | None = None, network: dict[str, Any] | None = None, sites: int = 1, **more: Any
) -> Plan:
    values = {
        "name": "carried",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"code_bits": 32, "dropout": 0.0, **(network or {"width": 4})},
        "training": {"rounds": 2, "learning_rate": 1e-3, "batch_size": 8, "evaluate_every": 2, **(training or {})},
        "cohort": {"min_sites": sites, "quorum": sites, "round_deadline_s": 100},
        "privacy": {"mode": "off"},
        **more,
    }
    return parse(Plan, values, "the test's plan")


class RealSite:
    """A site with cases, a home and a ClientApp, and the counts of its bytes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.home, self.name = folder / f"home-{name}", name
        self.home.mkdir(exist_ok=True)
        self.sent, self.received = Counter[str](), Counter[str]()
        self.fetched = list[str]()
        self.messages = list[tuple[str, int, str]]()
        self.files = FixedFiles(self.home)
        manifest = folder / name / "manifest.csv"
        self._site = lambda party: LocalSite(
            manifest, "cpu", 1 << 24, fixed_files=self.files, party=lambda: party, budget=Experiment()
        )

    async def join(self, consortium: Consortium) -> None:
        member = consortium.enrol(self.name)
        identity = Identity(member.key, member.certificate)
        site = self._site(Party(self.name, identity, member.authority, None))

        def notice(message: Message, context: Any, call: Any) -> Message:
            size = sum(flat_weights(one).size for one in message.content.array_records.values())
            config = message.content.config_records[CONFIG]
            self.messages.append((message.metadata.message_type, size, str(config.get(FIXED, ""))))
            with ONE_AT_A_TIME:
                return call(message, context)  # type: ignore[no-any-return]

        hooks = SessionHooks(
            sent=lambda of, size: self.sent.update({of: size}),
            received=lambda method, size: self.received.update({method: size}),
            files=GivenFiles(self.files, self.fetched.append),
        )
        joined = consortium.session(member, runs(client_app.build(lambda _: site, [notice]), 99), hooks=hooks)
        await until(lambda: joined.session.connected)


def federated(
    folder: Path, frozen: Plan, names: str = "A", grid: type[HubGrid] = HubGrid, run: str = "run"
) -> tuple[RunFolder, list[RealSite]]:
    """Train a plan with real sites on a hub in this process."""
    if not (folder / "A").exists():
        make_federation(folder, dict.fromkeys("ABC", 12), seed=1, size=32)
    made = RunFolder(folder / run, encoders=folder / encoder_files.FOLDER).create(frozen)
    sites = [RealSite(folder, name) for name in names]

    async def story(consortium: Consortium) -> None:
        consortium.hub._max_model_bytes = 64 << 20
        for site in sites:
            await site.join(consortium)
        carrying = grid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
        work = lambda: server_app.federate(carrying, made, carrying.name_of, carrying.cases_of)  # noqa: E731
        await in_thread(work)

    play(folder, story, within_s=200)
    return made, sites


def model(folder: RunFolder) -> dict[str, Flat]:
    return weights.load(folder.path / MODEL)[0]


def sizes(frozen: Plan) -> tuple[int, int, int]:
    """The values of the network, of a training message and of an evaluation."""
    layout = layout_of_plan(frozen)
    names = [entry.name for entry in layout]
    left_out = frozenset[str](), fixed_arrays(frozen, names), uncarried(frozen, names)
    whole, trained, shown = (sum(e.size for e in weights.layout_without(layout, one)) for one in left_out)
    return whole, trained, shown


def test_rounds_of_heads_carry_the_heads_and_the_encoder_travels_once(tmp_path: Path) -> None:
    sha256 = added(tmp_path)
    network = {"encoder": NAME, "encoder_weights": sha256, "code": "trained"}
    frozen = planned({"trained": "heads"}, network)
    folder, (site,) = federated(tmp_path, frozen)
    whole, trained, shown = sizes(frozen)
    assert trained < whole / 2
    of_kind = {kind: {size for one, size, _ in site.messages if one == kind} for kind in (TRAIN, EVALUATE)}
    assert of_kind == {TRAIN: {trained}, EVALUATE: {shown}}
    file = folder.encoder_file()
    assert file is not None
    assert site.fetched == [f"encoder {sha256}, {file.stat().st_size} bytes"]
    assert site.sent["updates"] / 2 <= 1.1 * 4 * trained
    messages = len([kind for kind, _, _ in site.messages if kind in (TRAIN, EVALUATE)])
    assert (site.received["download"] - file.stat().st_size) / messages <= 1.1 * 4 * trained
    assert site.sent["initial weights"] <= 1.1 * 4 * (whole - sum(a.size for a in weights.load(file)[0].values()))

    made, given = model(folder), weights.load(file)[0]
    assert all(np.array_equal(made[PREFIX + name], array) for name, array in given.items())
    begun = arrays_of(build(frozen))
    assert any(not np.array_equal(made[name], begun[name]) for name in made if not name.startswith(PREFIX))

    again = planned({"trained": "heads", "seed": 2}, network)
    _, (site,) = federated(tmp_path, again, run="again")
    assert not site.fetched
    assert site.received["download"] < file.stat().st_size + 4 * messages * trained


PLANS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "heads of random weights": ({"trained": "heads"}, {}, "A"),
    "last stages": ({"trained": "last-stages"}, {}, "AB"),
    "an encoded update": ({"trained": "heads", "update_encoding": "int8"}, {}, "AB"),
    "a strategy with a state": ({"trained": "heads", "strategy": "fedadam"}, {}, "AB"),
    "a moving average": ({"trained": "heads", "moving_average": 0.5}, {}, "A"),
    "secure sums": ({"trained": "heads"}, {"aggregation": "secure"}, "ABC"),
    "private heads": (
        {},
        {"privacy": {"mode": "patient", "epsilon": 8.0, "delta": 1e-3, "trained": "heads"}},
        "A",
    ),
}


@pytest.mark.parametrize("kind", list(PLANS))
def test_run_makes_the_model_that_whole_messages_make(tmp_path: Path, kind: str) -> None:
    training, more, names = PLANS[kind]
    frozen = planned(training, sites=len(names), **more)
    one, sites = federated(tmp_path, frozen, names)
    whole, trained, shown = sizes(frozen)
    for site in sites:
        carried = {(of, size) for of, size, _ in site.messages if of in (TRAIN, EVALUATE)}
        assert carried == {(TRAIN, trained), (EVALUATE, shown)}
        assert {fixed for of, _, fixed in site.messages if of == TRAIN} == {next(site.home.glob("fixed/*")).stem}
        assert len(site.fetched) == 1
    other, sites = federated(tmp_path / "whole", frozen, names, WholeMessages)
    assert {size for of, size, _ in sites[0].messages if of == TRAIN} == {whole}
    assert not any(site.fetched for site in sites)
    begun, made, expected = arrays_of(build(frozen)), model(one), model(other)
    fixed = fixed_arrays(frozen, list(made))
    assert fixed
    for name, array in made.items():
        assert name not in fixed or name.startswith(CODE) or np.array_equal(array, begun[name])
        if "privacy" not in more:  # whose noise has no seed
            np.testing.assert_allclose(array, expected[name], atol=0 if "aggregation" not in more else 1e-6)


def tiny(
    folder: Path, frozen: Plan, layout: tuple[LayoutEntry, ...], until_round: int | None = None
) -> dict[str, Flat]:
    """Train with sites whose training is arithmetic; killed after a round, or to the end. Returns the model."""
    made = RunFolder(folder).create(frozen)
    own = np.random.default_rng(3).standard_normal((7, HEADS)).astype(np.float32)

    class KilledError(Exception):
        pass

    async def story(consortium: Consortium) -> None:
        for place, name in enumerate("ABCDEFG"):

            def train(number: int, flat: Flat, place: int = place) -> Flat:
                new = flat.copy()
                new[-HEADS:] = 0.5 * flat[-HEADS:] + own[place] * np.float32(number)
                return new

            await consortium.join(name, runs(tiny_app(train, 5, layout=layout), 5))
        grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)

        def after(state: Any) -> None:
            if state.round == until_round:
                raise KilledError

        await in_thread(lambda: server_app.federate(grid, made, grid.name_of, grid.cases_of, after_round=after))

    (folder / "hub").mkdir(parents=True, exist_ok=True)
    if until_round is None:
        play(folder / "hub", story)
        return model(made)
    with pytest.raises(KilledError):
        play(folder / "hub", story)
    return {}


@pytest.mark.parametrize("strategy", sorted(STRATEGY_OPTIONS))
def test_heads_under_every_strategy_are_as_if_there_were_no_encoder(tmp_path: Path, strategy: str) -> None:
    alone = tiny(tmp_path / "alone", plan(3, 7, 7, strategy=strategy), TINY[1:])
    heads = plan(3, 7, 7, strategy=strategy, trained="heads")
    made = tiny(tmp_path / "heads", heads, TINY)
    np.testing.assert_array_equal(made["hash.weight"], alone["hash.weight"])
    assert not made["stem.weight"].any()
    tiny(tmp_path / "resumed", heads, TINY, until_round=2)
    np.testing.assert_array_equal(tiny(tmp_path / "resumed", heads, TINY)["hash.weight"], alone["hash.weight"])


def test_late_update_of_heads_is_used(tmp_path: Path) -> None:
    frozen = plan(2, 3, 2, deadline_s=3.0, late_updates="use", trained="heads")
    folder = RunFolder(tmp_path / "run").create(frozen)
    waits_s = {("C", 1): 4.0, ("A", 2): 1.5}

    def training(name: str) -> Any:
        def train(number: int, flat: Flat) -> Flat:
            time.sleep(waits_s.get((name, number), 0.0))
            return flat + np.float32(ord(name) + number)

        return train

    async def story(consortium: Consortium) -> None:
        for name in "ABC":
            await consortium.join(name, runs(tiny_app(training(name), 5, layout=TINY), 5))
        grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
        await in_thread(lambda: server_app.federate(grid, folder, grid.name_of, grid.cases_of))

    play(tmp_path, story, within_s=40)
    assert [event["outcome"] for event in events(folder, "late")] == ["used"]


def test_encoder_that_an_init_changed_is_in_the_run_s_own_file(tmp_path: Path) -> None:
    sha256 = added(tmp_path)
    frozen = planned({"trained": "heads"}, {"encoder": NAME, "encoder_weights": sha256})
    folder = RunFolder(tmp_path / "run", encoders=tmp_path / encoder_files.FOLDER).create(frozen)
    arrays = {**arrays_of(build(frozen)), **folder.encoder_arrays()}
    changed = next(name for name in arrays if name.startswith(PREFIX))
    arrays[changed] = arrays[changed] + np.float32(1)
    state = server_app.State(0, weights.flatten(arrays), weights.layout_of(arrays), {})

    async def story(consortium: Consortium) -> None:
        grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
        carried = CarriedArrays(grid, frozen, folder)
        carried.begin(state)
        assert set(weights.load(folder.path / FILE)[0]) == {changed}
        assert carried.rest

    play(tmp_path, story)


def test_plan_that_trains_everything_needs_no_file(tmp_path: Path) -> None:
    folder, (site,) = federated(tmp_path, planned())
    assert not site.fetched
    assert not (folder.path / FILE).exists()
    assert json.loads((folder.path / "card.json").read_text())["rounds"] == 2
