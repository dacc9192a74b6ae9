"""The page of a report: whole in one file, complete, and safe to open."""

import base64
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from ynet_lab import report_page
from ynet_lab.report_page import Example, ExampleHit

CLASSES = ("ring", "smooth", "spiculated")
SITES = ("alder", "birch", "cedar")
MODELS = ("federated", "pooled", *(f"alone: {site}" for site in SITES))
METRICS = ("macro_map10", "map10", "macro_map10_over_k", "macro_hr10", "macro_rr10", "dice", "iou", "balanced_accuracy")


def spread(mean: float, seeds: int) -> dict[str, Any]:
    values = [mean + 0.01 * (seed - (seeds - 1) / 2) for seed in range(seeds)]
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / seeds)
    return {"mean": mean, "std": std, "values": values}


def metrics(mean: float, seeds: int) -> dict[str, Any]:
    floors = {"macro_map10_random": 0.34, "map10_random": 0.35, "macro_map10_majority": 0.33, "map10_majority": 0.41}
    counts = {"distinct_codes": 57, "queries": 120, "gallery": 360, "ranked": 118, "masks": 60, "a_later_metric": 0.5}
    shares = {name: mean - 0.02 * place for place, name in enumerate(METRICS)}
    found = {name: spread(value, seeds) for name, value in (shares | floors | counts).items()}
    return {**found, "queries_per_class": {name: spread(40, seeds) for name in CLASSES}}


def model(name: str, mean: float, seeds: int, rounds: int) -> dict[str, Any]:
    kind, _, site = name.partition(": ")
    return {
        "name": name,
        "kind": kind,
        "site": site or None,
        "overall": metrics(mean, seeds) | {"case_hit10": spread(0.4, seeds), "median_tie10": spread(2, seeds)},
        "intervals": {"case_hit10": {"low": spread(0.3, seeds), "high": spread(0.5, seeds)}},
        "likeness_by_attribute": {"age": spread(1.25, seeds), "sex": None},
        "ceiling": {"macro_map10": spread(0.7, seeds), "case_hit10": spread(0.9, seeds)},
        "sites": [
            {"site": one, "within": metrics(mean + 0.05, seeds), "cross": metrics(mean - 0.05, seeds)} for one in SITES
        ],
        "matrix": [[mean + 0.2 * (row == column) - 0.1 * column for column in range(3)] for row in range(3)],
        "curve": [
            {
                "round": number,
                "loss": spread(3 * math.exp(-number / 4) + 1 - mean, seeds),
                "macro_map10": spread(mean * (1 - math.exp(-number / 3)), seeds) if number % 2 == 0 else None,
                "case_hit10": spread(0.4 * (1 - math.exp(-number / 3)), seeds) if number % 2 == 0 else None,
                "dice": spread(mean * (1 - math.exp(-number / 5)), seeds) if number % 2 == 0 else None,
            }
            for number in range(1, rounds + 1)
        ],
        "radius": [
            {"radius": bits, "precision": mean if bits > 2 else None, "recall": 1 / (1 + math.exp((25 - bits) / 4))}
            for bits in range(65)
        ],
        "seconds": spread(200 * mean, seeds),
    }


def synthetic(seeds: int = 5, rounds: int = 12) -> dict[str, Any]:
    means = dict(zip(MODELS, (0.78, 0.81, 0.55, 0.6, 0.48), strict=True))
    return {
        "format": 2,
        "ynet": "0.1.0",
        "plan": {"name": "demo", "classes": list(CLASSES), "network": {"code_bits": 64}, "training": {"seed": 1}},
        "plan_id": "0123456789abcdef" * 4,
        "split": "test",
        "seeds": list(range(1, seeds + 1)),
        "sites": [
            {
                "site": site,
                "gallery": 120,
                "queries": 40,
                **{key: dict(zip(CLASSES, (39, 1, 0), strict=True)) for key in ("classes", "queries_per_class")},
            }
            for site in SITES
        ],
        "floors": {
            "random": {"macro_map10": 0.341, "map10": 0.35, "macro_hr10": 0.333, "macro_rr10": 0.48},
            "majority": {"macro_map10": 0.333, "map10": 0.41, "macro_hr10": 0.333, "macro_rr10": 0.333},
        },
        "models": [model(name, mean, seeds, rounds) for name, mean in means.items()],
        "comparison": {
            "federated_over_pooled": {"macro_map10": spread(0.963, seeds), "dice": spread(0.987, seeds)},
            "federated_over_alone": [
                {"site": "alder", **{key: spread(value, seeds) for key, value in gain.items()}}
                for gain in ({"alone": 0.51, "federated": 0.73, "margin": 0.22},)
            ],
        },
    }


