"""The page of a report: one HTML file with tables, charts and example queries."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ynet.scores import COARSE, PER_CLASS, PER_REGION, TOTALS
from ynet_lab.html_page import MISSING, HtmlTable, TableRow, figure, mean_std, number_of, template

WIDTH, HEIGHT = 640, 380  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 68, 624, 14, 326  # the edges of its plot
COLOURS = 7  # the classes c0 to c6 of the template: Okabe and Ito's palette
DASHES = ("", "9 4", "2 3", "10 3 2 3", "16 5")
MOST_DOTS = 30  # a longer line is drawn without a dot at each value
BLUES = ((247, 251, 255), (198, 219, 239), (107, 174, 214), (33, 113, 181), (8, 48, 107))  # ColorBrewer, 0 to 1


class ExampleHit(NamedTuple):
    """One of the nearest cases to an example query."""

    site: str
    label: str
    distance: int  # bits
    is_relevant: bool
    picture: bytes  # PNG


class Example(NamedTuple):
    """A query and its nearest cases, nearest first."""

    site: str
    label: str
    picture: bytes  # PNG: the image with the outlines of its true and its predicted mask
    hits: Sequence[ExampleHit]


class Column(NamedTuple):
    """A column of a table: a metric and its title."""

    metric: str
    title: str
    digits: int = 3


class Cell(NamedTuple):
    """A cell of a heat table. The colours are empty where there is no value."""

    text: str
    background: str = ""
    colour: str = ""


class Heat(NamedTuple):
    """A model's site-by-site matrix; a row asks, a column answers."""

    model: str
    rows: list[tuple[str, list[Cell]]]


class Point(NamedTuple):
    """A value of a line and its standard deviation over the seeds."""

    x: float
    y: float
    std: float


class Tick(NamedTuple):
    """A mark on an axis."""

    at: float
    text: str


class ChartLine(NamedTuple):
    """One model in a chart; points as SVG writes them."""

    name: str
    colour: int
    dash: str
    points: str
    band: str  # the outline of mean ± std
    dots: list[tuple[float, float]]


class Chart(NamedTuple):
    """What the template draws as SVG."""

    title: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[ChartLine]


RETRIEVAL = (
    Column("macro_map10", "macro mAP@10"),
    Column("map10", "mAP@10"),
    Column("macro_hr10", "mHR@10"),
    Column("macro_rr10", "mRR@10"),
)
OF_QUERIES = (Column("dice", "Dice"), Column("iou", "IoU"), Column("balanced_accuracy", "balanced accuracy"))
RANKED, MASKS = Column("ranked", "queries ranked", 0), Column("masks", "queries with a mask", 0)
DISTINCT = Column("distinct_codes", "distinct codes", 0)
SECONDS = Column("seconds", "training time, s", 0)
COUNTS = frozenset({*PER_CLASS, *COARSE, *TOTALS})
FLOORS = {"random": "floor: random ranking", "majority": "floor: constant majority"}
HANDMADE = {
    "hog": "floor: gradients and intensities, whole image",
    "hog_mask": "floor: gradients and intensities, under the true mask",
}
FOUR = (
    Column("macro_map10", "class: macro mAP@10"),
    Column("case_hit1", "case@1"),
    Column("case_hit10", "case@10"),
    Column("likeness", "likeness"),
    Column("median_tie10", "median tie", 1),
    Column("distinct_share", "distinct codes, share"),
    Column("dice", "Dice"),
)
"""The figures that say what a code describes, and Dice."""


def render(report: Mapping[str, Any], examples: Sequence[Example]) -> str:
    """Render a report of format 2 as a self-contained HTML page. All text is escaped."""
    seeds = len(report["seeds"])
    return template("report_page.html").render(
        report=report,
        plan=report["plan"],
        plan_json=json.dumps(report["plan"], indent=2, sort_keys=True, ensure_ascii=False),
        averaged=f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed",
        four=_four(report),
        likeness=_likeness(report["models"]),
        headline=_headline(report),
        over_pooled=_over_pooled(report["comparison"]),
        over_alone=_over_alone(report["comparison"]),
        within=_site_table(report, "within", (*RETRIEVAL, RANKED, *OF_QUERIES, MASKS, DISTINCT)),
        cross=_site_table(report, "cross", (*RETRIEVAL, RANKED, DISTINCT)),
        heats=[_heat(model, report) for model in report["models"]],
        scale=[_cell(step / 10, 1) for step in range(11)],
        curves=_curves(report["models"]),
        radii=_radii(report["models"]),
        sites=_sites(report),
        everything=_everything(report["models"]),
        examples=examples,
        box=(WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM),
    )


def _cells(metrics: Mapping[str, Any], columns: Iterable[Column]) -> list[str]:
    return [figure(metrics.get(column.metric), column.digits) for column in columns]


def _headline(report: Mapping[str, Any]) -> HtmlTable:
    columns = (*RETRIEVAL, RANKED, *OF_QUERIES, MASKS, DISTINCT, SECONDS)
    models = [
        TableRow(model["name"], _cells({**model["overall"], "seconds": model.get("seconds")}, columns))
        for model in report["models"]
    ]
    floors = [TableRow(FLOORS.get(name, name), _cells(metrics, columns)) for name, metrics in report["floors"].items()]
    caption = "All sites' queries against all sites' galleries"
    return HtmlTable(caption, "model", [column.title for column in columns], [("", models + floors)])


