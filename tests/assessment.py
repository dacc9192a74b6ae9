"""Reads the tables of docs/assessment, and says which of their rows no test proves.

A row is proved by a test that exists and that CI runs: not one that is skipped whatever happens, or that the marker
`may_skip` lets be skipped.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

COLUMN = "test"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(\[[^`]*\])?`")
SKIPS = ("skip", "xfail", "may_skip")


class Row(NamedTuple):
    """A row of a table, with its cells by the table's head."""

    page: str
    line: int
    cells: dict[str, str]


def rows(page: Path) -> Iterator[Row]:
    """Yield the rows of all tables of a page."""
    head: list[str] = []
    for number, line in enumerate(page.read_text("utf-8").splitlines(), start=1):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]] if line.startswith("|") else []
        if not cells:
            head = []
        elif not head:
            head = cells
        elif not all(re.fullmatch(r":?-+:?", cell) for cell in cells):
            yield Row(page.name, number, dict(zip(head, cells, strict=True)))


def faults(page: Path, root: Path, *, every_table: bool) -> list[str]:
    """Return what is wrong with a page's rows; `every_table`: each table must have a column of tests."""
    found = []
    for row in rows(page):
        place = f"{row.page}:{row.line}"
        if COLUMN not in row.cells:
            found += [f"{place}: its table has no column {COLUMN!r}"] if every_table else []
            continue
        named = NAMED.findall(row.cells[COLUMN])
        if not named or NAMED.sub("", row.cells[COLUMN]).strip(" ,"):
            found.append(f"{place}: {row.cells[COLUMN]!r} is no list of `tests/FILE.py::test_name`")
        found += [f"{place}: {why}" for one in named if (why := fault(root, *one))]
    return found


def fault(root: Path, file: str, name: str, parameters: str = "") -> str:
    """Return why a test proves nothing; empty if it exists and always runs."""
    path = root / file
    if not path.is_file():
        return f"there is no {file}"
    module = ast.parse(path.read_text("utf-8"))
    found = [one for one in module.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name == name]
    if not name.startswith("test_") or not found:
        return f"there is no test {name} in {file}"
    if why := _skipped_module(module) or _skipped(found[-1]):
        return f"{file}::{name} {why}"
    if parameters and "parametrize" not in " ".join(map(ast.unparse, found[-1].decorator_list)):
        return f"{file}::{name} has no parameters"
    return ""


def _skipped_module(module: ast.Module) -> str:
    for one in module.body:
        if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "pytestmark":
            marks = one.value.elts if isinstance(one.value, ast.List | ast.Tuple) else [one.value]
            if why := _marked(marks):
                return why
        if isinstance(one, ast.Expr) and ast.unparse(one).startswith(("pytest.skip(", "pytest.importorskip(")):
            return "is in a file that is skipped"
    return ""


def _skipped(test: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    first = next((one for one in test.body if not _is_docstring(one)), None)
    if first is not None and ast.unparse(first).startswith(("pytest.skip(", "return", "pass")):
        return "does nothing"
    return _marked(test.decorator_list)


def _is_docstring(one: ast.stmt) -> bool:
    return isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant)


def _marked(marks: Sequence[ast.expr]) -> str:
    for mark in marks:
        name, called = (mark.func, mark) if isinstance(mark, ast.Call) else (mark, None)
        word = ast.unparse(name).rpartition(".")[2]
        if word in SKIPS:
            return f"has the mark {word}"
        if word == "skipif" and called and isinstance(called.args[0], ast.Constant) and called.args[0].value:
            return "is skipped always"
    return ""
