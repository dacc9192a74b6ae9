"""A forgotten patient is removed from every store, wherever the command was killed."""

import asyncio
import contextlib
import csv
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet_client import forgetting
from ynet_client.agent import Agent
from ynet_client.dicom.deidentify import Pseudonyms
from ynet_client.dicom.import_records import Origin, Records
from ynet_client.display import Display
from ynet_client.forgetting import Intent
from ynet_client.gallery.case_rows import GalleryCase
from ynet_client.gallery.gallery import Gallery
from ynet_client.settings import ClientSettings
from ynet_client.training.consent import Consent
from ynet_client.workbench.history import History

PACS_ID = "4711"
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from test_forgetting import PACS_ID, site_at_work
with site_at_work(Path(sys.argv[1])) as agent:
    agent.forgetting.listeners.insert(int(sys.argv[2]), lambda _: os.kill(os.getpid(), signal.SIGKILL))
    asyncio.run(agent.forget(PACS_ID))
"""


class Stores(NamedTuple):
    """Return the files that still name the patient's images."""

    gallery: set[str]
    history: set[str]
    import_: set[str]


@contextlib.contextmanager
def site_at_work(folder: Path) -> Iterator[Agent]:
    """A site's agent with the workbench's history, without a hub."""
    settings = ClientSettings(data=str(folder / "data" / "A" / "manifest.csv"), device="cpu")
    home = folder / "home"
    with (
        contextlib.closing(Agent(home, settings, Display(), 1, Consent(home, settings.policy))) as agent,
        contextlib.closing(History(home)) as history,
    ):
        agent.forgetting.listeners.append(history.forget)
        yield agent
        agent._worker.submit(int).result()  # what was begun is done


@pytest.fixture
def imported(tmp_path: Path) -> tuple[Path, set[str]]:
    """Make a site with an import in which one patient has two images; return those."""
    home = tmp_path / "home"
    home.mkdir()
    make_federation(tmp_path / "data", {"A": 6}, seed=1, size=32)
    manifest = tmp_path / "data" / "A" / "manifest.csv"
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:2]:
        row |= {"patient": Pseudonyms.of(home).patient(PACS_ID, ""), "split": "train"}
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (home / "gallery.secret").write_bytes(secret := secrets.token_bytes(32))
    with contextlib.closing(Gallery.open(home / "gallery.sqlite", secret)) as gallery:
        gallery.sync_cases(
            GalleryCase(row["image"], f"{number:064x}", row["label"], row["patient"], "train", {})
            for number, row in enumerate(rows)
        )
    records = Records(home)
    with contextlib.closing(History(home)) as history:
        for row in rows:
            history.add("mara", 0.0, "asked", row["image"], b"", {})
            records.add(Origin(Path(row["image"]).stem, "1.2", "1.3", row["image"], None))
    records.save()
    return tmp_path, {row["image"] for row in rows[:2]}


def stores(folder: Path, images: set[str]) -> Stores:
    """Return what each store still has of some images."""
    home = folder / "home"
    secret = (home / "gallery.secret").read_bytes()
    name = Pseudonyms.of(home).patient(PACS_ID, "")
    with (
        contextlib.closing(Gallery.open(home / "gallery.sqlite", secret)) as gallery,
        contextlib.closing(History(home)) as history,
    ):
        asked = {one["case"] for one in history.listed("mara")}
        kept = Records(home)
        return Stores(
            set(gallery.known(name).images),
            images & asked,
            {image for image in images if kept.of(image)},
        )


def killed(folder: Path, hook: int) -> None:
    """Start a process that forgets the patient and dies before (0) or after (1) the history is changed."""
    command = [sys.executable, "-c", KILLED, str(folder), str(hook)]
    done = subprocess.run(command, cwd=Path(__file__).parent, check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("hook", [0, 1])
def test_a_forgetting_that_was_killed_is_ended_at_the_next_start(hook: int, imported: tuple[Path, set[str]]) -> None:
    folder, images = imported
    assert stores(folder, images) == Stores(images, images, images)
    killed(folder, hook)
    assert stores(folder, images) == Stores(set(), images if hook == 0 else set(), images)
    assert PACS_ID not in (folder / "home" / forgetting.FILE).read_text()
    with site_at_work(folder) as agent:
        asyncio.run(agent.resume_forgetting())
    assert stores(folder, images) == Stores(set(), set(), set())
    assert not (folder / "home" / forgetting.FILE).exists()


def test_a_second_forgetting_ends_what_a_kill_left_of_the_first(imported: tuple[Path, set[str]]) -> None:
    folder, images = imported
    killed(folder, 0)
    with site_at_work(folder) as agent:
        receipt = asyncio.run(agent.forget(PACS_ID))
        assert (receipt["removed"], set(receipt["images"]), receipt["cases"]) == (2, images, 4)
        assert asyncio.run(agent.forget(PACS_ID))["removed"] == 0
    assert stores(folder, images) == Stores(set(), set(), set())


def test_images_that_were_never_indexed_are_forgotten_by_the_manifest(imported: tuple[Path, set[str]]) -> None:
    folder, images = imported
    (folder / "home" / "gallery.sqlite").unlink()
    with site_at_work(folder) as agent:
        assert asyncio.run(agent.forget(PACS_ID))["removed"] == 0
    assert stores(folder, images) == Stores(set(), set(), set())


def test_an_intent_of_the_same_patient_is_joined_and_ended_alone(tmp_path: Path) -> None:
    other = Intent(["bb"], [], ["y.png"])
    forgetting.begin(tmp_path, Intent(["aa"], [], ["x.png"]))
    forgetting.begin(tmp_path, other)
    joined = forgetting.begin(tmp_path, Intent(["aa"], ["P1"], []))
    assert joined == Intent(["aa"], ["P1"], ["x.png"])
    forgetting.end(tmp_path, joined)
    assert forgetting.begun(tmp_path) == [other]
    forgetting.end(tmp_path, other)
    assert not (tmp_path / forgetting.FILE).exists()


def test_an_intent_that_cannot_be_read_is_said_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / forgetting.FILE).write_text("[{")
    with pytest.raises(UserError, match="cannot be read"):
        forgetting.begun(tmp_path)