def png(shade: int, size: int = 16) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0)
    rows = b"".join(bytes([0, *[shade] * size]) for _ in range(size))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def example() -> Example:
    hits = [
        ExampleHit(
            SITES[rank % 3], CLASSES[rank % 2], 3 * rank, rank % 2 == 0, png(20 * rank)
        )  # every second one relevant
        for rank in range(10)
    ]
    return Example("alder", "ring", png(200), hits)


def parsed(report: dict[str, Any], examples: tuple[Example, ...] = ()) -> Element:
    """The page as XML: what does not close, or is not escaped, is an error here."""
    return ElementTree.fromstring(report_page.render(report, examples))


def text(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def section(page: Element, name: str) -> Element:
    (found,) = page.findall(f".//section[@id='{name}']")
    return found


def charts(page: Element) -> Iterator[Element]:
    return (svg for svg in page.iter("svg") if svg.get("role") == "img")


def rows(table: Element) -> dict[str, list[str]]:
    return {text(row[0]): [text(cell) for cell in row[1:]] for row in table.findall("tbody/tr")}


def test_a_reader_needs_no_other_file_and_no_script() -> None:
    page = report_page.render(synthetic(), [example()])
    assert not re.search(r"https?://|@import|url\(|<script|\son\w+=", page)
    root = ElementTree.fromstring(page)
    assert not {"link", "script", "iframe", "object", "embed", "base", "form"} & {one.tag for one in root.iter()}
    for one in root.iter():
        assert one.get("src", "data:").startswith("data:")
        assert one.get("href", "#").startswith("#")


def test_a_reader_sees_every_model_and_every_site_in_every_section_about_them() -> None:
    page = parsed(synthetic())
    for name in ("scores", "by-site", "matrix", "rounds", "radius"):
        assert all(one in text(section(page, name)) for one in MODELS), name
    for name in ("by-site", "matrix", "sites"):
        assert all(one in text(section(page, name)) for one in SITES), name


def test_the_headline_shows_mean_and_std_and_the_floors_as_rows_of_their_own() -> None:
    table = rows(section(parsed(synthetic()), "scores").findall(".//table")[0])
    assert list(table) == [*MODELS, "floor: random ranking", "floor: constant majority"]
    assert table["federated"][:2] == ["0.780 ± 0.014", "0.760 ± 0.014"]
    assert table["federated"][-2:] == ["57 ± 0", "156 ± 0"]
    assert table["floor: random ranking"] == ["0.341", "0.350", "0.333", "0.480", *["–"] * 7]


def test_four_figures_have_intervals_a_ceiling_and_floors() -> None:
    report = synthetic()
    report["floors"]["hog_mask"] = {"macro_map10": 0.5, "case_hit10": 0.2, "likeness": 1.1, "median_tie10": 1.0}
    del report["models"][1]["intervals"], report["models"][1]["ceiling"]  # of an older version
    four, likeness = section(parsed(report), "figures").findall(".//table")
    found = rows(four)
    assert found["federated"][:5] == ["0.780", "–", "0.400 [0.300, 0.500]", "–", "2.0"]
    assert found["federated: its float feature"][2] == "0.900 ± 0.014"
    assert found["pooled"][2] == "0.400"
    assert "pooled: its float feature" not in found
    assert found["floor: gradients and intensities, under the true mask"][:5] == ["0.500", "–", "0.200", "1.100", "1.0"]
    assert rows(likeness) == {"age": ["1.250 ± 0.014"] * len(MODELS), "sex": ["–"] * len(MODELS)}


def test_the_best_value_stands_out_no_more_than_the_others() -> None:
    table = section(parsed(synthetic()), "scores").findall(".//table")[0]
    assert all(len(cell) == 0 and not cell.attrib for cell in table.iter("td"))


def test_a_metric_that_this_page_does_not_know_is_shown_under_its_own_name() -> None:
    table = rows(section(parsed(synthetic()), "scores").findall(".//details//table")[0])
    assert table["a_later_metric"] == ["0.500 ± 0.014"] * len(MODELS)
    assert table["queries"] == ["120 ± 0"] * len(MODELS)
    assert table["queries_per_class: ring"] == ["40 ± 0"] * len(MODELS)


def test_dice_of_each_region_has_its_own_row() -> None:
    report = synthetic()
    for model in report["models"]:
        model["overall"]["dice_per_region"] = {"disc": spread(0.9, 5), "cup": None}
    table = rows(section(parsed(report), "scores").findall(".//details//table")[0])
    assert table["dice_per_region: disc"][0].startswith("0.900")
    assert set(table["dice_per_region: cup"]) == {"–"}


def test_counts_stand_beside_the_scores_and_a_score_of_nothing_is_a_dash() -> None:
    report = synthetic()
    report["models"][0]["overall"] |= {"dice": None, "masks": spread(0, 5)}
    scores, sites = (section(parsed(report), name).findall(".//table")[0] for name in ("scores", "sites"))
    head = [text(cell) for cell in scores.findall("thead/tr/th")]
    row = dict(zip(head[1:], rows(scores)["federated"], strict=True))
    assert (row["Dice"], row["queries with a mask"], row["queries ranked"]) == ("–", "0 ± 0", "118 ± 0")
    assert rows(sites)["alder"] == ["120", "40", "39", "1", "0", "39", "1", "0"]


def test_seed_without_a_value_gives_no_std() -> None:
    assert report_page.figure({"mean": 0.5, "std": 0.0, "values": [0.5, None]}) == "0.500"


def test_the_floors_of_a_sites_queries_stand_under_its_models() -> None:
    within, cross = section(parsed(synthetic()), "by-site").findall(".//table")
    assert "its own gallery" in text(within[0])
    assert "the other sites' galleries only" in text(cross[0])
    for table in (within, cross):
        assert [len(body) for body in table.findall("tbody")] == [1 + len(MODELS) + 2] * len(SITES)
        assert rows(table)["floor: constant majority"][:3] == ["0.330 ± 0.014", "0.410 ± 0.014", "–"]


def test_a_margin_shows_its_sign() -> None:
    report = synthetic(seeds=1)
    report["comparison"]["federated_over_alone"].append(
        {"site": "birch", "alone": spread(0.7, 1), "federated": spread(0.6, 1), "margin": spread(-0.1, 1)}
    )
    _, table = section(parsed(report), "comparison").findall(".//table")
    assert rows(table) == {"alder": ["0.510", "0.730", "+0.220"], "birch": ["0.700", "0.600", "−0.100"]}


def test_a_report_of_one_seed_has_no_std_anywhere() -> None:
    assert "±" not in report_page.render(synthetic(seeds=1), [example()])
    assert not parsed(synthetic(seeds=1)).findall(".//polygon")
    assert parsed(synthetic(seeds=2)).findall(".//polygon")


def test_without_references_the_page_says_that_there_is_nothing_to_compare_with() -> None:
    report = synthetic()
    report["models"] = report["models"][:1]
    report["comparison"] = {"federated_over_pooled": None, "federated_over_alone": []}
    compared = section(parsed(report), "comparison")
    assert not compared.findall(".//table")
    assert text(compared).count("the report has no") == 2


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", "\"><img src=x onerror='a()'>", "</title></pre>&amp;", "{{ 7 * 7 }}"]
)
def test_text_of_the_report_cannot_break_out_of_its_place(evil: str) -> None:
    safe = parsed(synthetic(), (example(),))
    report = json.loads(
        json.dumps(synthetic()).replace('"alder"', json.dumps(evil)).replace('"ring"', json.dumps(evil))
    )
    report["plan"]["name"] = report["models"][0]["name"] = report["split"] = report["ynet"] = evil
    report["models"][0]["overall"][evil] = 0.5
    hit = ExampleHit(evil, evil, 1, True, png(0))
    page = parsed(report, (example()._replace(site=evil, label=evil, hits=[hit] * 10),))
    assert [one.text for one in page.iter("h1")] == [evil]
    assert next(one.text for one in page.iter("title")) == f"{evil}: report"
    extra_row = ["tr", "th", *["td"] * len(MODELS)]
    assert sorted(one.tag for one in page.iter()) == sorted([*(one.tag for one in safe.iter()), *extra_row])


