"""The figures of an experiment over its seeds: what rests on nothing is null, with the counts beside it."""

import json
from typing import Any

import numpy as np
import pytest
from smallest_plan import smallest_plan

from ynet_lab import report, report_page, tables
from ynet_lab.report import ModelResult, SiteLabels
from ynet_server.commands import run_tables

PLAN = smallest_plan()
CLASSES = PLAN.classes


def scored(macro_map10: float | None, dice: float | None, masks: int = 3) -> dict[str, Any]:
    shares = {"macro_map10": macro_map10, "macro_map10_random": 0.3, "dice": dice, "balanced_accuracy": macro_map10}
    by_class = dict.fromkeys(("queries_per_class", "gallery_per_class"), dict.fromkeys(CLASSES, 2))
    return {**shares, "ranked": 4, "masks": masks, "queries": 4, **by_class}


def result(name: str, seed: int, scores: dict[str, Any]) -> ModelResult:
    found = {
        "overall": scores,
        "within": {"A": scores},
        "cross": {"A": scores},
        "matrix": {"A": {"A": scores["macro_map10"]}},
        "radius": [{"radius": 0, "precision": None, "recall": None}],
        "curve": [{"round": 1, "loss": None, "macro_map10": scores["macro_map10"], "dice": scores["dice"]}],
        "seconds": 1.0,
    }
    return ModelResult(name, name.partition(":")[0], "A" if ":" in name else None, seed, found)


def composed(*results: ModelResult) -> dict[str, Any]:
    label = np.array([0, 0, 1, 1])
    floors: dict[str, dict[str, float | None]] = {"random": {"macro_map10": None}}
    made = report.compose(PLAN, 2, [SiteLabels("A", label, label[:3])], floors, results, is_validation=False)
    return dict(json.loads(json.dumps(made, allow_nan=False)))


def test_figure_is_over_the_seeds_that_have_a_value() -> None:
    made = composed(result("federated", 1, scored(0.5, None)), result("federated", 2, scored(None, None)))
    overall = made["models"][0]["overall"]
    assert overall["macro_map10"] == {"mean": 0.5, "std": 0.0, "values": [0.5, None]}
    assert overall["dice"] is None
    assert overall["queries_per_class"] == {name: {"mean": 2, "std": 0, "values": [2, 2]} for name in CLASSES}
    assert made["models"][0]["curve"][0]["dice"] is None
    assert made["models"][0]["matrix"] == [[0.5]]
    assert made["floors"]["random"]["macro_map10"] is None
    assert made["sites"][0]["queries_per_class"] == dict(zip(CLASSES, (2, 1), strict=True))


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [((0.6, None), (0.5, 0.5), [1.2, None]), ((0.6, 0.6), (0.0, 0.5), [None, 1.2]), ((0.6, 0.6), (None, 0.0), None)],
)
def test_ratio_and_margin_with_nothing_to_compare_are_none(
    above: tuple[float | None, ...], below: tuple[float | None, ...], expected: list[float | None] | None
) -> None:
    made = composed(
        *(result("federated", seed, scored(value, None)) for seed, value in enumerate(above, 1)),
        *(result("pooled", seed, scored(value, None)) for seed, value in enumerate(below, 1)),
        *(result("alone: A", seed, scored(value, None)) for seed, value in enumerate(below, 1)),
    )
    ratio = made["comparison"]["federated_over_pooled"]["macro_map10"]
    assert (ratio and [one and round(one, 6) for one in ratio["values"]]) == expected
    assert made["comparison"]["federated_over_pooled"]["dice"] is None
    (row,) = made["comparison"]["federated_over_alone"]
    pairs = zip(above, below, strict=True)
    margins = [None if a is None or b is None else pytest.approx(a - b) for a, b in pairs]
    assert (row["margin"] or {"values": [None, None]})["values"] == margins


def test_terminal_and_page_show_none_and_the_counts() -> None:
    made = composed(result("federated", 1, scored(None, None, masks=0)), result("federated", 2, scored(0.5, None, 0)))
    table = tables.model_table(made["models"])
    cells = [next(iter(column.cells)) for column in table.columns]
    by_class = ", ".join(f"{name} 2" for name in CLASSES)
    assert [str(cell) for cell in cells] == [
        *("federated", "0.500", "0.300 ± 0.000", "none", "none", "none", "none", "0.500"),
        *(by_class, "0"),
    ]
    assert "queries ranked" in report_page.render(made, [])


def test_round_without_a_loss_names_none() -> None:
    event = {"kind": "round", "time": 0.0, "round": 1, "rounds": 2, "seconds": 1.0, "sites": {"A": {"seconds": 1.0}}}
    assert run_tables.describe_event(event).endswith("round 1/2  1.0 s  A")
