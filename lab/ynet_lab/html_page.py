"""What the pages of all reports share: tables, figures, pictures, and the templates beside this file."""

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
    """A table; its rows stand in groups, each with a heading or none."""

    caption: str
    corner: str  # what the rows are
    head: list[str]
    groups: list[tuple[str, list[TableRow]]]


def template(name: str) -> Template:
    """A template; what it is given is escaped, and a name that it is not given is an error."""
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
    """A number; a mean, with ± std where there are several seeds; or a dash for what is not there or not finite."""
    mean, std = mean_std(value)
    if mean is None:
        return MISSING
    text = f"{mean:{sign}z.{digits}f}".replace("-", "−")
    return text if std is None else f"{text} ± {std:.{digits}f}"


def mean_std(value: object) -> tuple[float | None, float | None]:
    """A figure's mean and std. The std is None where it says nothing: one seed's value, or a plain number."""
    if not isinstance(value, Mapping):
        return number_of(value), None
    several = sum(one is not None for one in value.get("values") or ()) > 1
    return number_of(value.get("mean")), number_of(value.get("std")) if several else None


def number_of(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _png(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