def test_every_chart_has_a_title_axes_and_a_line_and_a_legend_entry_for_each_model() -> None:
    page = parsed(synthetic())
    assert [text(chart[0]) for chart in charts(page)] == [
        "Macro mAP@10 over rounds",
        "Case@10 over rounds",
        "Dice over rounds",
        "Training loss over rounds",
        "Precision over Hamming radius",
        "Recall over Hamming radius",
    ]
    for chart in charts(page):
        assert len(chart.findall("polyline")) == len(MODELS)
        words = [text(one) for one in chart.findall("text")]
        assert len([one for one in words if re.fullmatch(r"[0-9.]+", one)]) >= 8
        assert len([one for one in words if re.match(r"[A-Za-z]", one)]) == 2
    for legend in page.findall(".//ul[@class='legend']"):
        assert [text(one) for one in legend] == list(MODELS)


def test_lines_differ_by_dash_as_well_as_by_colour() -> None:
    chart = next(charts(parsed(synthetic())))
    assert len({line.get("stroke-dasharray") for line in chart.findall("polyline")}) == len(MODELS)
    assert len({line.get("class") for line in chart.findall("polyline")}) == len(MODELS)


def test_all_that_is_drawn_lies_inside_its_chart() -> None:
    for chart in charts(parsed(synthetic())):
        _, _, width, height = map(float, str(chart.get("viewBox")).split())
        for line in [*chart.findall("polyline"), *chart.findall("polygon")]:
            for x, y in (map(float, pair.split(",")) for pair in str(line.get("points")).split()):
                assert 0 <= x <= width
                assert 0 <= y <= height


