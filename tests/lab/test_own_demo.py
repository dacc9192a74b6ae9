"""A demonstration on one's own images: how long it says it will take, and what it says of the score."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ynet import plan as plans
from ynet.data.manifest import Manifest, find_sites, read
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import UserError
from ynet.plan_sections import Training
from ynet_lab.demo import own, run
from ynet_lab.own_data.floors import Floors, floors_of
from ynet_lab.own_data.planned import plan_for
from ynet_lab.own_data.queries import average_precision, chosen, trained_cases
from ynet_lab.own_data.remaining import Left, RunLines, rounds_left, span
from ynet_lab.own_data.verdict import Rated, dice_of, figures_of, random_precision, score_of, words
from ynet_server import encoder_files
from ynet_server.rounds.stopping import CurvePoint

AUTO = Training(rounds="auto", learning_rate=1e-3, schedule="trapezoid", cooldown=0.2)
FLOORS = Floors(random=0.2, majority=0.33, hog=0.4)

# --- the time that is left


def curve(last: int, rise: float = 0.0) -> list[CurvePoint]:
    return [CurvePoint(number, 0.5 + rise * number) for number in range(5, last + 1, 5)]


def test_run_without_a_known_end_is_told_by_the_rule_that_ends_it() -> None:
    assert rounds_left(AUTO, 2, []) == Left(124, 498)  # flat after round 105; a fifth as long to cool down
    assert rounds_left(AUTO, 100, curve(100)) == Left(26, 400)
    least, most = rounds_left(AUTO, 100, curve(100, rise=0.001))
    assert 26 < least < most == 400


def test_run_whose_sites_send_no_scores_lasts_to_its_end() -> None:
    assert rounds_left(AUTO, 10, []) == Left(490, 490)


def test_end_that_is_known_is_told_exactly() -> None:
    assert rounds_left(AUTO, 110, curve(110), end=126) == Left(16, 16)
    assert rounds_left(replace(AUTO, rounds=40), 10, []) == Left(30, 30)


def event(kind: str, number: int, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "round": number, "time": 2.0 * number, **more}


def test_lines_tell_score_and_time() -> None:
    said, lines = RunLines(AUTO), list[str]()
    for number in range(1, 11):
        lines += said.lines(event("round", number, rounds=500, seconds=2.0, sites={}))
        if number % 5 == 0:
            lines += said.lines(event("evaluated", number, sites={}))
            lines += said.lines(event("curve", number, score=0.6 - number / 100))
    lines += said.lines(event("cooldown", 10, rounds=5, reason="the scores are flat"))
    lines += said.lines(event("round", 15, rounds=15, seconds=2.0, sites={}))
    lines += said.lines(event("curve", 15, score=0.7))
    assert [line for line in lines if "cool-down" not in line] == [
        "  round 3: 2.0 s a round; left: 4 min if the score rises no more, and at most 17 min (round 500)",
        "  round 5: score 0.550 (best 0.550, round 5); 2.0 s a round; left: 4 min if the score rises no more, and at"
        " most 16 min (round 500)",
        "  round 10: score 0.500 (best 0.550, round 5); 2.0 s a round; left: 4 min if the score rises no more, and at"
        " most 16 min (round 500)",
        "  round 15: score 0.700 (best 0.700, round 15); 2.8 s a round; the last one",
    ]


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (600, "10 min"), (9000, "2.5 h")])
def test_span_has_the_unit_of_its_size(seconds: float, text: str) -> None:
    assert span(seconds) == text


# --- the score in words


def rated(precision: float, patients: int = 40, labels: Sequence[str] = ("a", "b")) -> list[Rated]:
    return [Rated(label, f"{label}{number}", precision, 5) for label in labels for number in range(patients)]


def judged(precision: float, floors: Floors = FLOORS) -> str:
    return "\n".join(words(score_of(rated(precision), {"a": 50, "b": 50}), floors, dice=0.8))


def test_score_is_compared_with_its_floors() -> None:
    assert "Is it good? No" in judged(0.3)
    assert "Is it good? Not yet" in judged(0.38)
    assert "better than every floor: 50 % of the way" in judged(0.7)
    assert "better than each measured floor" in judged(0.7, Floors(0.2, 0.33, None))
    assert "Dice 0.80" in judged(0.7)


def test_luck_of_few_patients_is_not_praised() -> None:
    lucky = [Rated("a", "a1", 1.0, 10), Rated("a", "a2", 0.0, 0), Rated("b", "b1", 1.0, 10), Rated("b", "b2", 0.1, 1)]
    score = score_of(lucky, {"a": 50, "b": 50})
    assert score is not None
    assert score.low < 0.33 < score.macro_map10 < score.high
    assert "Is it good? No" in "\n".join(words(score, FLOORS, None))
    assert "too few to rely on" in "\n".join(words(score, FLOORS, None))


def test_class_at_chance_is_named() -> None:
    mixed = [*rated(0.9, labels=["a"]), *rated(random_precision(0.1), labels=["b"])]
    lines = words(score_of(mixed, {"a": 90, "b": 10}), FLOORS, None)
    assert [line.split()[1] for line in lines if "not found better" in line] == ["b"]


def test_queries_that_no_ranking_can_answer_are_left_out() -> None:
    assert score_of(rated(0.5, labels=["a"]), {"a": 10}) is None
    assert score_of(rated(0.5, labels=["c"]), {"a": 10, "b": 10}) is None
    assert words(None, FLOORS, None)[0].startswith("No score")
    assert figures_of(None, FLOORS, ["a"])["macro_map10"] is None


def test_random_precision_is_that_of_random_orders() -> None:
    random = np.random.default_rng(1)
    drawn = [average_precision(list(random.random(10) < 0.3), 1000) for _ in range(20_000)]
    assert random_precision(0.3) == pytest.approx(np.mean(drawn), abs=0.003)


def test_dice_is_weighted_by_masks() -> None:
    assert dice_of({"a": {"dice": 0.5, "masks": 30}, "b": {"dice": 0.9, "masks": 10}, "c": {"dice": None}}) == 0.6
    assert dice_of({"a": {"dice": None}}) is None


def test_floors_leave_out_cases_without_a_label(tmp_path: Path) -> None:
    make_federation(tmp_path, {"A": 36, "B": 24}, seed=1, size=32)
    manifests = {site: read(path) for site, path in find_sites(tmp_path).items()}
    plan = plan_for("data", find_sites(tmp_path), None).plan
    some = [case if place % 2 else replace(case, label="") for place, case in enumerate(manifests["B"].cases)]
    partly = {**manifests, "B": Manifest(manifests["B"].root, tuple(some))}
    labelled = {**manifests, "B": Manifest(manifests["B"].root, tuple(case for case in some if case.label))}
    asked = chosen(partly, np.random.default_rng(1))
    assert all(case.label for cases in asked.values() for case in cases)
    assert trained_cases(partly) == trained_cases(labelled)
    found, expected = floors_of(plan, partly, asked), floors_of(plan, labelled, asked)
    assert (found.random, found.majority) == (expected.random, expected.majority)


def test_floors_are_of_the_queries_that_were_asked(tmp_path: Path) -> None:
    make_federation(tmp_path, {"A": 36, "B": 24}, seed=1, size=32)
    sites = find_sites(tmp_path)
    manifests = {site: read(path) for site, path in sites.items()}
    plan = plan_for("data", sites, None).plan
    found = floors_of(plan, manifests, chosen(manifests, np.random.default_rng(1)))
    assert found.majority == pytest.approx(1 / len(CLASSES))
    assert found.random is not None
    assert found.hog is not None
    assert 0.1 < found.random < 0.3
    assert found.random < found.hog < 1
    assert floors_of(plan, manifests, {"A": (), "B": ()}) == Floors(None, None, None)


# --- preparing


def test_patients_of_one_hospital_are_dealt_to_pretend_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YNET_HOME", str(tmp_path / "home"))
    make_federation(tmp_path, {"alone": 60}, seed=1, size=32)
    prepared = own(tmp_path / "alone", None, tmp_path / "out")
    assert prepared.is_pretend
    manifests = {site: read(path) for site, path in prepared.sites.items()}
    assert sorted(manifests) == ["A", "B", "C"]
    assert sum(len(one.cases) for one in manifests.values()) == 60
    assert plans.read(prepared.plan).cohort.min_sites == 3
    weights = plans.read(prepared.plan).network.encoder_weights
    kept = encoder_files.listed(tmp_path / "out/server/encoders")
    assert [one.sha256 for one in kept] == ([] if weights is None else [weights])
    assert not (tmp_path / "home").exists()
    assert "dealt to 3 pretend hospitals" in capsys.readouterr().out


def test_folder_that_holds_the_data_is_not_emptied(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 6, "B": 6}, seed=1, size=32)
    with pytest.raises(UserError, match="is not emptied"):
        run(tmp_path / "data", None, tmp_path)
    assert len(find_sites(tmp_path / "data")) == 2
