"""Complete runs with `training.rounds: auto`: when they cool down and stop, what they publish, and how they resume."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
from flwr.app import Message
from loopback import Consortium, play, runs, tiny_app
from tiny_runs import events, federate, model

from ynet.data.synthetic import CLASSES as DISEASES
from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet.federation.records import (
    ARRAYS,
    CONFIG,
    COOLDOWN_ROUND,
    COOLDOWN_ROUNDS,
    EVALUATE,
    FINAL,
    TRAIN,
    flat_weights,
)
from ynet.plan import Plan
from ynet.trust.identity import Identity
from ynet.weights import Flat
from ynet_client.training import client_app
from ynet_client.training.secure_aggregation import Party
from ynet_client.training.site_data import LocalSite
from ynet_client.training.took_part import TookPart
from ynet_server.commands import run_tables
from ynet_server.rounds.run_end import BEST, CURVE
from ynet_server.rounds.run_folder import RunFolder
from ynet_server.rounds.run_progress import RunProgressReader

CASES = {"A": 20, "B": 10, "C": 10}
Shape = Callable[[float], float | None]


def plan(**training: Any) -> Plan:
    return tiny_runs.plan(**{"rounds": "auto", "max_rounds": 12, "evaluate_every": 2, **training})


def next_weights(_: int, flat: Flat) -> Flat:
    """Train a round: the weights are the number of rounds."""
    return flat + np.float32(1)


class Heard:
    """What the sites were sent: for each message its kind, its config and the first of its weights."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any], float]] = []

    def __call__(self, message: Message) -> None:
        flat = flat_weights(message.content.array_records[ARRAYS])
        config = dict(message.content.config_records[CONFIG])
        self.messages.append((message.metadata.message_type, config, float(flat[0])))

    def places(self) -> dict[int, tuple[Any, Any]]:
        """By round: its place in the cool-down, and the cool-down's length."""
        return {
            config["server-round"]: (config[COOLDOWN_ROUND], config[COOLDOWN_ROUNDS])
            for kind, config, _ in self.messages
            if kind == TRAIN and COOLDOWN_ROUND in config
        }

    def results(self) -> list[float]:
        """The weights that were sent as the run's result."""
        return [first for kind, config, first in self.messages if kind == EVALUATE and config.get(FINAL) is True]


def scores(shape: Shape) -> Callable[[Flat], dict[str, float]]:
    def found(flat: Flat) -> dict[str, float]:
        value = shape(round(float(flat[0]), 3))  # a mean of equal weights is not exact
        return {} if value is None else {"macro_map10": value, "ranked": 10}

    return found


def apps(shape: Shape, heard: Heard, train: Callable[[int, Flat], Flat] = next_weights) -> dict[str, Any]:
    """Two sites that score alike; the first hears what is sent."""
    first = tiny_app(train, CASES["A"], scores=scores(shape), notice=heard)
    return {"A": first, "B": tiny_app(next_weights, CASES["B"], scores=scores(shape))}


def run(tmp_path: Path, frozen: Plan, shape: Shape, heard: Heard | None = None) -> RunFolder:
    return tiny_runs.run(tmp_path, frozen, apps(shape, heard or Heard()), CASES)


def rising(value: float) -> float:
    return value / 100


