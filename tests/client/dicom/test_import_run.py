"""An import passes allowed data only, and holds back the rest."""

import itertools
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_hospital import CANARY, segmentation
from dicoms import PDF, SECONDARY, dicom
from import_hospital import GREY, Hospital
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

from ynet.data.check import check
from ynet.data.split import is_held_back
from ynet.errors import UserError
from ynet_client import audit
from ynet_client.commands.cli import app
from ynet_client.dicom import import_labels
from ynet_client.dicom.deidentify import ALLOWED, QUARANTINE, Pseudonyms, known_as
from ynet_client.dicom.folder_files import ImportCandidate
from ynet_client.dicom.import_records import Records


@pytest.fixture
def hospital(tmp_path: Path) -> Hospital:
    return Hospital(tmp_path)


def test_imported_data_pass_check_and_hold_allowed_tags_only(hospital: Hospital) -> None:
    hospital.image("a.dcm", Modality="MR", BodyPartExamined="BRAIN", MagneticFieldStrength="3", SliceThickness="2.5")
    hospital.image("b.dcm", GREY[::-1].copy())
    done = hospital.import_()
    assert (done.images, done.patients, done.left_out) == (2, 1, {})
    pseudonym = hospital.rows()[0]["patient"]  # another in each home: held back or not
    trained_on = next(seed for seed in range(1000) if not is_held_back(pseudonym, seed))
    assert not check(hospital.out / "manifest.csv", ["glioma"], split_seed=trained_on).errors
    allowed = {one.column for one in ALLOWED.values()}
    row = next(row for row in hospital.rows() if row["body_part"])
    assert set(row) <= {"image", "mask", "label", "patient", *allowed}
    assert (row["modality"], row["body_part"], row["field_t"], row["slice_mm"]) == ("MR", "BRAIN", "3", "2.5")
    with Image.open(hospital.out / row["image"]) as picture:
        assert picture.info == {}
        seen = np.asarray(picture)
    assert seen.dtype == np.uint16
    np.testing.assert_allclose(seen / 65535, (GREY - GREY.min()) / (GREY.max() - GREY.min()), atol=1e-4)


