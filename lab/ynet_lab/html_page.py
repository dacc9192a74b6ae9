"""The pages of reports: tables, figures, pictures, and the templates in this folder."""

import base64
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

MISSING = "–"


class TableRow(NamedTuple):
    """A named row of a table."""

    name: str
    cells: list[str]


class HtmlTable(NamedTuple):
    """A table with groups of rows, each with or without a heading."""

    caption: str
    corner: str  # heading of the rows' names
    head: list[str]
    groups: list[tuple[str, list[TableRow]]]


def template(name: str) -> Template:
    """Load a template. It escapes its values; a missing value is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["png"] = _png
    return made.get_template(name)


def figure(value: object, digits: int = 3, sign: str = "") -> str:
    """Format a number, or a mean with ± std over several seeds; a dash for a missing or infinite value."""
    mean, std = mean_std(value)
    if mean is None:
        return MISSING
    text = f"{mean:{sign}z.{digits}f}".replace("-", "−")
    return text if std is None else f"{text} ± {std:.{digits}f}"


def mean_std(value: object) -> tuple[float | None, float | None]:
    """Return a figure's mean and std; the std is None for one seed and for a plain number."""
    if not isinstance(value, Mapping):
        return number_of(value), None
    several = sum(one is not None for one in value.get("values") or ()) > 1
    return number_of(value.get("mean")), number_of(value.get("std")) if several else None


def number_of(value: object) -> float | None:
    """Return a finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _png(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