def _four(report: Mapping[str, Any]) -> HtmlTable:
    """Tabulate the four figures of each model, of the feature that its code is made from, and of the floors."""
    rows = []
    for model in report["models"]:
        found, limits = model["overall"], model.get("intervals") or {}
        cells = [_with_interval(found.get(column.metric), limits.get(column.metric), column) for column in FOUR]
        rows.append(TableRow(model["name"], cells))
        if model.get("ceiling"):
            rows.append(TableRow(f"{model['name']}: its float feature", _cells(model["ceiling"], FOUR)))
    titles = FLOORS | HANDMADE
    rows += [TableRow(titles.get(name, name), _cells(found, FOUR)) for name, found in report["floors"].items()]
    caption = "All sites' queries against all sites' galleries, with 95 % intervals by patients"
    return HtmlTable(caption, "ranked by", [column.title for column in FOUR], [("", rows)])


def _with_interval(value: object, limits: Mapping[str, Any] | None, column: Column) -> str:
    """Format a mean over the seeds, and the means of its interval's limits."""
    mean, (low, high) = mean_std(value)[0], (mean_std((limits or {}).get(side))[0] for side in ("low", "high"))
    text, *shown = (figure(one, column.digits) for one in (mean, low, high))
    return text if low is None or high is None else f"{text} [{', '.join(shown)}]"


def _likeness(models: Sequence[Mapping[str, Any]]) -> HtmlTable | None:
    """Tabulate likeness by attribute."""
    found = [model.get("likeness_by_attribute") or {} for model in models]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [TableRow(name, [figure(one.get(name)) for one in found]) for name in names]
    caption = "Likeness of the first 10 hits of a query's class, over random cases of the class (1: no better)"
    return HtmlTable(caption, "attribute", [model["name"] for model in models], [("", rows)]) if rows else None


def _over_pooled(comparison: Mapping[str, Any]) -> HtmlTable | None:
    ratios = comparison.get("federated_over_pooled")
    if not ratios:
        return None
    titles = {column.metric: column.title for column in (*FOUR, *RETRIEVAL, *OF_QUERIES)}
    rows = [TableRow(titles.get(metric, metric), [figure(ratio)]) for metric, ratio in ratios.items()]
    return HtmlTable("Federated over pooled, the ratio seed by seed", "metric", ["federated / pooled"], [("", rows)])


def _over_alone(comparison: Mapping[str, Any]) -> HtmlTable | None:
    """Tabulate the cross-site queries of each site with the federated model and with the site's own."""
    rows = [
        TableRow(
            one["site"], [figure(one.get("alone")), figure(one.get("federated")), figure(one.get("margin"), sign="+")]
        )
        for one in comparison.get("federated_over_alone") or ()
    ]
    caption = "Federated against each site alone: macro mAP@10 of the site's queries against the other sites' galleries"
    return HtmlTable(caption, "site", ["alone", "federated", "margin"], [("", rows)]) if rows else None


def _site_table(report: Mapping[str, Any], part: str, columns: Sequence[Column]) -> HtmlTable:
    """Tabulate each site's queries under every model, and under the floors of the same queries."""
    groups = []
    for site in report["sites"]:
        found = [(model["name"], _at_site(model, site["site"], part)) for model in report["models"]]
        rows = [TableRow(name, _cells(metrics, columns)) for name, metrics in found]
        any_model = next((metrics for _, metrics in found if metrics), {})
        for floor, title in FLOORS.items():
            known = {metric: any_model.get(f"{metric}_{floor}") for metric in ("macro_map10", "map10")}
            rows.append(TableRow(title, _cells(known, columns)))
        groups.append((f"{site['site']}, {site['queries']} queries", rows))
    where = {"within": "its own gallery", "cross": "the other sites' galleries only"}[part]
    return HtmlTable(
        f"{part.capitalize()}: each site's queries against {where}",
        "model",
        [column.title for column in columns],
        groups,
    )


def _at_site(model: Mapping[str, Any], site: str, part: str) -> Mapping[str, Any]:
    return next((row.get(part) or {} for row in model["sites"] if row["site"] == site), {})


def _everything(models: Sequence[Mapping[str, Any]]) -> HtmlTable:
    """Tabulate all figures of the report on all sites' queries."""
    overall = [_flat(model["overall"]) for model in models]
    rows = [
        TableRow(
            metric, [figure(found.get(metric), 0 if metric.partition(":")[0] in COUNTS else 3) for found in overall]
        )
        for metric in dict.fromkeys(metric for found in overall for metric in found)
    ]
    caption = "All sites' queries against all sites' galleries, under the names of report.json"
    return HtmlTable(caption, "metric", [model["name"] for model in models], [("", rows)])


