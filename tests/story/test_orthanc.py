"""A hospital's PACS: images pushed by DICOM, imported, trained on, queried; a mask returned and read there."""

import csv
import datetime as dt
import ipaddress
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from click.testing import Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dicom_hospital import CANARY, Pacs, make
from dicoms import dicom
from modes import open_to_others
from needs import needed, needs
from orthanc import NEEDED, Orthanc, tls_before
from PIL import Image
from pydicom import dcmread
from typer.testing import CliRunner

from hospitals import small_plan
from ynet.data.check import check
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet_client.commands.cli import app
from ynet_lab.trial import Trial

pytestmark = needs(*NEEDED)
IMAGES = 50


class Story(NamedTuple):
    """A PACS, the pushed objects, and the consortium of one site made of it."""

    orthanc: Orthanc
    pacs: Pacs
    folder: Path
    trial: Trial
    printed: list[str]

    def run(self, *arguments: object) -> str:
        """Run a command of the site that must succeed; return its output, which is searched at the end."""
        done = self.trial.site_command("A", *arguments)
        self.printed.append(done.stdout + done.stderr)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def import_(self) -> dict[str, object]:
        asked = ("--dicomweb", self.orthanc.url, "--query", "Modality=MR", "--labels", self.pacs.labels)
        found: dict[str, object] = json.loads(self.run("import", *asked, "--out", self.folder / "site", "--json"))
        return found


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("hospital")
    (folder / "pushed").mkdir()
    pacs = make(folder / "pushed", IMAGES)
    with (
        Orthanc(folder / "orthanc") as orthanc,
        Trial(folder / "trial", {"A": folder / "site/manifest.csv"}) as trial,
    ):
        orthanc.push([*pacs.images, *pacs.segmentations])
        yield Story(orthanc, pacs, folder, trial, [])


def test_pacs_images_are_imported_trained_queried_and_a_mask_returned(story: Story) -> None:
    assert story.orthanc.call("/statistics")["CountInstances"] == IMAGES + len(story.pacs.segmentations)

    done = story.import_()
    assert (done["images"], done["imported"], done["left_out"]) == (IMAGES, IMAGES, {})
    manifest = story.folder / "site/manifest.csv"
    assert not check(manifest, None).errors
    assert_the_masks_are_those_of_the_segs(story, manifest)

    story.trial.start_server()
    story.trial.join_all()
    plan = small_plan(story.folder / "plan.yaml", rounds=8, cohort={"min_sites": 1, "quorum": 1})
    trained = story.trial.server_command("train", "--plan", plan, "--json")
    assert trained.returncode == 0, trained.stderr
    story.trial.wait_indexed(json.loads(trained.stdout)["model"])

    asked = json.loads(story.run("query", story.pacs.images[0], "-k", 5, "--json"))
    assert len(asked["hits"]) == 5
    assert asked["hits"][0]["image"].startswith("images/")

    assert_a_frame_is_asked_about_by_its_number(story)

    instance, seg = story.pacs.instances[1], story.folder / "seg.dcm"
    source = ("--dicomweb", story.orthanc.url, "--instance", instance)
    made = json.loads(story.run("segment", *source, "--out", seg, "--store", story.orthanc.url, "--json"))
    assert made["stored"]
    assert made["pixels"] > 0
    assert_dcmtk_reads_it(story, seg, instance, made["pixels"])
    assert not open_to_others(seg, story.folder / "site")

    again = story.import_()
    assert (again["images"], again["imported"]) == (IMAGES, 0)
    patient = str(dcmread(story.pacs.images[0]).PatientID)
    receipt = json.loads(story.run("forget", "--patient", patient, "--json"))
    assert receipt["removed"] == len(receipt["images"]) > 0
    acts = [one["kind"] for one in json.loads(story.run("audit", "show", "--json"))["entries"]]
    assert [acts.count(act) for act in ("imported", "segmented", "forgot")] == [1, 1, 1]


def assert_the_masks_are_those_of_the_segs(story: Story, manifest: Path) -> None:
    origins = story.trial.home("A") / "imported.csv"
    instance_of = {row["image"]: row["instance"] for row in csv.DictReader(origins.read_text().splitlines())}
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    assert {instance_of[Path(row["image"]).stem] for row in rows} == set(story.pacs.instances)
    for row in rows:
        drawn = story.pacs.masks[instance_of[Path(row["image"]).stem]]
        mask = np.asarray(Image.open(manifest.parent / row["mask"])) > 0 if row["mask"] else np.zeros_like(drawn)
        np.testing.assert_array_equal(mask, drawn)