def test_flat_curve_cools_down_and_publishes_best_round(tmp_path: Path) -> None:
    heard = Heard()
    peak = {60.0: 0.9}
    folder = run(tmp_path, plan(max_rounds=300, evaluate_every=10), lambda value: peak.get(value, 0.5), heard)
    (called,), (stopped,) = events(folder, "cooldown"), events(folder, "stopped")
    assert called["round"] == 110  # two windows of 50 rounds after the warm-up
    assert called["rounds"] == 22
    assert "the scores are flat" in called["reason"]
    assert (stopped["round"], stopped["best"], stopped["score"]) == (132, 60, 0.9)
    assert stopped["reason"] == called["reason"]
    assert heard.places() == {110 + place: (place, 22) for place in range(1, 23)}
    assert events(folder, "round")[-1]["rounds"] == 132
    assert [event["round"] for event in events(folder, "curve")] == [*range(10, 140, 10), 132]
    np.testing.assert_allclose(model(folder), np.full(7, 60), rtol=1e-5)
    assert heard.results() == pytest.approx([60.0])
    (result,) = events(folder, "result_evaluated")
    assert (result["round"], result["sites"]["A"]["macro_map10"]) == (60, 0.9)
    card = folder.card()
    assert (card["rounds"], card["best_round"], card["stopped"]) == (132, 60, called["reason"])
    told = "\n".join(run_tables.describe_event(event) for event in folder.events())
    assert f"cool-down of 22 rounds after round 110: {called['reason']}" in told
    assert f"stopped after round 132: {called['reason']}; the best score is 0.9000, after round 60" in told
    assert "the weights of round 60 are published; their scores" in told
    progress = RunProgressReader().of(folder.path)
    assert progress.stopped == {"round": 132, "reason": called["reason"], "best": 60}
    assert progress.cooldown == {"round": 110, "rounds": 22, "reason": called["reason"]}
    assert card["scores"]["B"]["macro_map10"] == 0.9


def test_rising_curve_ends_at_max_rounds_with_last_weights(tmp_path: Path) -> None:
    heard = Heard()
    folder = run(tmp_path, plan(), rising, heard)
    assert heard.places() == {7 + place: (place, 5) for place in range(1, 6)}
    assert "training.max_rounds" in events(folder, "stopped")[0]["reason"]
    np.testing.assert_allclose(model(folder), np.full(7, 12), rtol=1e-5)


def test_equal_scores_publish_the_later_round(tmp_path: Path) -> None:
    folder = run(tmp_path, plan(), lambda value: 0.2 if value < 5 else 0.7)
    assert folder.card()["best_round"] == 12


def test_run_without_scores_ends_at_max_rounds_with_last_weights(tmp_path: Path) -> None:
    heard = Heard()
    folder = run(tmp_path, plan(), lambda _: None, heard)
    np.testing.assert_allclose(model(folder), np.full(7, 12), rtol=1e-5)
    assert heard.results() == pytest.approx([12.0])
    assert not events(folder, "curve")
    assert "best" not in events(folder, "stopped")[0]
    assert not (folder.path / BEST).exists()


def test_moving_average_of_best_round_is_published(tmp_path: Path) -> None:
    heard = Heard()
    frozen = plan(moving_average=0.9)
    folder = run(tmp_path, frozen, lambda value: -abs(value - 3) / 10 + 0.5, heard)
    best = folder.card()["best_round"]
    evaluated = {c["server-round"]: first for kind, c, first in heard.messages if kind == EVALUATE and FINAL not in c}
    assert best < 12
    np.testing.assert_allclose(model(folder), np.full(7, evaluated[best]))
    assert evaluated[best] != best


def test_new_plan_from_auto_run_has_the_rounds_that_are_left(tmp_path: Path) -> None:
    folder = run(tmp_path, plan(max_rounds=6), rising)
    (folder.path / "plan.json").write_text(plan(max_rounds=20).canonical())  # a run that is not over yet
    made, _ = folder.carry_over(quorum=1, min_sites=1)
    assert (made.training.rounds, made.training.max_rounds, made.training.schedule) == ("auto", 14, "trapezoid")


def test_fixed_rounds_are_told_nothing_of_phases(tmp_path: Path) -> None:
    heard = Heard()
    folder = tiny_runs.run(tmp_path, tiny_runs.plan(rounds=4, evaluate_every=2), apps(rising, heard), CASES)
    keys = {key for _, config, _ in heard.messages for key in config}
    assert not keys & {COOLDOWN_ROUND, COOLDOWN_ROUNDS, FINAL}
    assert [event["round"] for event in events(folder, "evaluated")] == [2, 4]
    assert not (folder.path / CURVE).exists()
    assert "stopped" not in folder.card()


# --- going on after a kill


def hump(value: float) -> float:
    return 0.9 if value == 6 else rising(value)