def test_no_output_or_log_holds_a_name_from_any_tag(
    hospital: Hospital, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    hospital.image("CANARY-good.dcm")
    hospital.image("CANARY-odd.dcm", WindowCenter="1", WindowWidth="1", ImageType=["ORIGINAL", CANARY])
    hospital.image("CANARY-no-number.dcm", Modality=CANARY)
    data = (hospital.pacs / "CANARY-good.dcm").read_bytes()
    for number, cut in enumerate((300, 700, len(data) // 2, len(data) - 20)):
        (hospital.pacs / f"CANARY-cut-{number}.dcm").write_bytes(data[:cut])
    for number, (old, new) in enumerate([(b"512", b"CAN"), (b"12\0", b"CAN"), (b"(\0\x10\0US", b"(\0\x10\0LO")]):
        (hospital.pacs / f"CANARY-bent-{number}.dcm").write_bytes(data.replace(old, new))
    labels = hospital.folder / "labels.csv"
    labels.write_text("patient,label\nCANARY-1,glioma\n,other\n")
    home, out = hospital.home, hospital.out
    given = ["import", "--dicom", hospital.pacs, "--labels", labels, "--out", out, "--home", home, "--dates", "month"]
    with pytest.raises(UserError, match="row 3") as refused:
        CliRunner().invoke(app, [str(word) for word in given], catch_exceptions=False)
    labels.write_text("patient,label\nCANARY-1,glioma\n")
    done = CliRunner().invoke(app, [str(word) for word in given], catch_exceptions=False)
    assert done.exit_code == 0
    shown = done.output + str(refused.value) + caplog.text + "".join(capfd.readouterr())
    written = [path for folder in (home, out) for path in folder.rglob("*") if path.is_file()]
    assert len(written) >= 6
    for text in (shown, *(path.name for path in written), *(path.read_bytes().decode("latin1") for path in written)):
        assert "CANARY" not in text.replace(str(hospital.folder), "")
        assert "ebedee" not in text
    assert {row["date"] for row in hospital.rows()} <= {"2024-05-01", ""}


KEPT_BACK: dict[str, dict[str, object]] = {
    "burned-in": {"BurnedInAnnotation": "YES"},
    "burned-in-unknown": {"Modality": "US"},
    "secondary-capture": {"SOPClassUID": SECONDARY},
    "screen-save": {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]},
    "recognizable": {"RecognizableVisualFeatures": "YES"},
    "not-an-image": {"SOPClassUID": PDF},
}


def test_each_quarantine_reason_holds_until_release(hospital: Hospital) -> None:
    assert set(KEPT_BACK) == set(QUARANTINE)
    instances = {
        hospital.image(f"{number}.dcm", **elements): reason
        for number, (reason, elements) in enumerate(KEPT_BACK.items())
    }
    scan = hospital.image("scan.dcm", ConversionType="SD")
    fine = hospital.image("us.dcm", Modality="US", BurnedInAnnotation="NO")
    assert hospital.import_().images == 1
    assert hospital.reasons() == {**instances, scan: "secondary-capture"}
    assert [origin.instance for origin in Records(hospital.home)._origins.values()] == [fine]
    assert hospital.import_(release=frozenset(["burned-in"])).images == 2
    (row,) = [row for row in Records(hospital.home).quarantined.values() if row.instance == scan]
    assert hospital.import_(release=frozenset([row.id])).images == 3
    assert scan not in hospital.reasons()


def test_documents_are_not_fetched(hospital: Hospital) -> None:
    def never() -> bytes:
        raise AssertionError

    hospital.found = lambda: [ImportCandidate("CANARY-1", "1", "2", "3", PDF, never)]  # type: ignore[method-assign]
    assert hospital.import_().left_out == {"not-an-image": 1}


def test_interrupted_import_resumes_without_fetching_twice(hospital: Hospital) -> None:
    for number in range(4):
        hospital.image(f"{number}.dcm", GREY + number)
    fetched: list[str] = []

    def counted(one: ImportCandidate, fails: bool) -> Callable[[], bytes]:
        def fetch() -> bytes:
            if fails:
                raise KeyboardInterrupt
            fetched.append(one.instance)
            return one.fetch()

        return fetch

    listed = hospital.found()
    hospital.found = lambda: [  # type: ignore[method-assign]
        one._replace(fetch=counted(one, number == 2)) for number, one in enumerate(listed)
    ]
    with pytest.raises(KeyboardInterrupt):
        hospital.import_()
    assert len(hospital.rows()) == 2
    hospital.found = lambda: [one._replace(fetch=counted(one, False)) for one in listed]  # type: ignore[method-assign]
    assert hospital.import_("patient,label\nCANARY-1,other\n").imported == 2
    assert sorted(fetched) == sorted(one.instance for one in listed)
    assert {row["label"] for row in hospital.rows()} == {"other"}
    assert (hospital.home / "import.secret").stat().st_mode & 0o777 == 0o600
    assert (hospital.home / "imported.csv").stat().st_mode & 0o777 == 0o600


def test_pseudonym_depends_on_patient_and_key(tmp_path: Path) -> None:
    one, two = (Pseudonyms(key) for key in (b"a" * 32, b"b" * 32))
    assert one.patient("X", "1") == one.patient(" X ", "2") != two.patient("X", "1")
    assert one.patient("", "1") != one.patient("", "2")
    assert len({one.image("1", None), one.image("1", 1), one.image("1", 2), one.patient("1", "")}) == 4


def test_forget_accepts_the_pacs_patient_id(hospital: Hospital) -> None:
    assert known_as(hospital.home, "CANARY-1") == ["CANARY-1"]
    assert not (hospital.home / "import.secret").exists()
    hospital.image("a.dcm")
    hospital.import_()
    assert known_as(hospital.home, "CANARY-1") == ["CANARY-1", hospital.rows()[0]["patient"]]
    assert known_as(hospital.home, " ") == [" "]


def test_forgotten_patient_is_not_imported_again(hospital: Hospital) -> None:
    hospital.image("a.dcm")
    kept = hospital.image("b.dcm", PatientID="CANARY-2")
    hospital.import_(labels="patient,label\nCANARY-1,glioma\nCANARY-2,glioma\n")
    known = known_as(hospital.home, "CANARY-1")
    gone = next(row["image"] for row in hospital.rows() if row["patient"] == known[1])
    Records(hospital.home).forget(known, [gone])
    assert [one.instance for one in Records(hospital.home)._origins.values()] == [kept]
    assert (hospital.home / "forgotten.csv").read_text() == f"patient\n{known[1]}\n"
    (hospital.out / gone).unlink()
    done = hospital.import_(labels="patient,label\nCANARY-1,glioma\nCANARY-2,glioma\n")
    assert (done.images, done.imported, done.left_out) == (1, 0, {"forgotten": 1})
    assert not (hospital.out / gone).exists()
    assert [row["patient"] for row in hospital.rows()] == [known_as(hospital.home, "CANARY-2")[1]]


def test_most_specific_label_wins_and_unlabelled_is_skipped(hospital: Hospital) -> None:
    first, _ = hospital.image("a.dcm"), hospital.image("b.dcm", GREY + 1)
    hospital.image("c.dcm", GREY + 2, PatientID="CANARY-2")
    done = hospital.import_(f"patient,instance,label,split\nCANARY-1,,glioma,train\n,{first},other,test\n")
    assert (done.images, done.unlabelled) == (2, 1)
    assert sorted((row["label"], row["split"]) for row in hospital.rows()) == [("glioma", "train"), ("other", "test")]


def test_image_with_an_empty_label_is_imported_without_one(hospital: Hospital) -> None:
    hospital.image("a.dcm")
    hospital.image("b.dcm", GREY + 1, PatientID="CANARY-2")
    done = hospital.import_("patient,label\nCANARY-1,\nCANARY-2,glioma\n")
    assert (done.images, done.unlabelled) == (2, 0)
    assert sorted(row["label"] for row in hospital.rows()) == ["", "glioma"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("patient,label\nCANARY,a\nCANARY,b\n", "another label in an earlier row"),
        ("patient,study,label\nCANARY,1,a\n", "fills in 2 of"),
        ("patient,label,mask\nCANARY,a,m.png\n", "a mask to more than one image"),
        ("name,label\nCANARY,a\n", "columns are not those of labels"),
        ("patient,label\nCANARY,a,b\n", "has 3 cells"),
    ],
)
def test_invalid_label_error_names_row_not_patient(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=why) as refused:
        import_labels.read(tmp_path / "labels.csv")
    assert "CANARY" not in str(refused.value)


def test_manual_seg_is_the_mask_and_automatic_one_is_not(hospital: Hospital) -> None:
    hospital.image("a.dcm")
    source, mask = dcmread(hospital.pacs / "a.dcm"), (GREY > 1000)[None]
    seg = hospital.pacs / "seg.dcm"
    seg.write_bytes(segmentation([source], mask, by="AUTOMATIC"))
    assert hospital.import_().left_out == {"automatic-mask": 1}
    assert hospital.rows()[0]["mask"] == "unknown"
    (hospital.out / "manifest.csv").unlink()
    seg.write_bytes(segmentation([source], mask))
    hospital.import_()
    with Image.open(hospital.out / hospital.rows()[0]["mask"]) as drawn:
        np.testing.assert_array_equal(np.asarray(drawn) > 0, mask[0])
    (hospital.out / "manifest.csv").unlink()
    (hospital.pacs / "second.dcm").write_bytes(segmentation([source], mask))
    assert hospital.import_().left_out == {"mask-unclear": 1}


def test_multiframe_object_needs_frame_choice(hospital: Hospital) -> None:
    hospital.image("many.dcm")
    many = dicom(np.stack([GREY, GREY + 1, GREY + 2]), frames=True, StudyInstanceUID="1.2", PatientID="CANARY-1")
    (hospital.pacs / "many.dcm").write_bytes(many)
    assert hospital.import_().left_out == {"several-frames": 1}
    assert hospital.import_(frames="middle").images == 1
    assert hospital.import_(frames="all").images in (1, 3)


def test_damaged_file_is_skipped_and_others_are_imported(hospital: Hospital) -> None:
    hospital.image("good.dcm")
    bad = hospital.image("bad.dcm")
    for name in ("bad.dcm", "worse.dcm"):
        data = (hospital.pacs / "bad.dcm").read_bytes()
        (hospital.pacs / name).write_bytes(data[:-100] if name == "bad.dcm" else data[:200])
    done = hospital.import_()
    assert (done.images, done.left_out) == (1, {"unreadable": 2})
    assert set(hospital.reasons()) == {"file 1 by name", "file 3 by name"}
    assert bad not in [origin.instance for origin in Records(hospital.home)._origins.values()]


def test_command_reports_counts_and_next_step(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital.image("a.dcm")
    (hospital.folder / "labels.csv").write_text("patient,label\nCANARY-1,glioma\n")
    given = ["import", "--dicom", hospital.pacs, "--labels", hospital.folder / "labels.csv", "--out", hospital.out]
    done = CliRunner().invoke(app, [*map(str, given), "--home", str(hospital.home), "--json"], catch_exceptions=False)
    said = json.loads(done.stdout)
    assert (said["images"], said["imported"], said["patients"]) == (1, 1, 1)
    done = CliRunner().invoke(app, [*map(str, given), "--home", str(hospital.home)], catch_exceptions=False)
    assert "next: ynet-client check --data" in done.stdout
    assert "no --site" not in done.stderr
    monkeypatch.setenv("XDG_DATA_HOME", str(hospital.folder / "data"))
    monkeypatch.delenv("YNET_HOME", raising=False)
    done = CliRunner().invoke(app, [*map(str, given)], catch_exceptions=False)
    assert "no --site was named" in done.stderr
    (entry,) = audit.read(hospital.home)  # the second time there was nothing to do
    assert (entry.direction, entry.kind, entry.about) == ("did", "imported", "1 images, 0 objects left out")
    with pytest.raises(UserError, match="--window"):
        CliRunner().invoke(app, [*map(str, given), "--window", "4"], catch_exceptions=False)
    with pytest.raises(UserError, match="it is not clear what to import"):
        CliRunner().invoke(
            app,
            ["import", "--labels", str(hospital.folder / "labels.csv"), "--out", str(hospital.folder / "x")],
            catch_exceptions=False,
        )


ROOT = Path(__file__).parents[3]


def documented(head: str) -> list[list[str]]:
    """The rows of the table in docs/how-to/dicom.md that begins so."""
    lines = (ROOT / "docs/how-to/dicom.md").read_text("utf-8").splitlines()
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[lines.index(head) + 2 :])
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


def test_documentation_lists_allowed_tags_and_quarantine_reasons() -> None:
    assert documented("| tag | column | as |") == [[tag, one.column, one.rule] for tag, one in ALLOWED.items()]
    assert [row[0] for row in documented("| reason | an object that |")] == list(QUARANTINE)
