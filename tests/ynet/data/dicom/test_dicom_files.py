"""Files that public packages ship: none is refused that pydicom reads, and each is shown as pydicom shows it."""

import warnings

import pytest
import side_by_side
from side_by_side import Compared

MAX_BYTES = 200_000
"""Of a file that is compared here; `tests/benchmarks/dicom_files.py` compares them all."""
DAMAGED = {"MR_truncated.dcm", "rtplan_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"}


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of odd files
        return [side_by_side.compare(path) for path in side_by_side.files() if path.stat().st_size <= MAX_BYTES]


def test_no_file_is_refused_that_pydicom_reads(compared: list[Compared]) -> None:
    assert {one.name: one.here for one in compared if one.outcome == "refused here"} == {}


def test_a_file_is_shown_as_pydicom_shows_it(compared: list[Compared]) -> None:
    assert {one.name for one in compared if one.outcome == "differ"} <= side_by_side.OTHERWISE.keys()
    assert sum(one.outcome == "agree" for one in compared) > 80


def test_damaged_is_said_only_of_files_that_are_cut_short(compared: list[Compared]) -> None:
    assert {one.name for one in compared if "damaged" in one.here} <= DAMAGED
    assert "MR_truncated.dcm" in {one.name for one in compared if "damaged" in one.here}
