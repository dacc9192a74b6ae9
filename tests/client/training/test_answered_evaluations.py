"""Evaluations of a private plan: one set of weights per round is scored, however often it is asked."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import RefusedError
from ynet.federation.records import ARRAYS, CASES, CONFIG, EVALUATE, METRICS, weights_record
from ynet.learning.model import arrays_of, build
from ynet.plan import Plan
from ynet.trust.ledger import Ledger, LedgerEntry, Reservation
from ynet_client import restored
from ynet_client.restored import Restored
from ynet_client.settings import PrivacySettings
from ynet_client.training import answered_evaluations, app_call, client_app
from ynet_client.training.answered_evaluations import AnsweredEvaluations
from ynet_client.training.privacy_budget import Experiment, Recorded
from ynet_client.training.site_data import LocalSite

PLAN = parse(
    Plan,
    {
        "name": "private",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"width": 4, "code_bits": 32},
        "training": {"rounds": 3, "learning_rate": 1e-3, "batch_size": 4},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "patient", "epsilon": 4.0, "delta": 1e-2},
    },
    "the test's plan",
)
EACH = replace(PLAN, training=replace(PLAN.training, evaluate_every=1))
SCORES = {CASES: 3.0, "dice": 0.5}


def site(folder: Path) -> LocalSite:
    if not (folder / "data").exists():
        make_federation(folder / "data", {"A": 24}, seed=1, size=32)
        (folder / "home").mkdir()
    budget = Recorded(folder / "home", PrivacySettings())
    return LocalSite(folder / "data/A/manifest.csv", "cpu", 1 << 24, budget=budget)


def asked(at: LocalSite, number: int, moved: float, plan: Plan = PLAN) -> dict[str, Any]:
    """Ask a site for the scores of the plan's initial weights, all shifted by a constant."""
    flat = weights.flatten(arrays_of(build(plan))) + np.float32(moved)
    config = ConfigRecord({"plan": plan.canonical(), "server-round": number})
    received = RecordDict({ARRAYS: weights_record(flat), CONFIG: config})
    app = client_app.build(lambda _: at)
    return dict(app_call.call(app, app_call.new_context(), EVALUATE, received).metrics[METRICS])


def answer(
    home: Path, number: int, digest: str, plan: Plan = EACH, entries: tuple[LedgerEntry, ...] = ()
) -> answered_evaluations.Scores:
    return AnsweredEvaluations(home).answer(plan, number, digest, lambda: SCORES, entries, is_witnessed=True)


def trained(home: Path, number: int, digest: str) -> tuple[LedgerEntry, ...]:
    """Return the ledger's entries after one more round that began with these weights."""
    kept = Ledger(home)
    kept.reserve("default", Reservation(EACH.id, number, 3, digest, 2.0, 0.1, 5, 1e-2), lambda _: None)
    return tuple(kept.entries)


def test_of_forty_sets_of_weights_a_private_plan_gets_the_scores_of_one(tmp_path: Path) -> None:
    at, answers, refusals = site(tmp_path), [], set()
    for number in range(40):
        try:
            answers.append(asked(at, 3, number / 10))
        except RefusedError as error:
            refusals.add(error.why)
    assert len(answers) == 1
    assert answers[0].keys() > {CASES, "dice", "macro_map10"}
    assert refusals == {"round 3 of this plan was evaluated here with other weights"}


