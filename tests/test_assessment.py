"""Each row of the assessor's tables names tests that exist and that are not skipped."""

from pathlib import Path

import assessment
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs/assessment").glob("*.md"))
PROVED = ("controls.md", "threat-model.md")
"""Pages whose tables all have a column of tests."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_names_a_test_that_runs(page: Path) -> None:
    assert not assessment.faults(page, ROOT, every_table=page.name in PROVED)


@pytest.mark.parametrize("name", PROVED)
def test_page_of_claims_has_rows(name: str) -> None:
    assert len(list(assessment.rows(ROOT / "docs/assessment" / name))) >= 15


TESTS = """
import pytest

@pytest.mark.parametrize("x", [1])
def test_good(x): assert x

@pytest.mark.skip
def test_skipped(): ...

@pytest.mark.skip(reason="later")
def test_skipped_with_reason(): ...

@pytest.mark.skipif(True, reason="always")
def test_always(): ...

@pytest.mark.xfail
def test_fails(): ...

@pytest.mark.may_skip
@pytest.mark.skipif(not cuda(), reason="no device")
def test_may_skip(): ...

def test_empty():
    pytest.skip("not yet")

def helper(): ...
"""
CELLS = {
    "`tests/test_a.py::test_good`": "",
    "`tests/test_a.py::test_good[1]`, `tests/test_a.py::test_good`": "",
    "`tests/test_a.py::test_gone`": "no test test_gone",
    "`tests/test_b.py::test_good`": "no tests/test_b.py",
    "`tests/test_a.py::helper`": "no test helper",
    "`tests/test_a.py::test_skipped`": "the mark skip",
    "`tests/test_a.py::test_skipped_with_reason`": "the mark skip",
    "`tests/test_a.py::test_always`": "skipped always",
    "`tests/test_a.py::test_fails`": "the mark xfail",
    "`tests/test_a.py::test_may_skip`": "the mark may_skip",
    "`tests/test_a.py::test_empty`": "does nothing",
    "`tests/test_a.py`": "no list of",
    "planned": "no list of",
    "`tests/test_a.py::test_good`, and by hand": "no list of",
    "": "no list of",
}


@pytest.mark.parametrize(("cell", "why"), CELLS.items())
def test_row_without_a_test_that_runs_is_a_fault(cell: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text(TESTS)
    page = tmp_path / "controls.md"
    page.write_text(f"# Controls\n\n| control | test |\n|---|---|\n| a claim | {cell} |\n")
    found = assessment.faults(page, tmp_path, every_table=True)
    assert [why in one for one in found] == ([True] if why else [])


def test_table_without_a_column_of_tests_is_a_fault_where_all_need_one(tmp_path: Path) -> None:
    page = tmp_path / "controls.md"
    page.write_text("| control | how |\n|---|---|\n| a claim | somehow |\n")
    assert assessment.faults(page, tmp_path, every_table=True) == ["controls.md:3: its table has no column 'test'"]
    assert not assessment.faults(page, tmp_path, every_table=False)


@pytest.mark.parametrize("mark", ["pytestmark = pytest.mark.skip", "pytestmark = [pytest.mark.may_skip]"])
def test_file_that_is_skipped_proves_nothing(mark: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/test_a.py").write_text(f"import pytest\n{mark}\ndef test_good(): assert True\n")
    assert "the mark" in assessment.fault(tmp_path, "tests/test_a.py", "test_good")
