"""DICOM files of public packages decode as with pydicom, and none that pydicom reads is refused."""

import warnings

import pytest
import side_by_side
from side_by_side import Compared

MAX_BYTES = 200_000
"""Maximal size of a file compared here; `tests/benchmarks/dicom_files.py` compares them all."""
DAMAGED = {"MR_truncated.dcm", "rtplan_truncated.dcm", "emri_small_jpeg_2k_lossless_too_short.dcm"}


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, of odd files
        return [side_by_side.compare(path) for path in side_by_side.files() if path.stat().st_size <= MAX_BYTES]


def test_files_that_pydicom_reads_are_not_refused(compared: list[Compared]) -> None:
    assert {one.name: one.here for one in compared if one.outcome == "refused here"} == {}


def test_files_decode_as_with_pydicom(compared: list[Compared]) -> None:
    assert {one.name for one in compared if one.outcome == "differ"} <= side_by_side.OTHERWISE.keys()
    assert sum(one.outcome == "agree" for one in compared) > 80


def test_only_truncated_files_are_called_damaged(compared: list[Compared]) -> None:
    assert {one.name for one in compared if "damaged" in one.here} <= DAMAGED
    assert "MR_truncated.dcm" in {one.name for one in compared if "damaged" in one.here}