def assert_a_frame_is_asked_about_by_its_number(story: Story) -> None:
    """The answer is that of the frame alone; without a number the file is refused with how to name one."""
    one = dcmread(story.pacs.images[1])
    many = story.folder / "many.dcm"
    pixels = np.stack([np.zeros_like(one.pixel_array), one.pixel_array])
    many.write_bytes(dicom(pixels, frames=True, BitsStored=12, WindowCenter=2048, WindowWidth=4096))
    alone = story.trial.query("A", story.pacs.images[1])
    assert story.trial.query("A", many.with_name("many.dcm#2"))["code"] == alone["code"]
    with pytest.raises(UserError, match="2 frames, and none is named"):
        story.trial.query("A", many)


def assert_dcmtk_reads_it(story: Story, seg: Path, instance: str, pixels: int) -> None:
    """Check that the object fetched by C-GET refers to the image and has the mask's pixels."""
    (uid,) = dump(seg, "0008,0018")
    fetched = story.orthanc.get(story.folder / "fetched", "QueryRetrieveLevel=IMAGE", f"SOPInstanceUID={uid}")
    (back,) = fetched
    assert set(dump(back, "0008,1155")) == {instance}
    assert dump(back, "0010,0020")[0].startswith("CANARY-")
    assert "Lesion" in " ".join(dump(back, "0008,0104"))
    raw = story.folder / "raw"
    raw.mkdir()
    subprocess.run([needed("dcmdump"), "-q", "+W", raw, back], check=True, capture_output=True)
    (packed,) = raw.iterdir()
    assert np.unpackbits(np.frombuffer(packed.read_bytes(), np.uint8)).sum() == pixels


def dump(path: Path, tag: str) -> list[str]:
    """Return the values of a tag at every level, as DCMTK prints them."""
    shown = subprocess.run(
        [needed("dcmdump"), "-q", "+L", "+P", tag, "+p", path], check=True, capture_output=True, text=True
    )
    return [
        line[line.index("[") + 1 : line.rindex("]")].strip("\0 ") for line in shown.stdout.splitlines() if "[" in line
    ]


def test_no_name_of_any_tag_is_kept_printed_or_sent(story: Story) -> None:
    words = (CANARY, "Zebedee", "CANARY", CANARY.replace("^", " "))
    assert len(story.printed) >= 4
    for text in [*story.printed, story.trial.log("A"), story.trial.log("server")]:
        kept = text.replace(str(story.folder), "").replace(story.pacs.images[0].name, "")
        assert not any(word in kept for word in words), kept
    for place in ("trial", "site"):
        for path in (story.folder / place).rglob("*"):
            assert "CANARY" not in path.name
            if path.is_file():
                data = path.read_bytes()
                assert not any(word.encode() in data for word in words), path


def test_pacs_with_tls_and_passwords_reports_what_is_missing(tmp_path: Path) -> None:
    pacs = make(tmp_path / "pushed", 4)
    pem, file = certificate(tmp_path / "pacs.pem"), tmp_path / "credentials"
    file.write_text("ynet:s3cret-word\n")
    with Orthanc(tmp_path / "orthanc", users={"ynet": "s3cret-word"}) as orthanc, tls_before(orthanc.http, pem) as port:
        orthanc.push(pacs.images)
        source = ["import", "--dicomweb", f"https://127.0.0.1:{port}/dicom-web", "--query", "Modality=MR"]
        places = ["--labels", str(pacs.labels), "--out", str(tmp_path / "site"), "--home", str(tmp_path / "home")]
        with pytest.raises(UnreachableError, match="unknown authority"):
            run([*source, *places])
        with pytest.raises(RefusedError, match="credentials are missing or wrong"):
            run([*source, *places, "--ca", str(pem)])
        with pytest.raises(UserError, match="chmod 600"):
            run([*source, *places, "--ca", str(pem), "--credentials", str(file)])
        file.chmod(0o600)
        done = run([*source, *places, "--ca", str(pem), "--credentials", str(file), "--json"])
        assert json.loads(done.stdout)["images"] == 4
        assert "s3cret" not in done.output


def run(arguments: list[str]) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def certificate(path: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1, with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pacs")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - dt.timedelta(hours=1)).not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
    ).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    made = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(made + key.private_bytes(serialization.Encoding.PEM, form, plain))
    return path
