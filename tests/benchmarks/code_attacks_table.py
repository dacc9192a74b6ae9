"""The tables of code_attacks.py, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CODES, CHOSEN = "codes", "chosen codes"
"""The places in the page, between comments of these names."""
HEAD = (
    "code",
    "pixels: R²",
    "class: balanced accuracy",
    "training case: AUC, learnt; class known",
    "one patient: AUC, any class; one class",
    "the patient's other image is first",
    "distinct codes",
    "check at adoption: code; random bits",
)


def write(found: Mapping[str, Any], doc: Path | None) -> None:
    """Print the tables, and put them into a page."""
    parts = {CODES: "\n".join(tables(found)), CHOSEN: "\n".join(chosen_table(found))}
    for name, text in parts.items():
        print(text)
        if doc:
            begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
            before, _, rest = doc.read_text("utf-8").partition(begin)
            doc.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", "utf-8")


def tables(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield one table for each set."""
    for name, one in found.items():
        counts, alike = one["counts"], one["rows"]["floors"]["pixel_r2_of_the_most_alike_other_image"]
        yield (
            f"`{name}`: {counts['members']} training images of {counts['member_patients']} patients,"
            f" {counts['others']} of {counts['other_patients']} others. The training image that is most like an image,"
            f" chosen by the image itself: R² {_short(alike)}."
            f" Chance that the patient's other image is first:"
            f" {one['rows']['feature']['linkage']['first_by_chance']:.4f}."
        )
        yield from ("", *_table(HEAD, [_cells(*row) for row in one["rows"].items() if "chosen" not in row[0]]), "")


def chosen_table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of the chosen codes, which the last set has."""
    head = (
        "width",
        "`distance_step`",
        "one case: codes asked, median and most",
        "determined",
        "all: determined in a day",
    )
    yield from _table(head, list(_chosen(list(found.values())[-1]["rows"])))


def _cells(row: str, of: Mapping[str, Any]) -> list[str]:
    if row == "floors":
        pixels = f"{_short(of['pixel_r2_from_the_class'])} from the class"
        return ["no code", pixels, _short(of["majority_balanced_accuracy"]), "0.50", "0.50", "", "", ""]
    check = of.get("check")
    checked = f"{check['code']:.2f}; {check['random_projections']:.2f}" if check else ""
    if row.startswith("shown"):
        return [_title(row), "", "", "", "", "", "", checked]
    member, linked = of["membership"], of["linkage"]
    return [
        _title(row),
        _full(of["pixel_r2"]),
        _full(of["class_balanced_accuracy"]),
        f"{_full(member['learnt'])}; {_full(member['near_class'])}",
        f"{_full(linked['any_class'])}; {_full(linked['same_class'])}",
        _full(linked["first"]),
        f"{of['distinct']:.2f}" if row != "feature" else "",
        checked,
    ]


def _title(row: str) -> str:
    kind, *numbers = row.split("-")
    if kind == "feature":
        return "the feature, never sent"
    if kind == "shown":
        return f"{numbers[0]} bits of a map chosen to show pictures"
    if kind == "trained":
        return f"`trained`, {numbers[0]} bits"
    return f"{numbers[0]} bits, {numbers[1]} of them class bits"


def _chosen(rows: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in (row for row in rows if row.startswith("chosen")):
        for step, one in rows[row].items():
            bits = int(row.split("-")[1])
            yield [
                f"{bits} bits",
                step,
                f"{one['queries_median']:.0f}, {one['queries_most']}",
                f"{one['determined'] * one['targets']:.0f} of {one['targets']}",
                f"{one['in_a_day']} of {one['held']} cases, by {one['queries_in_a_day']} codes",
            ]


def _short(value: Sequence[float]) -> str:
    return f"{value[0]:.2f}"


def _full(value: Sequence[float]) -> str:
    """Return a figure with half of its interval."""
    return f"{value[0]:.2f} ± {(value[2] - value[1]) / 2:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