def test_the_same_weights_get_the_same_answer_after_a_restart_and_others_none(tmp_path: Path) -> None:
    first = asked(site(tmp_path), 3, 0)
    kept = (tmp_path / "home" / answered_evaluations.FILE).read_bytes()
    assert asked(site(tmp_path), 3, 0) == first
    assert (tmp_path / "home" / answered_evaluations.FILE).read_bytes() == kept
    with pytest.raises(RefusedError, match="no evaluation"):
        asked(site(tmp_path), 3, 1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_round_that_the_plan_does_not_evaluate_has_no_scores(tmp_path: Path, number: int) -> None:
    with pytest.raises(RefusedError) as caught:
        asked(site(tmp_path), number, 0)
    assert caught.value.why == f"the plan evaluates every 5 rounds and after round 3, not after {number}"


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_plan_without_scores_gets_none_of_a_site_nor_of_an_experiment(tmp_path: Path, is_recorded: bool) -> None:
    at, silent = site(tmp_path), replace(PLAN, privacy=replace(PLAN.privacy, scores="none"))
    if not is_recorded:
        at = LocalSite(at.manifest_file, "cpu", 1 << 24, budget=Experiment())
    with pytest.raises(RefusedError, match="no evaluation"):
        asked(at, 3, 0, silent)
    assert not (tmp_path / "home" / answered_evaluations.FILE).exists()
    assert asked(at, 3, 0)[CASES] > 0


def test_a_plan_without_privacy_is_scored_as_often_as_it_likes(tmp_path: Path) -> None:
    open_plan = replace(PLAN, privacy=replace(PLAN.privacy, mode="off", epsilon=None, delta=None))
    for moved in (0.0, 1.0):
        assert asked(site(tmp_path), 1, moved, open_plan)[CASES] > 0


def test_rounds_are_evaluated_in_their_order(tmp_path: Path) -> None:
    answer(tmp_path, 2, "b")
    with pytest.raises(RefusedError, match="no evaluation") as caught:
        answer(tmp_path, 1, "a")
    assert caught.value.why == "round 1 of this plan is over: round 2 was evaluated here"
    assert answer(tmp_path, 2, "b") == answer(tmp_path, 3, "c") == SCORES


def test_weights_that_the_run_did_not_go_on_with_were_the_last_that_a_site_scored(tmp_path: Path) -> None:
    answer(tmp_path, 1, "a")
    assert answer(tmp_path, 2, "b", entries=trained(tmp_path, 2, "a")) == SCORES
    entries = trained(tmp_path, 3, "not b")
    with pytest.raises(RefusedError) as caught:
        answer(tmp_path, 3, "c", entries=entries)
    assert caught.value.why == "round 3 did not begin with the weights that were evaluated after 2"
    assert answer(tmp_path, 2, "b", entries=entries) == SCORES
    averaged = replace(EACH, training=replace(EACH.training, moving_average=0.5))  # what is scored trains nowhere
    answer(tmp_path, 2, "b", averaged)
    assert answer(tmp_path, 3, "c", averaged, entries) == SCORES


def test_a_round_whose_scoring_was_cut_off_is_scored_with_the_same_weights_alone(tmp_path: Path) -> None:
    def cut() -> answered_evaluations.Scores:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AnsweredEvaluations(tmp_path).answer(EACH, 1, "a", cut, (), is_witnessed=True)
    with pytest.raises(RefusedError, match="no evaluation"):
        answer(tmp_path, 1, "b")
    assert answer(tmp_path, 1, "a") == SCORES


def test_a_restored_site_scores_plans_alone_that_it_began_to_train_since(tmp_path: Path) -> None:
    before = trained(tmp_path, 1, "0")
    answer(tmp_path, 1, "a", entries=before)
    restored.write(tmp_path, Restored(before[-1].time, before[-1].time + 1))
    since = tuple(replace(entry, time=entry.time + 2) for entry in before)
    assert answer(tmp_path, 1, "a", entries=before) == SCORES  # as it was kept
    for entries, is_witnessed in ((before, True), ((), True), (since, False)):
        with pytest.raises(RefusedError) as caught:
            AnsweredEvaluations(tmp_path).answer(EACH, 2, "b", lambda: SCORES, entries, is_witnessed=is_witnessed)
        assert "is from a backup" in caught.value.why
    assert answer(tmp_path, 2, "b", entries=since) == SCORES


@pytest.mark.parametrize("content", ["{", "[]", '{"p": {"1": {}}}', '{"p": {"x": {"weights": "a", "scores": null}}}'])
def test_a_record_that_cannot_be_read_stops_evaluations(tmp_path: Path, content: str) -> None:
    (tmp_path / answered_evaluations.FILE).write_text(content)
    with pytest.raises(RefusedError) as caught:
        answer(tmp_path, 1, "a")
    assert "cannot be read" in caught.value.why
    assert str(tmp_path) not in str(caught.value)


def test_the_record_is_its_owners_alone(tmp_path: Path) -> None:
    answer(tmp_path, 1, "a")
    assert (tmp_path / answered_evaluations.FILE).stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / answered_evaluations.FILE).read_text()) == {
        EACH.id: {"1": {"weights": "a", "scores": SCORES}}
    }
