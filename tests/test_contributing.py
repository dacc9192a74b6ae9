"""The changes that docs/contributing shows: each applies to a copy of the repository, passes its tests, is clean."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import contributing_examples
import pytest
from contributing_examples import EXAMPLES, PAGES, ROOT, Edit, Example
from needs import needed

COPIED = ("ynet", "server", "client", "lab", "tests", "configs", "deploy", "docs", "pyproject.toml", "README.md")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*cache", "images", "results", "demo-out")
MOST_FILES, MOST_LINES = 5, 80
"""Of one change, its test counted: a change that needs more is a fault of the code, not of who makes it."""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository's files without their history."""
    for name in COPIED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, tmp_path / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(path, tmp_path / name)
    return tmp_path


def in_copy(copy: Path, *command: str) -> None:
    """Run a command on the copy's packages; fail with what it printed."""
    folders = (copy, copy / "server", copy / "client", copy / "lab")
    done = subprocess.run(
        command,
        cwd=copy,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "GIT_CEILING_DIRECTORIES": str(copy.parent),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_applies_passes_its_tests_and_is_clean(copy: Path, name: str) -> None:
    example = EXAMPLES[name]
    (copy / "change.diff").write_text(contributing_examples.shown(name), "utf-8")
    in_copy(copy, needed("git"), "apply", f"-C{contributing_examples.CONTEXT}", "change.diff")
    in_copy(copy, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *example.tests)
    files = sorted({edit.file for edit in example.edits if edit.file.endswith(".py")})
    in_copy(copy, sys.executable, "-m", "ruff", "check", "--no-cache", *files)
    in_copy(copy, sys.executable, "-m", "ruff", "format", "--no-cache", "--check", *files)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_small(name: str) -> None:
    changed = [line for line in contributing_examples.shown(name).splitlines() if line[:1] in "+-"]
    assert len({edit.file for edit in EXAMPLES[name].edits}) <= MOST_FILES
    assert len([line for line in changed if line[:3] not in ("+++", "---")]) <= MOST_LINES


def test_every_page_with_a_diff_is_an_example() -> None:
    pages = {page.name for page in PAGES.glob("*.md") if "<!-- example " in page.read_text("utf-8")}
    assert pages == {example.page for example in EXAMPLES.values()}


def test_anchor_that_is_gone_is_named() -> None:
    example = Example("page.md", (Edit("ynet/plan.py", "no such line", "text"),), ())
    with pytest.raises(LookupError, match=r"ynet/plan\.py has 'no such line' 0 times"):
        contributing_examples.diff(example)
