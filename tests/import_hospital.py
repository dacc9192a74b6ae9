"""A hospital's folder of DICOM files with labels, for tests of the import."""

import csv
from pathlib import Path

import numpy as np
from dicom_hospital import names, with_private
from dicoms import dataset, to_bytes
from pydicom import uid

from ynet_client.dicom import folder_files, import_labels, import_run
from ynet_client.dicom.deidentify import Pseudonyms
from ynet_client.dicom.folder_files import ImportCandidate
from ynet_client.dicom.import_records import Origin, Records
from ynet_client.dicom.import_run import Choice, Summary

Y, X = np.mgrid[:40, :36]
GREY = (X * 60 + Y * 12).astype(np.uint16)


class Hospital:
    """A folder of DICOM files with labels, to import."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pacs, self.out, self.home = folder, folder / "pacs", folder / "out", folder / "home"
        self.study, self.series = uid.generate_uid(), uid.generate_uid()
        for each in (self.pacs, self.home):
            each.mkdir()

    def image(self, name: str, pixels: np.ndarray | None = GREY, **elements: object) -> str:
        """Write a file and return its SOP instance UID."""
        own = {"StudyInstanceUID": self.study, "SeriesInstanceUID": self.series, "BitsStored": 12}
        made = dataset(pixels, **{**names(PatientID="CANARY-1"), **own, **elements})  # type: ignore[arg-type]
        (self.pacs / name).write_bytes(to_bytes(with_private(made)))
        return str(made.SOPInstanceUID)

    def import_(self, labels: str = "patient,label\nCANARY-1,glioma\n", **choice: object) -> Summary:
        (self.folder / "labels.csv").write_text(labels)
        return import_run.run(
            self.found(),
            import_labels.read(self.folder / "labels.csv"),
            self.out,
            Records(self.home),
            Pseudonyms.of(self.home),
            Choice(**choice),  # type: ignore[arg-type]
            lambda *_: None,
        )

    def found(self) -> list[ImportCandidate]:
        return list(folder_files.in_folders([self.pacs]))

    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader((self.out / "manifest.csv").read_text().splitlines()))

    def reasons(self) -> dict[str, str]:
        """Return the reason of each object that was left out, by UID."""
        rows = csv.DictReader((self.home / "quarantine.csv").read_text().splitlines())
        return {row["instance"]: row["reason"] for row in rows}

    def rows_or_none(self) -> list[dict[str, str]]:
        """Return the manifest's rows; there may be none."""
        return self.rows() if (self.out / "manifest.csv").exists() else []

    def origins(self) -> list[Origin]:
        """Return the origin of every picture."""
        return Records(self.home).origins

    def command(self) -> list[str]:
        """Return the command of the last import."""
        places = [self.pacs, "--labels", self.folder / "labels.csv", "--out", self.out, "--home", self.home]
        return ["import", "--dicom", *map(str, places)]
