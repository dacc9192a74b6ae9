"""`ynet-lab report`: experiments read back from their folders, made again or compared."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats
from smallest_plan import smallest_plan

from ynet.errors import UserError
from ynet.plan import Plan
from ynet_lab import comparison, comparison_page, finished, report, report_run
from ynet_lab.report import ModelResult, SiteLabels
from ynet_lab.trial import command

PLAN = smallest_plan()
CLASSES = PLAN.classes
LABELS = np.array([0, 0, 1, 1])


def scored(value: float, per_class: dict[str, float | None] | None) -> dict[str, Any]:
    counts = {"queries_per_class": dict.fromkeys(CLASSES, 2), "gallery_per_class": dict.fromkeys(CLASSES, 2)}
    shares = {"macro_map10": value, "macro_map10_random": 0.3, "dice": value / 2, "balanced_accuracy": None}
    scores = {**shares, "ranked": 4, "masks": 4, "queries": 4, **counts}
    found = {
        "overall": scores,
        "within": {"A": scores, "<b>": scores},
        "cross": {"A": scores, "<b>": None},
        "matrix": {"A": {"A": value, "<b>": value}, "<b>": {"A": value, "<b>": value}},
        "radius": [{"radius": 0, "precision": None, "recall": 0.5}],
        "curve": [{"round": 1, "loss": 1.0, "macro_map10": value, "dice": None}],
        "seconds": 2.0,
    }
    return found if per_class is None else {**found, "map10_per_class": per_class}


def experiment(
    folder: Path,
    values: list[float],
    *,
    plan: Plan = PLAN,
    labels: np.ndarray = LABELS,
    models: tuple[tuple[str, str, str | None], ...] = (("federated", "federated", None), ("alone: A", "alone", "A")),
    is_validation: bool = False,
    has_classes: bool = True,
) -> Path:
    """A folder as simulate leaves it; `values`: macro mAP@10 by seed."""
    results = []
    for name, kind, site in models:
        for seed, value in enumerate(values, start=1):
            per_class = dict(zip(CLASSES, (value, None), strict=True)) if has_classes else None
            found = scored(value, per_class)
            place = folder / f"seed-{seed}" / (f"alone-{site}" if site else kind)
            place.mkdir(parents=True)
            (place / "scores.json").write_text(json.dumps(found))
            results.append(ModelResult(name, kind, site, seed, found))
    sites = [SiteLabels("A", labels, LABELS), SiteLabels("<b>", LABELS, LABELS[:1])]
    floors: dict[str, dict[str, float | None]] = {"random": {"macro_map10": 0.3}, "majority": {"macro_map10": None}}
    made = report.compose(plan, len(values), sites, floors, results, is_validation)
    (folder / "report.json").write_text(json.dumps(made))
    return folder


def test_report_of_one_experiment_is_the_one_that_simulate_wrote(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "one", [0.5, 0.7])
    made = report_run.report([folder], tmp_path / "out")
    assert json.loads(json.dumps(made)) == json.loads((folder / "report.json").read_text())
    assert json.loads((tmp_path / "out/report.json").read_text()) == json.loads(json.dumps(made))
    ElementTree.parse(tmp_path / "out/report.html")


def test_report_follows_scores_that_have_changed(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "one", [0.5, 0.7])
    (folder / "seed-2/federated/scores.json").write_text(json.dumps(scored(0.9, None)))
    federated = report_run.report([folder], tmp_path / "out")["models"][0]
    assert federated["overall"]["macro_map10"]["values"] == [0.5, 0.9]


def test_estimate_is_the_mean_with_students_interval() -> None:
    values = [0.4, 0.5, None, 0.9]
    found = comparison.estimate(values)
    expected = stats.ttest_1samp([0.4, 0.5, 0.9], 0).confidence_interval(0.95)
    assert found is not None
    assert found["mean"] == pytest.approx(0.6)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))
    assert found["values"] == values


@pytest.mark.parametrize(("values", "expected"), [([], None), ([None], None), ([0.5], 0.5), ([None, 0.5], 0.5)])
def test_estimate_of_fewer_than_two_values_has_no_interval(values: list[float | None], expected: float | None) -> None:
    found = comparison.estimate(values)
    assert (found and found["mean"]) == expected
    assert found is None or found["low"] is found["high"] is None


def test_difference_is_taken_seed_by_seed(tmp_path: Path) -> None:
    first = finished.read(experiment(tmp_path / "first", [0.2, 0.9]))
    other = finished.read(experiment(tmp_path / "other", [0.3, 1.0, 0.5]))
    made = comparison.compare([first, other])
    one, two = made["models"][0]["overall"]["macro_map10"]
    assert "over_first" not in one
    assert two["over_first"]["values"] == [pytest.approx(0.1), pytest.approx(0.1), None]
    assert two["over_first"]["low"] == pytest.approx(0.1)
    assert two["over_first"]["high"] == pytest.approx(0.1)


def test_comparison_has_each_class_and_each_site(tmp_path: Path) -> None:
    found = [finished.read(experiment(tmp_path / name, [0.5, 0.7])) for name in "ab"]
    made = comparison.compare(found)
    assert [model["name"] for model in made["models"]] == ["federated", "alone: A"]
    federated = made["models"][0]
    assert federated["classes"][CLASSES[0]][1]["mean"] == pytest.approx(0.6)
    assert federated["classes"][CLASSES[1]] == [None, None]
    assert federated["sites"]["<b>"]["cross"] == [None, None]
    assert federated["sites"]["A"]["within"][0]["mean"] == pytest.approx(0.6)
    assert federated["overall"]["balanced_accuracy"] == [None, None]
    assert json.loads(json.dumps(made, allow_nan=False)) == made


def test_experiment_without_scores_by_class_is_compared_in_the_rest(tmp_path: Path) -> None:
    old = finished.read(experiment(tmp_path / "old", [0.5], has_classes=False))
    new = finished.read(experiment(tmp_path / "new", [0.6]))
    classes = comparison.compare([old, new])["models"][0]["classes"][CLASSES[0]]
    assert classes[0] is None
    assert classes[1]["over_first"] is None


def test_page_of_a_comparison_is_whole_and_escapes_names(tmp_path: Path) -> None:
    folders = [experiment(tmp_path / name, [0.5, 0.7]) for name in ("one", "t&wo")]
    report_run.report(folders, tmp_path / "out")
    page = ElementTree.parse(tmp_path / "out/report.html")
    shown = " ".join(page.getroot().itertext())
    assert "t&wo less one" in shown
    assert "<b>" in shown
    assert "0.600 [−0.671, 1.871]" in shown
    assert "+0.000 [+0.000, +0.000]" in shown


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    found = [finished.read(experiment(tmp_path / place / "OUT", [0.5])) for place in "ab"]
    assert [one["name"] for one in comparison.compare(found)["experiments"]] == ["OUT (1)", "OUT (2)"]


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"is_validation": True}, "split"),
        ({"labels": np.array([0, 1, 1, 1])}, "numbers of cases"),
        ({"models": (("pooled", "pooled", None),)}, "no model in common"),
    ],
)
def test_experiments_of_other_cases_are_not_compared(tmp_path: Path, other: dict[str, Any], why: str) -> None:
    found = [
        finished.read(experiment(tmp_path / "a", [0.5])),
        finished.read(experiment(tmp_path / "b", [0.5], **other)),
    ]
    with pytest.raises(UserError, match="cannot be compared") as error:
        comparison.compare(found)
    assert why in error.value.why


@pytest.mark.parametrize("missing", ["report.json", "seed-1/federated/scores.json"])
def test_folder_that_is_not_finished_is_refused_by_the_file_that_is_missing(tmp_path: Path, missing: str) -> None:
    folder = experiment(tmp_path / "one", [0.5])
    (folder / missing).unlink()
    with pytest.raises(UserError, match="no finished experiment") as error:
        finished.read(folder)
    assert missing in error.value.why


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"plan": 1, "seeds": 2}'])
def test_folder_with_another_report_is_refused(tmp_path: Path, content: str) -> None:
    folder = experiment(tmp_path / "one", [0.5])
    (folder / "report.json").write_text(content)
    with pytest.raises(UserError):
        finished.read(folder)


def test_report_is_not_written_over_an_experiments_own(tmp_path: Path) -> None:
    folder = experiment(tmp_path / "one", [0.5])
    before = (folder / "report.json").read_text()
    with pytest.raises(UserError, match="cannot take the report"):
        report_run.report([folder], folder)
    assert (folder / "report.json").read_text() == before


def test_command_compares_and_says_where_the_report_is(tmp_path: Path) -> None:
    folders = [experiment(tmp_path / name, [0.5, 0.7]) for name in ("one", "two")]
    done = command("ynet_lab", "report", *folders, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "out/report.html") in done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "out/report.json").read_text())
    refused = command("ynet_lab", "report", tmp_path / "no", "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert "no finished experiment" in refused.stderr


def test_table_for_the_terminal_has_a_line_for_each_model_and_experiment(tmp_path: Path) -> None:
    found = [finished.read(experiment(tmp_path / name, [0.5, 0.7])) for name in ("one", "two")]
    assert comparison_page.terminal_table(comparison.compare(found)).row_count == 4