def _flat(overall: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten figures by name; counts by class and Dice by region get one entry each."""
    found: dict[str, Any] = {}
    for metric, value in overall.items():
        if metric in (*PER_CLASS, PER_REGION):
            found |= {f"{metric}: {name}": count for name, count in (value or {}).items()}
        else:
            found[metric] = value
    return found


def _sites(report: Mapping[str, Any]) -> HtmlTable:
    sites = report["sites"]
    classes = list(dict.fromkeys([*report["plan"]["classes"], *(name for site in sites for name in site["classes"])]))
    by_class = ("classes", "queries_per_class")
    counts = [
        [site["gallery"], site["queries"], *(site.get(part, {}).get(name, 0) for part in by_class for name in classes)]
        for site in sites
    ]
    rows = [TableRow(site["site"], [str(n) for n in row]) for site, row in zip(sites, counts, strict=True)]
    total = TableRow("all sites", [str(sum(column)) for column in zip(*counts, strict=True)])
    head = ["gallery", "queries", *(f"{part}: {name}" for part in ("gallery", "queries") for name in classes)]
    return HtmlTable("Cases at each site", "site", head, [("", [*rows, total])])


def _heat(model: Mapping[str, Any], report: Mapping[str, Any]) -> Heat:
    names = [site["site"] for site in report["sites"]]
    rows = [(name, [_cell(value) for value in row]) for name, row in zip(names, model["matrix"], strict=False)]
    return Heat(model["name"], rows)


def _cell(value: object, digits: int = 2) -> Cell:
    number = number_of(value)
    if number is None:
        return Cell(MISSING)
    level = min(max(number, 0.0), 1.0) * (len(BLUES) - 1)
    low = min(int(level), len(BLUES) - 2)
    pairs = zip(BLUES[low], BLUES[low + 1], strict=True)
    red, green, blue = (round(a + (b - a) * (level - low)) for a, b in pairs)
    return Cell(figure(number, digits), f"#{red:02x}{green:02x}{blue:02x}", _readable_on(red, green, blue))


def _readable_on(red: int, green: int, blue: int) -> str:
    """Return black or white, whichever has the higher contrast (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red / 255, green / 255, blue / 255)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#fff"


def _curves(models: Sequence[Mapping[str, Any]]) -> list[Chart]:
    titles = {"macro_map10": "Macro mAP@10", "case_hit10": "Case@10", "dice": "Dice", "loss": "Training loss"}
    span = _span([row["round"] for model in models for row in model.get("curve") or ()])
    charts = []
    for metric, title in titles.items():
        series = {model["name"]: _points(model.get("curve") or (), "round", metric) for model in models}
        charts.append(_chart(f"{title} over rounds", ("round", title), span, series, is_share=metric != "loss"))
    return charts


def _radii(models: Sequence[Mapping[str, Any]]) -> list[Chart]:
    span = _span([row["radius"] for model in models for row in model.get("radius") or ()])
    charts = []
    for metric in ("precision", "recall"):
        series = {model["name"]: _points(model.get("radius") or (), "radius", metric) for model in models}
        title = f"{metric.capitalize()} over Hamming radius"
        charts.append(_chart(title, ("Hamming radius, bits", metric.capitalize()), span, series, is_share=True))
    return charts


def _points(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> list[Point]:
    """Return the existing values."""
    found = [(float(row[x]), *mean_std(row.get(y))) for row in rows]
    return [Point(at, mean, std or 0.0) for at, mean, std in found if mean is not None]


def _chart(
    title: str, labels: tuple[str, str], span: tuple[float, float], series: Mapping[str, list[Point]], *, is_share: bool
) -> Chart:
    """Draw lines over a span of x; the y axis of a share runs from 0 to 1, any other from 0 to the highest value."""
    points = [point for line in series.values() for point in line]
    x_low, x_high = span
    values = [point.y + side * point.std for point in points for side in (-1, 1)]
    y_low, y_high = (0.0, 1.0) if is_share else _span([0.0, *(values or [1.0])])

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - x_low) / (x_high - x_low), (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        return round(LEFT + across * (RIGHT - LEFT), 1), round(BOTTOM - up * (BOTTOM - TOP), 1)

    lines = []
    for number, (name, line) in enumerate(series.items()):
        middle = [place(point.x, point.y) for point in line]
        edge = [place(p.x, p.y + p.std) for p in line] + [place(p.x, p.y - p.std) for p in reversed(line)]
        band = _joined(edge) if any(point.std for point in line) else ""
        dots = middle if len(middle) <= MOST_DOTS else []
        lines.append(ChartLine(name, number % COLOURS, DASHES[number % len(DASHES)], _joined(middle), band, dots))
    x_ticks = [Tick(place(x, 0)[0], f"{x:.6g}") for x in _ticks(x_low, x_high, is_whole=True)]
    y_ticks = [Tick(place(x_low, y)[1], f"{y:.6g}".replace("-", "−")) for y in _ticks(y_low, y_high, is_whole=False)]
    return Chart(title, *labels, x_ticks, y_ticks, lines)


def _joined(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Return the lowest and the highest value, with a positive distance."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float, *, is_whole: bool) -> list[float]:
    """Return at most about seven round numbers from low to high."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    step = max(step, 1.0) if is_whole else step
    return [n * step for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
