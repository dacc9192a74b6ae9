"""A truncated PACS answer leads to smaller queries or an error; no object is lost silently."""

import csv
from pathlib import Path
from typing import Any

import pytest
from partial_pacs import PartialPacs, held, served
from typer.testing import CliRunner

from ynet.errors import UserError
from ynet_client.commands.cli import app
from ynet_client.dicom.dicomweb import DicomWeb, Listed
from ynet_client.dicom.whole_lists import Doubt

SERIES = [held("1.1", "1.2", f"1.3.{number}", "20240101") for number in range(8)]
"""Eight objects of one series."""
STUDIES = [held(f"1.1.{day}", f"1.2.{day}", f"1.3.{day}", f"202401{day:02}") for day in range(1, 9)]
"""Eight studies of one object each, a day apart."""
CUT = {"warning": '299 pacs "There are additional results that can be requested"'}


def found(pacs: PartialPacs, query: str = "Modality=MR") -> list[Listed]:
    with served(pacs) as url, DicomWeb(url, {}, None, lambda _: None) as web:
        return list(web.find(query))


def assert_whole(pacs: PartialPacs) -> None:
    listed = [one.instance for one in found(pacs)]
    assert sorted(listed) == sorted(one["00080018"]["Value"][0] for one in pacs.objects)


def assert_refused(pacs: PartialPacs, *doubts: Doubt) -> None:
    with pytest.raises(UserError, match="does not list everything that it holds") as error:
        found(pacs)
    assert error.value.why in [doubt.value for doubt in doubts]
    assert "--query" in error.value.do


@pytest.mark.parametrize("objects", [SERIES, STUDIES], ids=["series", "studies"])
@pytest.mark.parametrize(
    "says",
    [
        {},
        CUT,
        {"partial_status": 206},
        {**CUT, "partial_status": 206},
        {"has_counts": True},
        {"zipped": True},
        {"has_counts": True, "has_limit": False},
    ],
    ids=str,
)
def test_pages_capped_below_the_limit_are_read_to_the_end(objects: list[Any], says: dict[str, Any]) -> None:
    assert_whole(PartialPacs(objects, cap=3, **says))


@pytest.mark.parametrize("says", [{}, CUT, {"partial_status": 206}, {"has_limit": False}], ids=str)
def test_capped_series_without_offset_is_refused_or_read_from_its_metadata(says: dict[str, Any]) -> None:
    doubt = Doubt.CUT if says and "has_limit" not in says else Doubt.REPEATED
    assert_refused(PartialPacs(SERIES, cap=3, has_offset=False, **says), doubt)
    assert_whole(PartialPacs(SERIES, cap=3, has_offset=False, has_metadata=True, **says))


@pytest.mark.parametrize("says", [{}, CUT, {"partial_status": 206}, {"has_limit": False}], ids=str)
def test_capped_studies_without_offset_are_split_by_date(says: dict[str, Any]) -> None:
    pacs = PartialPacs(STUDIES, cap=3, has_offset=False, **says)
    assert_whole(pacs)
    of_june = [held(f"1.5.{number}", "1.6", "1.7", "20240601") for number in range(8)]
    says_so = says and "has_limit" not in says
    assert_refused(PartialPacs(of_june, cap=3, has_offset=False, **says), Doubt.CUT if says_so else Doubt.REPEATED)


def test_smaller_queries_stay_within_the_query_dates() -> None:
    pacs = PartialPacs(STUDIES, cap=3, has_offset=False)
    listed = found(pacs, "Modality=MR&StudyDate=20240103-20240107")
    assert [one.study for one in listed] == [f"1.1.{day}" for day in range(3, 8)]


def test_pacs_that_ignores_or_lacks_dates_is_refused() -> None:
    assert_refused(PartialPacs(STUDIES, cap=3, has_offset=False, has_dates=False), Doubt.OTHERS)
    assert_refused(PartialPacs(STUDIES, cap=3, has_offset=False, hides=("00080020",), **CUT), Doubt.UNDATED)


def test_uncapped_pacs_without_pages_is_accepted_if_counts_agree() -> None:
    for more in ({"has_counts": True}, {"has_metadata": True}):
        assert_whole(PartialPacs(SERIES, has_offset=False, has_limit=False, **more))
        assert_whole(PartialPacs(STUDIES, has_offset=False, has_limit=False, **more))


def test_count_above_listed_is_refused_or_read_from_metadata() -> None:
    assert_refused(PartialPacs(SERIES, has_counts=True, counts_more=1), Doubt.FEWER)
    assert_refused(PartialPacs(SERIES, has_counts=True, counts_more=1, has_metadata=True), Doubt.FEWER)
    assert_whole(PartialPacs(SERIES, cap=3, has_offset=False, has_counts=True, has_metadata=True))


def test_warning_on_the_last_page_is_refused() -> None:
    assert_refused(PartialPacs(STUDIES, warns_always=True, **CUT), Doubt.CUT)
    fuzzy = '299 pacs "The fuzzymatching parameter is not supported. Only literal matching has been performed."'
    assert_whole(PartialPacs(STUDIES, warns_always=True, warning=fuzzy))


def test_overlapping_pages_are_refused_or_read_from_metadata() -> None:
    assert_refused(PartialPacs(SERIES, cap=3, rotates=True), Doubt.SHIFTED, Doubt.REPEATED)  # by where a page begins
    assert_whole(PartialPacs(SERIES, cap=3, rotates=True, has_metadata=True))


def test_repeated_last_page_is_not_the_end() -> None:
    assert_refused(PartialPacs(SERIES[:6], cap=3, clamps=True), Doubt.REPEATED)
    assert_whole(PartialPacs(SERIES[:6], cap=3, clamps=True, has_metadata=True))
    assert_whole(PartialPacs(SERIES[:6], cap=3, clamps=True, has_counts=True))


def test_series_without_objects_or_sop_class_is_an_error() -> None:
    assert_refused(PartialPacs(SERIES, hides=("00080018",)), Doubt.FEWER)
    assert_refused(PartialPacs(SERIES, hides=("00080016",)), Doubt.FEWER)


def test_study_drawings_are_found_and_no_other_series() -> None:
    objects = [
        held("1.1", "1.2", "1.3", "20240101"),
        held("1.1", "1.4", "1.5", "20240101", "SEG"),
        held("1.1", "1.6", "1.7", "20240101", "RTSTRUCT"),
        held("1.1", "1.8", "1.9", "20240101", "CT"),
    ]
    assert [one.instance for one in found(PartialPacs(objects))] == ["1.3", "1.5", "1.7"]
    assert_refused(PartialPacs(objects, cap=3, has_offset=False), Doubt.REPEATED)


def test_import_from_truncating_pacs_exits_with_code_2(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([["patient", "label"], ["P", "a"]])
    options = ["--labels", str(labels), "--out", str(tmp_path / "site"), "--home", str(tmp_path / "home")]
    for says in ({}, CUT, {"partial_status": 206}):
        with served(PartialPacs(SERIES, cap=3, has_offset=False, **says)) as url:
            done = CliRunner().invoke(app, ["import", "--dicomweb", url, "--query", "Modality=MR", *options])
        assert isinstance(done.exception, UserError)
        assert done.exception.exit_code == 2
        assert not (tmp_path / "site/manifest.csv").exists()
