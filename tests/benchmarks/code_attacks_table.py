"""The tables of code_attacks.py, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- codes -->", "<!-- end of codes -->"
HEAD = (
    "code",
    "pixels, R²",
    "class, balanced accuracy",
    "training case? AUC: learnt; nearness to its class",
    "same patient? AUC: any class; same class",
    "patient's other image comes first",
    "distinct codes",
)


def write(found: Mapping[str, Any], doc: Path | None) -> None:
    """Print the tables, and put them into a page."""
    text = "\n".join(tables(found))
    print(text)
    if doc:
        before, _, rest = doc.read_text("utf-8").partition(BEGIN)
        doc.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}", "utf-8")


def tables(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield one table for each set, and one of the chosen codes of the last."""
    for name, one in found.items():
        counts = one["counts"]
        yield (
            f"`{name}`: {counts['members']} training images of {counts['member_patients']} patients,"
            f" {counts['others']} of {counts['other_patients']} others."
        )
        yield from ("", *_table(HEAD, [_cells(*row) for row in one["rows"].items() if "chosen" not in row[0]]), "")
    yield from _table(
        (
            "width; `distance_step`",
            "one case: codes asked",
            "determined",
            "found by asking around 10 own cases",
            "a day allows",
        ),
        list(_chosen(one["rows"])),
    )


def _cells(row: str, of: Mapping[str, Any]) -> list[str]:
    if row == "floors":
        pixels = f"class alone {_short(of['pixel_r2_from_the_class'])}; most alike training image"
        pixels += f" {_short(of['pixel_r2_of_the_most_alike_other_image'])}"
        return ["no code", pixels, _short(of["majority_balanced_accuracy"]), "0.50", "0.50", "", ""]
    member, linked = of["membership"], of["linkage"]
    return [
        _title(row),
        _full(of["pixel_r2"]),
        _full(of["class_balanced_accuracy"]),
        f"{_full(member['learnt'])}; {_full(member['near_class'])}",
        f"{_full(linked['any_class'])}; {_full(linked['same_class'])}",
        f"{_full(linked['first'])}, by chance {linked['first_by_chance']:.3f}",
        f"{of['distinct']:.2f}" if row != "feature" else "",
    ]


def _title(row: str) -> str:
    kind, *numbers = row.split("-")
    if kind == "feature":
        return "the feature, never sent"
    if kind == "trained":
        return f"`trained`, {numbers[0]} bits"
    return f"{numbers[0]} bits, {numbers[1]} of them class bits"


def _chosen(rows: Mapping[str, Any]) -> Iterator[list[str]]:
    for row in (row for row in rows if row.startswith("chosen")):
        for step, one in rows[row].items():
            bits = int(row.split("-")[1])
            yield [
                f"{bits} bits; {step}",
                f"{one['queries_median']:.0f} ({one['queries_most']} at most)",
                f"{one['determined'] * one['targets']:.0f} of {one['targets']}",
                f"{one['sweep_determined']} of {one['held']} cases, by {one['sweep_queries']} codes",
                f"{one['sweeps_in_a_day']} such askings",
            ]


def _short(value: Sequence[float]) -> str:
    return f"{value[0]:.2f}"


def _full(value: Sequence[float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