@pytest.mark.parametrize("number", [1, 3, 7, 8, 12])
@pytest.mark.parametrize("kind", [TRAIN, EVALUATE])
def test_run_killed_in_a_round_ends_as_if_it_was_not(tmp_path: Path, number: int, kind: str) -> None:
    copy, frozen = tmp_path / "as it was", plan()

    class Killed(Heard):
        def __call__(self, message: Message) -> None:
            super().__call__(message)
            newest, config, _ = self.messages[-1]
            if newest == kind and config["server-round"] >= number and not copy.exists():
                shutil.copytree(tmp_path / "run", copy)  # what a kill would leave

    whole = tiny_runs.run(tmp_path, frozen, apps(hump, Killed()), CASES)
    expected, before = model(whole), [(e["kind"], e.get("round")) for e in whole.events()]
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(copy, tmp_path / "run")
    resumed = tiny_runs.run(tmp_path, frozen, apps(hump, Heard()), CASES)
    np.testing.assert_allclose(model(resumed), expected)
    assert [(e["kind"], e.get("round")) for e in resumed.events()] == before
    assert resumed.card()["best_round"] == 6


def test_run_killed_before_its_result_is_evaluated_publishes_the_same(tmp_path: Path) -> None:
    whole, heard = run(tmp_path, plan(), hump), Heard()
    expected = model(whole)
    for name in ("model.safetensors", "card.json"):
        (whole.path / name).unlink()
    resumed = run(tmp_path, plan(), hump, heard)
    np.testing.assert_allclose(model(resumed), expected)
    assert [kind for kind, _, _ in heard.messages] == [EVALUATE]
    assert heard.results() == pytest.approx([6.0])
    assert len(events(resumed, "stopped")) == 1


def test_damaged_curve_is_a_user_error(tmp_path: Path) -> None:
    folder = run(tmp_path, plan(), rising)
    (folder.path / CURVE).write_text("{", "utf-8")
    with pytest.raises(UserError, match=CURVE):
        run(tmp_path, plan(), rising)


# --- sites with a network


def test_sites_vouch_for_the_published_weights(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 16, "B": 16}, seed=1, size=32)
    values = json.loads(plan(max_rounds=3, evaluate_every=1, batch_size=8).canonical())
    values |= {"classes": list(DISEASES), "network": {"width": 4, "code_bits": 32}}
    frozen = tiny_runs.plans.from_canonical(json.dumps(values))
    homes = {name: tmp_path / name for name in "AB"}
    sites = {}
    for name, home in homes.items():
        home.mkdir()
        site = LocalSite(tmp_path / "data" / name / "manifest.csv", "cpu", 1 << 24, took_part=TookPart(home))
        sites[name] = client_app.build(lambda _, site=site: site)
    folder = tiny_runs.run(tmp_path / "server", frozen, sites, {"A": 16, "B": 16})
    card = folder.card()
    assert 1 <= card["best_round"] <= 3
    assert set(card["scores"]) == {"A", "B"}
    for home in homes.values():
        assert not TookPart(home).doubt(frozen, card["model_id"])
        assert TookPart(home).doubt(frozen, "0" * 64)


# --- secure sums


def party(consortium: Consortium, site: str) -> Party:
    member = consortium.enrol(site)
    return Party(site, Identity(member.key, member.certificate), member.authority, None)


def test_secure_sums_cool_down_and_publish_best_round(tmp_path: Path) -> None:
    values = json.loads(plan(max_rounds=8).canonical()) | {"aggregation": "secure"}
    values["cohort"] |= {"min_sites": 3, "quorum": 3}
    folder = RunFolder(tmp_path / "run").create(tiny_runs.plans.from_canonical(json.dumps(values)))
    heard = Heard()

    async def story(consortium: Consortium) -> None:
        for name in "ABC":
            own = tiny_app(
                next_weights,
                CASES[name],
                scores=scores(lambda value: 0.9 if value > 3.5 and value < 4.5 else 0.1),
                party=party(consortium, name),
                notice=heard if name == "A" else lambda _: None,
            )
            await consortium.join(name, runs(own, CASES[name]))
        await federate(consortium, folder)
        await asyncio.sleep(0)

    play(tmp_path, story)
    np.testing.assert_allclose(model(folder), np.full(7, 4), atol=1e-3)
    assert heard.places() == {3 + place: (place, 5) for place in range(1, 6)}
    assert not events(folder, "round_lost")
