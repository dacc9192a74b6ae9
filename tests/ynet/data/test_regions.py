"""Masks of several regions: columns, values of one file, labelled segments; and what the check says of them."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_hospital import names, segmentation
from dicoms import dicom
from PIL import Image
from pydicom import Dataset, dcmread, uid

from ynet.data import manifest
from ynet.data.cases import CaseCache
from ynet.data.check import check
from ynet.data.manifest import Manifest
from ynet.data.regions import decode, drawn_on, packed, unpacked
from ynet.data.report import Report
from ynet.errors import UserError
from ynet.plan_sections import Image as ImageSettings
from ynet.plan_sections import Regions

WriteSite = Callable[..., Path]
Rows = list[dict[str, str]]
SHAPE = (20, 24)
DISC, CUP = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
DISC[4:16, 4:18], CUP[8:12, 8:14] = 1, 1
EYE, NESTED = Regions(("disc", "cup")), Regions(("disc", "cup"), nested=True)
HEADER = ("image", "mask", "label", "patient", "split")
WITH_COLUMNS = ("image", "mask.disc", "mask.cup", "label", "patient", "split")


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def write_columns(write_site: WriteSite, change: Callable[[Rows], object] = list) -> Path:
    """Write a site with a column for each region; row 2 has its own masks."""

    def name(rows: Rows) -> None:
        for row in rows:
            row.update({"mask.disc": "disc.png", "mask.cup": "cup.png"})
        change(rows)

    path = write_site(name, WITH_COLUMNS)
    save(path.parent / "disc.png", 255 * DISC)
    save(path.parent / "cup.png", 255 * CUP)
    return path


def write_values(write_site: WriteSite, pixels: np.ndarray, name: str = "labels.png") -> Path:
    """Write a site whose masks are one file of values."""
    path = write_site(lambda rows: [row.update(mask=name) for row in rows])
    save(path.parent / name, pixels)
    return path


def masks_of(path: Path, regions: Regions = EYE) -> np.ndarray:
    read = manifest.read(path)
    return decode(read, read.cases[0], regions, SHAPE)


def found(report: Report) -> list[tuple[int, str, str]]:
    return [(problem.row, problem.column, problem.severity) for problem in report.problems]


def test_columns_give_the_mask_of_each_region(write_site: WriteSite) -> None:
    path = write_columns(write_site)
    np.testing.assert_array_equal(masks_of(path), [DISC, CUP])
    (first, *_), columns = manifest.read(path).cases, manifest.read(path).columns
    assert first.regions == {"disc": "disc.png", "cup": "cup.png"}
    assert columns == ()
    assert (first.mask, first.is_drawn) == ("", False)  # for a plan without regions the lesion is unknown


def test_order_of_regions_is_the_plans_not_the_manifests(write_site: WriteSite) -> None:
    np.testing.assert_array_equal(masks_of(write_columns(write_site), Regions(("cup", "disc"))), [CUP, DISC])


def test_values_of_one_file_give_the_mask_of_each_region(write_site: WriteSite) -> None:
    path = write_values(write_site, DISC + CUP)
    np.testing.assert_array_equal(masks_of(path), [DISC & ~CUP & 1, CUP])


def test_values_of_palette_and_grey_colours_are_read_alike(write_site: WriteSite, tmp_path: Path) -> None:
    path = write_values(write_site, DISC + CUP)
    expected = masks_of(path)
    palette = Image.fromarray(DISC + CUP).convert("P")
    palette.putpalette([0, 0, 0, 200, 10, 10, 10, 10, 200])
    for picture in (
        palette,
        Image.fromarray(DISC + CUP).convert("RGB"),
        Image.fromarray((DISC + CUP).astype(np.uint16)),
    ):
        picture.save(tmp_path / "labels.png")
        np.testing.assert_array_equal(masks_of(path), expected)


def test_nested_region_contains_the_regions_after_it_from_every_source(write_site: WriteSite) -> None:
    np.testing.assert_array_equal(masks_of(write_values(write_site, DISC + CUP), NESTED), [DISC, CUP])
    beyond = CUP.copy()
    beyond[18] = 1
    path = write_columns(write_site)
    save(path.parent / "cup.png", 255 * beyond)
    np.testing.assert_array_equal(masks_of(path, NESTED), [DISC | beyond, beyond])


@pytest.mark.parametrize(
    ("pixels", "name", "why"),
    [
        (255 * DISC, "labels.png", "no region's: 255; the regions are 1 disc, 2 cup"),
        (DISC + 2 * CUP, "labels.png", "no region's: 3"),
        (np.stack([DISC, CUP, CUP], -1), "labels.png", "in colour"),
        (DISC + CUP, "labels.jpg", "JPEG changes"),
    ],
    ids=["white", "third value", "colour", "jpeg"],
)
def test_values_that_are_no_regions_are_refused(write_site: WriteSite, pixels: np.ndarray, name: str, why: str) -> None:
    path = write_values(write_site, pixels, name)
    with pytest.raises(UserError, match=why):
        masks_of(path)
    report = check(path, None, regions=EYE)
    assert {(problem.column, problem.severity) for problem in report.problems if why in problem.what} == {
        ("mask", "error")
    }


def test_value_named_after_a_file_of_several_regions_is_refused(write_site: WriteSite) -> None:
    path = write_values(write_site, DISC + CUP)
    path.write_text(path.read_text().replace("labels.png", "labels.png#2"))
    with pytest.raises(UserError, match="several regions"):
        masks_of(path)


def test_column_may_name_a_value_of_a_file(write_site: WriteSite) -> None:
    path = write_columns(write_site, lambda rows: rows[0].update({"mask.cup": "labels.png#2"}))
    save(path.parent / "labels.png", DISC + CUP)
    np.testing.assert_array_equal(masks_of(path), [DISC, CUP])


def test_empty_cell_is_no_region_and_unknown_takes_no_part(write_site: WriteSite) -> None:
    path = write_columns(
        write_site, lambda rows: (rows[0].update({"mask.cup": ""}), rows[1].update({"mask.cup": "unknown"}))
    )
    read = manifest.read(path)
    settings = ImageSettings(channels=1, size=32, trim=False)
    for limit in (0, 1 << 20):
        cache = CaseCache(read, read.cases, settings, ("round", "spiky"), limit, EYE)
        batch = cache.batch(torch.arange(3))
        assert batch.mask.shape == (3, 2, 32, 32)
        assert batch.mask.flatten(2).any(2).tolist() == [[True, False], [True, False], [True, True]]
        assert batch.drawn.tolist() == [[True, True], [True, False], [True, True]]
        assert (batch.mask[2, 1] <= batch.mask[2, 0]).all()


def test_manifest_with_some_regions_columns_is_refused(write_site: WriteSite) -> None:
    path = write_columns(write_site)
    read, rings = manifest.read(path), Regions(("disc", "ring"))
    with pytest.raises(UserError, match=r"no column 'mask.ring'"):
        CaseCache(read, read.cases, ImageSettings(channels=1, size=32), ("round", "spiky"), 0, rings)
    report = check(path, None, regions=rings)
    assert (1, "mask.ring", "error") in found(report)


def test_region_that_the_plan_does_not_have_is_a_warning_with_suggestion(write_site: WriteSite) -> None:
    path = write_columns(write_site)
    path.write_text(path.read_text().replace("mask.cup", "mask.cups"))
    report = check(path, None, regions=EYE)
    (warning,) = [problem for problem in report.problems if problem.column == "mask.cups"]
    assert (warning.severity, warning.do) == ("warning", "did you mean 'mask.cup'?")


def test_valid_regions_have_no_problem(write_site: WriteSite) -> None:
    assert found(check(write_columns(write_site), ("round", "spiky"), regions=EYE)) == []
    assert found(check(write_values(write_site, DISC + CUP), ("round", "spiky"), regions=NESTED)) == []


def test_faults_of_a_region_name_its_column(write_site: WriteSite, tmp_path: Path) -> None:
    save(tmp_path / "small.png", 255 * CUP[:9])
    save(tmp_path / "none.png", 0 * CUP)
    path = write_columns(
        write_site,
        lambda rows: (
            rows[0].update({"mask.cup": "../cup.png"}),
            rows[1].update({"mask.cup": "small.png"}),
            rows[2].update({"mask.cup": "none.png"}),
            rows[3].update({"mask.disc": "missing.png"}),
            rows[4].update({"mask.cup": "unknown"}),
        ),
    )
    report = check(path, None, regions=EYE)
    assert found(report) == [
        (2, "mask.cup", "error"),
        (3, "mask.cup", "error"),
        (4, "mask.cup", "warning"),
        (5, "mask.disc", "error"),
        (6, "mask.cup", "warning"),
    ]
    assert "mask of cup is empty" in report.problems[2].what
    assert str(tmp_path) not in str(report.to_json())


def test_file_of_several_values_without_a_plan_is_a_warning(write_site: WriteSite) -> None:
    path = write_values(write_site, DISC + CUP)
    assert not check(path, None).errors  # a site joins before it sees a plan
    assert "if a plan names its regions" in check(path, None).warnings[0].do
    assert check(path, None, regions=Regions()).errors


def labelled(source: Dataset, labels: Sequence[str], masks: Sequence[np.ndarray]) -> bytes:
    """Make a SEG of one image whose segments have these labels."""
    made = dcmread(io.BytesIO(segmentation([source], np.stack(masks, -1)[None] > 0, labels=len(labels))))
    for segment, label in zip(made.SegmentSequence, labels, strict=True):
        segment.SegmentLabel = label
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def with_seg(write_site: WriteSite, labels: Sequence[str], masks: Sequence[np.ndarray], columns: Rows) -> Manifest:
    """Write a site whose first image is a DICOM file with a SEG, named by the cells in `columns`."""
    (cells,) = columns
    header = HEADER if "mask" in cells else WITH_COLUMNS
    path = write_site(lambda rows: rows[0].update(image="i.dcm", **cells), header)
    own = names(StudyInstanceUID=uid.generate_uid(), SeriesInstanceUID=uid.generate_uid())
    pixels = np.arange(DISC.size, dtype=np.uint16).reshape(SHAPE)
    (path.parent / "i.dcm").write_bytes(dicom(pixels, **own, ImagePositionPatient=[0, 0, 0]))
    (path.parent / "seg.dcm").write_bytes(labelled(dcmread(path.parent / "i.dcm"), labels, masks))
    return manifest.read(path)


@pytest.mark.parametrize("cells", [{"mask": "seg.dcm"}, {"mask.disc": "seg.dcm", "mask.cup": "seg.dcm"}], ids=str)
def test_segments_are_regions_by_their_labels(write_site: WriteSite, cells: dict[str, str]) -> None:
    read = with_seg(write_site, ["Cup", "vessels", "disc"], [CUP, 1 - DISC, DISC], [cells])
    np.testing.assert_array_equal(decode(read, read.cases[0], EYE, SHAPE), [DISC, CUP])


def test_segment_missing_for_a_region_is_refused_and_a_lone_segment_needs_no_label(write_site: WriteSite) -> None:
    read = with_seg(write_site, ["disc", "vessels"], [DISC, CUP], [{"mask": "seg.dcm"}])
    with pytest.raises(UserError, match="no segment with the label 'cup'"):
        decode(read, read.cases[0], EYE, SHAPE)
    read = with_seg(write_site, ["Optic disc"], [DISC], [{"mask.disc": "seg.dcm", "mask.cup": ""}])
    np.testing.assert_array_equal(decode(read, read.cases[0], EYE, SHAPE), [DISC, 0 * DISC])


def test_regions_are_packed_into_bits_and_unpacked() -> None:
    masks = np.random.default_rng(1).integers(0, 2, (8, 5, 7), dtype=np.uint8)
    np.testing.assert_array_equal(unpacked(packed(masks), 8), masks)
    np.testing.assert_array_equal(packed(masks[:1]), masks[0])  # one region: 0 and 1


def test_masks_to_draw_are_none_without_files(write_site: WriteSite) -> None:
    path = write_columns(write_site, lambda rows: rows[1].update({"mask.disc": "", "mask.cup": "unknown"}))
    read = manifest.read(path)
    np.testing.assert_array_equal(drawn_on(read, read.cases[0], EYE), DISC + 2 * CUP)
    assert drawn_on(read, read.cases[1], EYE) is None
    assert drawn_on(read, read.cases[0], Regions()) is None
