"""The report of a check: problems by row, and counts of the site's data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

Severity = Literal["error", "warning"]

COLOURS: Mapping[Severity, str] = {"error": "red", "warning": "yellow"}


@dataclass(frozen=True)
class Problem:
    """A problem with one cell of the manifest, or with the file that it names.

    Holds neither a path nor a patient id, so it may be logged and sent to whoever helps.
    """

    row: int  # as spreadsheets count; row 1, the header, stands for the whole manifest
    column: str
    severity: Severity  # an error must be fixed before the site joins
    what: str
    do: str


@dataclass(frozen=True)
class Report:
    """All problems in row order, and counts of the valid rows."""

    problems: tuple[Problem, ...]
    cases: int
    patients: int
    cases_per_class: dict[str, int]  # without cases that have no label
    unlabelled: int
    cases_per_split: dict[str, int]
    images_per_size: dict[str, int]  # "width x height" -> readable images, the most frequent first

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that must be fixed."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The problems that may be intended."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON, a public interface.

        `ok` (no error), `errors` and `warnings` (how many), `cases`, `patients`, `cases_per_class`, `unlabelled` (cases
        without a label), `cases_per_split` (`train`, `test`), `images_per_size` (`"width x height"`), and `problems`, a
        list of `row` (as spreadsheets count; 1 stands for the whole manifest), `column`, `severity` (`error`,
        `warning`), `what` and `do`. It holds no path and no patient id.
        """
        counts = {"ok": not self.errors, "errors": len(self.errors), "warnings": len(self.warnings)}
        return counts | asdict(self) | {"problems": [asdict(problem) for problem in self.problems]}


def table(report: Report) -> Table:
    """Format the report for the terminal: one row per problem, with the counts below; no header without problems."""
    shown = Table(caption=_counts(report), caption_justify="left", expand=True)
    if not report.problems:
        shown.show_header, shown.box = False, None
    shown.add_column("row", justify="right")
    shown.add_column("column")
    shown.add_column("severity")
    shown.add_column("what", ratio=3)
    shown.add_column("do", ratio=2)
    for problem in report.problems:
        colour = COLOURS[problem.severity]
        shown.add_row(
            str(problem.row),
            escape(problem.column),
            f"[{colour}]{problem.severity}[/{colour}]",
            escape(problem.what),
            escape(problem.do),
        )
    return shown


def _counts(report: Report) -> str:
    sizes = dict(list(report.images_per_size.items())[:3])
    others = len(report.images_per_size) - len(sizes)
    classes = report.cases_per_class | ({"without a label": report.unlabelled} if report.unlabelled else {})
    return (
        f"{len(report.errors)} errors, {len(report.warnings)} warnings\n"
        f"{report.cases} cases of {report.patients} patients: {_listed(report.cases_per_split)}\n"
        f"classes: {_listed(classes)}\n"
        f"pixels: {_listed(sizes)}" + (f", {others} other sizes" if others else "")
    )


def _listed(counts: Mapping[str, int]) -> str:
    return escape(", ".join(f"{count} {name}" for name, count in counts.items()) or "none")