def test_a_higher_value_is_drawn_higher() -> None:
    recall = [*charts(parsed(synthetic()))][-1]
    heights = [float(pair.split(",")[1]) for pair in str(recall.findall("polyline")[0].get("points")).split()]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] > heights[-1]


def test_an_axis_begins_where_the_report_does_though_the_first_values_are_missing() -> None:
    report = synthetic()
    assert report["models"][0]["radius"][0]["precision"] is None
    precision, recall = [*charts(parsed(report))][4:]
    for chart in (precision, recall):
        assert "0" in [text(one) for one in chart.findall("text") if one.get("text-anchor") == "middle"]


def test_a_run_of_one_round_is_drawn_as_a_dot() -> None:
    report = synthetic(seeds=1, rounds=1)
    page = parsed(report)
    loss = [*charts(page)][3]
    assert len(loss.findall("circle")) == len(MODELS)
    assert "1" in [text(one) for one in loss.findall("text")]


def test_what_is_missing_null_or_not_a_number_is_a_dash_and_its_chart_still_draws() -> None:
    report = synthetic()
    for one in report["models"]:
        one["overall"] = {"macro_map10": spread(math.nan, 5), "dice": None}
        one["curve"] = [{"round": 1, "loss": None, "macro_map10": None, "dice": None}, {"round": 2}]
        one["radius"] = [{"radius": 0, "precision": None, "recall": math.inf}]
        one["matrix"] = [[None] * 3 for _ in SITES]
        one["sites"][0]["cross"] = None
        one["sites"].pop()
        one["seconds"] = None
    report["floors"] = {"random": {}, "majority": {}}
    page = parsed(report)
    headline = section(page, "scores").findall(".//table")[0]
    assert {cell for row in rows(headline).values() for cell in row} == {"–"}
    assert len([*charts(page)]) == 6
    assert all("no values in the report" in text(chart) for chart in charts(page))
    assert "nan" not in text(page)
    assert "inf" not in re.findall(r"\w+", text(page))


