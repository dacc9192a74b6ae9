"""The page and the terminal's table of a comparison of experiments."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.table

from ynet.runtime import terminal
from ynet_lab.comparison import CROSS, METRICS, WITHIN
from ynet_lab.html_page import MISSING, HtmlTable, TableRow, figure, template

TITLES = {
    "macro_map10": "macro mAP@10",
    "case_hit1": "case@1",
    "case_hit10": "case@10",
    "likeness": "likeness",
    "median_tie10": "median tie",
    "dice": "Dice",
    "balanced_accuracy": "balanced accuracy",
}
PARTS = {WITHIN: "its own gallery", CROSS: "the other sites' galleries"}


def render(report: Mapping[str, Any]) -> str:
    """Return one HTML page that needs no other file. All its text is escaped."""
    return template("comparison_page.html").render(
        report=report,
        names=[one["name"] for one in report["experiments"]],
        models=[(model["name"], _tables(model, report)) for model in report["models"]],
    )


def terminal_table(report: Mapping[str, Any]) -> rich.table.Table:
    """Return a table with a line for each model and experiment."""
    names = [one["name"] for one in report["experiments"]]
    lines = [
        (model["name"], name, *(text(model["overall"][metric][place]) for metric in METRICS))
        for model in report["models"]
        for place, name in enumerate(names)
    ]
    head = ("model", "experiment", *(TITLES[metric] for metric in METRICS))
    return terminal.rows("means over the seeds, with 95 % intervals", head, lines)


def _tables(model: Mapping[str, Any], report: Mapping[str, Any]) -> list[HtmlTable]:
    overall = [TableRow(TITLES[metric], _cells(row)) for metric, row in model["overall"].items()]
    classes = [TableRow(label, _cells(row)) for label, row in model["classes"].items()]
    sites = [
        (f"against {where}", [TableRow(site, _cells(parts[part])) for site, parts in model["sites"].items()])
        for part, where in PARTS.items()
    ]
    head = _head(report)
    return [
        HtmlTable("All sites' queries against all sites' galleries", "metric", head, [("", overall)]),
        HtmlTable("mAP@10 of each class's queries", "class", head, [("", classes)]),
        HtmlTable("Macro mAP@10 of each site's queries", "site", head, sites),
    ]


def _head(report: Mapping[str, Any]) -> list[str]:
    first, *others = (one["name"] for one in report["experiments"])
    return [first, *(title for name in others for title in (name, f"{name} less {first}"))]


def _cells(row: Sequence[Mapping[str, Any] | None]) -> list[str]:
    first, *others = row
    return [text(first), *(cell for one in others for cell in (text(one), text((one or {}).get("over_first"), "+")))]


def text(estimate: Mapping[str, Any] | None, sign: str = "") -> str:
    """Return an estimate with its interval, or a dash."""
    if estimate is None:
        return MISSING
    mean, low, high = (figure(estimate[key], sign=sign) for key in ("mean", "low", "high"))
    return mean if estimate["low"] is None else f"{mean} [{low}, {high}]"
