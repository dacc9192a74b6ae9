"""The check finds every problem of a site's data by row, and discloses no path or patient."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicoms import dicom
from PIL import Image
from rich.console import Console

from ynet.data import images
from ynet.data.check import check
from ynet.data.report import Problem, Report, table
from ynet.data.split import is_held_back
from ynet.errors import UserError

CLASSES = ("round", "spiky")
WriteSite = Callable[..., Path]


def only(report: Report) -> Problem:
    (problem,) = report.problems
    return problem


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def _one_anything(rows: list[dict[str, str]]) -> None:
    rows[7].update(label="anything")


def test_valid_data_have_no_problem_and_are_counted(write_site: WriteSite) -> None:
    report = check(write_site(), CLASSES, channels=1)
    assert report.problems == ()
    assert (report.cases, report.patients) == (8, 4)
    assert report.cases_per_class == {"round": 4, "spiky": 4}
    assert report.cases_per_split == {"train": 4, "test": 4}
    assert report.images_per_size == {"24 x 20": 8}


def test_all_problems_are_found_in_row_order(write_site: WriteSite, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        rows[0]["image"] = "missing.png"
        rows[1]["mask"] = "../m1.png"
        rows[3]["label"] = "spikey"
        rows[4]["split"] = "validation"
        rows[6]["patient"] = ""

    path = write_site(spoil)
    save(tmp_path / "m2.png", np.zeros((9, 9), np.uint8) + 255)
    (tmp_path / "i7.png").write_text("no image")
    report = check(path, CLASSES)
    found = [(problem.row, problem.column) for problem in report.errors]
    assert found == [
        (2, "image"),
        (3, "mask"),
        (4, "mask"),
        (5, "label"),
        (6, "split"),
        (8, "patient"),
        (9, "image"),
    ]


def test_cases_without_label_are_counted_and_warned_of_once(write_site: WriteSite) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        for row in rows[2:5]:
            row["label"] = ""

    report = check(write_site(spoil), CLASSES, channels=1)
    (problem,) = [one for one in report.problems if one.column == "label"]
    assert (problem.row, problem.severity) == (4, "warning")
    assert "cases without a label: 3" in problem.what
    assert report.unlabelled == 3
    assert sum(report.cases_per_class.values()) == report.cases - 3
    assert report.to_json()["unlabelled"] == 3
    assert "3 without a label" in str(table(report).caption)


def test_copy_of_an_image_without_label_is_a_warning(write_site: WriteSite) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        rows[1].update(image=rows[0]["image"], mask=rows[0]["mask"], label="", patient=rows[0]["patient"])
        rows[1].update(split=rows[0]["split"])

    assert not check(write_site(spoil), CLASSES, channels=1).errors


def test_manifest_without_a_column_is_refused(write_site: WriteSite) -> None:
    with pytest.raises(UserError, match="no column 'patient'"):
        check(write_site(columns=("image", "mask", "label")), CLASSES)


def test_unknown_label_gets_a_suggestion(write_site: WriteSite) -> None:
    problem = only(check(write_site(lambda rows: rows[7].update(label="spikey")), CLASSES))
    assert (problem.row, problem.column, problem.severity) == (9, "label", "error")
    assert problem.do == "did you mean 'spiky'?"


def test_class_without_cases_is_a_warning(write_site: WriteSite) -> None:
    problem = only(check(write_site(), (*CLASSES, "ring")))
    assert (problem.row, problem.severity) == (1, "warning")
    assert "'ring'" in problem.what


def test_labels_are_not_checked_without_classes(write_site: WriteSite) -> None:
    assert [problem.column for problem in check(write_site(_one_anything), None).problems] == ["split"]


def test_class_missing_in_one_split_is_a_warning_with_remedy(write_site: WriteSite) -> None:
    problem = only(check(write_site(lambda rows: [row.update(split="train") for row in rows[6:]]), CLASSES))
    assert (problem.row, problem.column, problem.severity) == (1, "split", "warning")
    assert problem.what == "the class 'spiky' has no case to test on (it has 2 patients)"
    assert "column 'split'" in problem.do


def test_check_splits_by_the_plans_seed(write_site: WriteSite) -> None:
    path = write_site(columns=("image", "mask", "label", "patient"))
    counts = {seed: check(path, CLASSES, split_seed=seed).cases_per_split for seed in range(1, 9)}
    for seed, found in counts.items():
        train = sum(2 for number in range(4) if not is_held_back(f"secret-{number}", seed))
        assert found == {"train": train, "test": 8 - train}
    assert len({str(found) for found in counts.values()}) > 1


def test_mask_of_another_size_is_an_error(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_site()
    save(tmp_path / "m3.png", np.array([[0, 255]], np.uint8))
    problem = only(check(path, CLASSES))
    assert (problem.row, problem.column, problem.severity) == (5, "mask", "error")
    assert problem.what == "its mask has 2 x 1 pixels, its image 24 x 20"


@pytest.mark.parametrize(
    ("low", "high", "severity", "words"),
    [
        (0, 0, "warning", "is empty"),
        (255, 255, "warning", "covers the whole image"),
        (100, 100, "error", "all of it has the value 100"),
        (0, 1, "", ""),
        (0, 100, "", ""),
    ],
)
def test_empty_full_or_ambiguous_mask_is_reported(
    write_site: WriteSite, tmp_path: Path, low: int, high: int, severity: str, words: str
) -> None:
    path = write_site()
    mask = np.full((20, 24), low, np.uint8)
    mask[3:9, 3:9] = high
    save(tmp_path / "m3.png", mask)
    report = check(path, CLASSES)
    if not severity:
        assert not report.problems
        return
    problem = only(report)
    assert (problem.row, problem.column, problem.severity) == (5, "mask", severity)
    assert words in problem.what


def test_nonbinary_mask_is_a_warning_and_picture_an_error(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_site()
    large = Image.fromarray(np.asarray(Image.open(tmp_path / "m3.png"))).resize((240, 200), Image.Resampling.NEAREST)
    large.rotate(10).resize((24, 20), Image.Resampling.BOX).save(tmp_path / "m3.png")
    problem = only(check(path, CLASSES))
    assert (problem.row, problem.column, problem.severity) == (5, "mask", "warning")
    assert "values instead of 2" in problem.what
    save(tmp_path / "m3.png", np.linspace(0, 255, 480).astype(np.uint8).reshape(20, 24))
    problem = only(check(path, CLASSES))
    assert (problem.row, problem.column, problem.severity) == (5, "mask", "error")
    assert "256 values" in problem.what


def test_inverted_mask_is_a_warning_and_majority_an_error(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_site(lambda rows: rows[7].update(mask=""))
    for number, masks in ((0, 1), (3, 4)):
        for other in range(number + 1):
            drawn = np.asarray(Image.open(tmp_path / f"m{other}.png"))
            save(tmp_path / f"m{other}.png", np.where(drawn[8, 8] == 255, 255 - drawn, drawn).astype(np.uint8))
        found = [problem for problem in check(path, None).problems if "border" in problem.what]
        assert [problem.row for problem in found if problem.severity == "warning"] == list(range(2, 2 + masks))
        assert [problem.row for problem in found if problem.severity == "error"] == ([1] if masks == 4 else [])
        assert all("black" in problem.do and "#255" in problem.do for problem in found)


def test_large_lesion_with_named_value_is_accepted(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_site(lambda rows: rows[3].update(mask="m3.png#255"))
    large = np.full((20, 24), 255, np.uint8)
    save(tmp_path / "m3.png", large)
    assert not check(path, CLASSES).problems
    large[:9] = 0
    save(tmp_path / "m3.png", large)
    assert not check(write_site(), CLASSES).problems


@pytest.mark.parametrize("part", ["left half", "a disc that leaves the picture"])
def test_lesion_of_half_the_image_is_not_inverted(write_site: WriteSite, tmp_path: Path, part: str) -> None:
    path = write_site()
    rows, columns = np.mgrid[:20, :24]
    inside = columns < 14 if part == "left half" else (rows - 9) ** 2 + (columns - 12) ** 2 < 12**2
    save(tmp_path / "m3.png", inside.astype(np.uint8) * 255)
    assert inside.mean() > 0.5
    assert not check(path, CLASSES).problems


def test_empty_mask_is_fine_in_a_mostly_empty_class(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_site(lambda rows: [rows[number].update(mask="") for number in (0, 1)])
    save(tmp_path / "m4.png", np.zeros((20, 24), np.uint8))
    problem = only(check(path, CLASSES))
    assert problem.row == 7
    assert "has a lesion" in problem.what


def test_patient_in_two_splits_is_one_error_without_name(write_site: WriteSite) -> None:
    path = write_site(lambda rows: [row.update(patient="secret-1") for row in rows[2:6]])
    problem = only(check(path, CLASSES))
    assert (problem.row, problem.column, problem.severity) == (6, "split", "error")
    assert "row 4" in problem.what


def test_site_needs_training_cases_and_should_have_test_cases(
    write_site: WriteSite,
) -> None:
    no_train = check(write_site(lambda rows: [row.update(split="test") for row in rows]), CLASSES)
    assert (only(no_train).row, only(no_train).severity) == (1, "error")
    no_test = check(write_site(lambda rows: [row.update(split="train") for row in rows]), CLASSES)
    assert (only(no_test).row, only(no_test).severity) == (1, "warning")


@pytest.mark.parametrize(("copy", "severity"), [(1, "warning"), (2, "error"), (4, "error")])
def test_duplicate_image_severity_depends_on_label_and_split(
    write_site: WriteSite, tmp_path: Path, copy: int, severity: str
) -> None:
    path = write_site()
    (tmp_path / f"i{copy}.png").write_bytes((tmp_path / "i0.png").read_bytes())
    problem = only(check(path, CLASSES))
    assert (problem.row, problem.column, problem.severity) == (copy + 2, "image", severity)
    assert "row 2" in problem.what


def test_oversized_file_is_an_error(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_site()
    with (tmp_path / "i5.png").open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)
    Image.new("1", (7_100, 7_100)).save(tmp_path / "m6.png")
    bytes_, pixels = check(path, CLASSES).errors
    assert (bytes_.row, bytes_.column, "MiB" in bytes_.what) == (7, "image", True)
    assert (pixels.row, pixels.column, "million pixels" in pixels.what) == (8, "mask", True)


def test_colour_images_for_grey_plan_are_one_warning(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_site()
    for number in (3, 5):
        save(tmp_path / f"i{number}.png", np.full((20, 24, 3), (10, 20, number), np.uint8))
    problem = only(check(path, CLASSES, channels=1))
    assert (problem.row, problem.severity) == (5, "warning")
    assert "2" in problem.what


def test_report_holds_no_path_and_no_patient(write_site: WriteSite, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        rows[0]["image"], rows[1]["mask"] = "missing-image.png", "/missing-mask.png"
        rows[2]["patient"] = "secret-3"

    report = check(write_site(spoil), CLASSES)
    written = json.dumps(report.to_json())
    assert len(report.errors) == 3
    for secret in ("secret-", "missing-", str(tmp_path), ".png"):
        assert secret not in written


def test_json_report_matches_its_description(write_site: WriteSite) -> None:
    written = check(write_site(lambda rows: rows[0].update(label="ring")), CLASSES).to_json()
    assert (written["ok"], written["errors"], written["warnings"]) == (False, 1, 0)
    (problem,) = written["problems"]
    assert set(problem) == {"row", "column", "severity", "what", "do"}
    for key in written:
        assert f"`{key}`" in str(Report.to_json.__doc__)


def test_table_shows_problems_and_counts_without_markup(write_site: WriteSite) -> None:
    report = check(write_site(lambda rows: rows[0].update(label="[bold]ring[/x]")), CLASSES)
    output = io.StringIO()
    Console(width=160, file=output).print(table(report))
    shown = output.getvalue()
    assert "[bold]ring[/x]" in shown
    assert "1 errors, 0 warnings" in shown
    assert "8 cases of 4 patients: 4 train, 4 test" in shown


def test_progress_is_called_for_each_case(write_site: WriteSite) -> None:
    heard: list[tuple[int, int]] = []
    check(write_site(), CLASSES, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(done, 8) for done in range(1, 9)]


def test_unusable_display_values_are_counted(write_site: WriteSite, tmp_path: Path) -> None:
    def to_dicom(rows: list[dict[str, str]]) -> None:
        for row in rows[:3]:
            row["image"] = row["image"].replace(".png", ".dcm")

    path = write_site(to_dicom)
    for number in range(3):
        pixels = np.asarray(Image.open(tmp_path / f"i{number}.png").convert("L"))
        (tmp_path / f"i{number}.dcm").write_bytes(dicom(pixels, WindowCenter=100, WindowWidth=number % 2))
    report = check(path, CLASSES)
    assert report.errors == ()
    found = only(report)
    assert (found.row, found.severity) == (2, "warning")
    assert "cannot be used: 2 (WindowCenter, WindowWidth)" in found.what