def test_a_report_of_one_model_one_site_and_no_curve_is_drawn() -> None:
    report = synthetic()
    report["models"], report["sites"] = report["models"][:1], report["sites"][:1]
    report["models"][0] |= {"curve": [], "radius": [], "matrix": [[0.5]]}
    assert len([*charts(parsed(report))]) == 6


def test_a_value_on_its_colour_can_be_read() -> None:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        shares = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    report = synthetic()
    report["models"][0]["matrix"] = [[step / 100 + 0.1 * column for column in range(3)] for step in range(0, 90, 30)]
    styles = [str(cell.get("style")) for cell in section(parsed(report), "matrix").iter("td")]
    assert len(styles) > 40
    for style in styles:
        dark, light = sorted(luminance(colour) for colour in re.findall(r"#[0-9a-f]+", style))
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_hit_says_in_words_whether_it_is_relevant() -> None:
    page = parsed(synthetic(), (example(),))
    marks = [(item.get("class"), text(item)) for item in page.findall(".//article//li")]
    assert len(marks) == 10
    for rank, (kind, words) in enumerate(marks):
        assert (kind, words.split(" relevant")[0]) == (("relevant", "✓") if rank % 2 == 0 else ("other", "✗ not"))
        assert f"distance {3 * rank}" in words


def test_the_pictures_are_in_the_page_byte_for_byte_and_each_says_what_it_shows() -> None:
    page = parsed(synthetic(), (example(),))
    pictures = [
        base64.b64decode(str(one.get("src")).removeprefix("data:image/png;base64,")) for one in page.iter("img")
    ]
    assert pictures == [example().picture, *(hit.picture for hit in example().hits)]
    assert all(one.get("alt") for one in page.iter("img"))


def test_a_page_with_images_says_first_of_all_to_keep_it_as_they_are_kept() -> None:
    with_images, without = parsed(synthetic(), (example(),)), parsed(synthetic())
    assert text(with_images.findall("body/header")[0]).startswith("This page shows images of the data it was made from")
    assert "keep it as you keep them" not in text(without)


def test_the_plan_stands_in_the_page_in_full() -> None:
    report = synthetic()
    (shown,) = section(parsed(report), "plan").iter("pre")
    assert json.loads(text(shown)) == report["plan"]


def test_a_table_tells_a_screen_reader_what_it_is_and_which_cells_are_headings() -> None:
    for table in parsed(synthetic()).iter("table"):
        assert text(table.findall("caption")[0])
        assert all(one.get("scope") in ("col", "row", "rowgroup") for one in table.iter("th"))


def test_every_link_of_the_contents_leads_somewhere() -> None:
    page = parsed(synthetic())
    places = {one.get("id") for one in page.iter() if one.get("id")}
    assert {str(one.get("href"))[1:] for one in page.iter("a")} == places


def test_report_says_why_a_run_ended() -> None:
    report = synthetic(seeds=1)
    report["models"][0]["ends"] = [{"round": 132, "best": 60, "reason": "the scores are <flat>"}]
    page = report_page.render(report, [])
    assert "ended after round 132, with the weights of round 60. Why: the scores are &lt;flat&gt;." in page
