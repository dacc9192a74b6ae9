"""The archive under its model: an interrupted re-encoding resumes, and damaged cases are encoded again."""

import asyncio
import contextlib
import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.synthetic import make_federation
from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import retrieval_pb2 as retrieval
from ynet.learning.model import arrays_of, build
from ynet.search.ranking import Hit
from ynet_client import audit
from ynet_client.agent import ASKED, Agent
from ynet_client.display import Display
from ynet_client.gallery import stored_codes
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.indexer import ENCODE_BATCH, MOST_MODELS, Archive
from ynet_client.settings import ClientSettings
from ynet_client.training.consent import Consent
from ynet_client.training.site_data import LocalSite

SECRET, CASES = b"of this site", 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital's data, and two models that nobody trained: `old` and `new` hold their ids."""
    folder = tmp_path_factory.mktemp("archive")
    make_federation(folder / "data", {"A": CASES}, seed=1, size=32)
    plan = plans.read(small_plan(folder / "plan.yaml"))
    generator = np.random.default_rng(1)
    for name in ("old", "new"):
        arrays = arrays_of(build(plan))
        arrays = {key: value + generator.normal(0, 0.05, value.shape).astype("f4") for key, value in arrays.items()}
        (folder / name).write_text(model_id := weights.model_id(arrays, plan.id))
        weights.save(folder / f"{model_id}.safetensors", arrays, {"plan": plan.canonical()})
    return folder


@contextlib.contextmanager
def opened(folder: Path, home: Path) -> Iterator[Archive]:
    home.mkdir(exist_ok=True)
    gallery = Gallery.open(home / "gallery.sqlite", SECRET)
    try:
        yield Archive(home / "models", LocalSite(folder / "data" / "A" / "manifest.csv", "cpu", 0), gallery)
    finally:
        gallery.close()


def adopt(archive: Archive, folder: Path, name: str, progress: Callable[..., None] = lambda *_: None) -> dict[str, int]:
    model_id = (folder / name).read_text()
    path = archive.file_of(model_id)
    shutil.copy(folder / path.name, path)
    return archive.adopt(model_id, path, progress)


def answer(archive: Archive) -> list[Hit]:
    """Search the archive for one of its images under the model in use."""
    code = archive.encode(archive.manifest().path_of(archive.manifest().cases[0].image)).code
    (hits,) = archive.gallery.search(archive.active().id, [code], CASES)
    return hits


def by_image(archive: Archive) -> dict[str, int]:
    return {archive.gallery.case_of(hit.token).image: hit.distance for hit in answer(archive)}


ADOPT = """
import sys
from pathlib import Path
from ynet_client.gallery.indexer import Archive
from ynet_client.gallery.gallery import Gallery
from ynet_client.training.site_data import LocalSite

manifest, home, model_id = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
gallery = Gallery.open(home / "gallery.sqlite", b"of this site")
archive = Archive(home / "models", LocalSite(manifest, "cpu", 0), gallery)
archive.adopt(model_id, archive.file_of(model_id), lambda *said: print(said[1], flush=True))
"""


def test_cases_without_label_are_indexed_and_found(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, own := tmp_path / "own")
    path = own / "data" / "A" / "manifest.csv"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    for row in rows[1:]:
        row["label"] = ""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    with opened(own, tmp_path / "home") as archive:
        assert adopt(archive, own, "old") == {"cases": CASES, "encoded": CASES}
        found = answer(archive)
        assert len(found) == CASES
        assert sorted(hit.label or "" for hit in found) == ["", *[""] * (CASES - 2), rows[0]["label"]]
        assert archive.gallery.stats()["cases_per_label"][""] == CASES - 1


def test_killed_reencoding_resumes_while_old_model_answers(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(folder, home) as archive:
        assert adopt(archive, folder, "old") == {"cases": CASES, "encoded": CASES}
        before, old = answer(archive), archive.model_id
        shutil.copy(folder / f"{(folder / 'new').read_text()}.safetensors", home / "models")
    arguments = [str(folder / "data" / "A" / "manifest.csv"), str(home), (folder / "new").read_text()]
    process = subprocess.Popen([sys.executable, "-c", ADOPT, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{ENCODE_BATCH}\n"
    process.send_signal(signal.SIGKILL)
    acknowledged = [ENCODE_BATCH, *map(int, process.stdout.read().split())][-1]
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()

    with opened(folder, home) as archive:
        assert archive.model_id == old
        assert answer(archive) == before
        left = len(archive.gallery.missing((folder / "new").read_text()))
        assert CASES - left in (acknowledged, acknowledged + ENCODE_BATCH)
        told: list[tuple[int, int]] = []

        def progress(_: str, done: int, total: int) -> None:
            told.append((done, total))
            assert archive.model_id == old
            assert answer(archive) == before

        assert adopt(archive, folder, "new", progress) == {"cases": CASES, "encoded": left}
        assert told[-1] == (left, left)
        assert archive.model_id == (folder / "new").read_text() != old
        resumed = by_image(archive)
        with pytest.raises(RefusedError, match="the query is of model"):
            archive.gallery.search(str(old), [bytes(8)], 1)
    with opened(folder, tmp_path / "at once") as archive:
        adopt(archive, folder, "new")
        assert by_image(archive) == resumed


def test_query_during_model_switch_is_answered_by_one_model(folder: Path, tmp_path: Path) -> None:
    with opened(folder, tmp_path / "home") as archive:
        adopt(archive, folder, "old")
        image = archive.manifest().path_of(archive.manifest().cases[0].image)
        of_model: dict[str, set[int]] = {}
        faults: list[BaseException] = []
        is_done = threading.Event()

        def ask() -> None:
            try:
                while not is_done.is_set():
                    model = archive.active().id
                    with contextlib.suppress(RefusedError):  # the model was switched in between
                        (hits,) = archive.gallery.search(model, [archive.encode(image).code], CASES)
                        of_model.setdefault(model, set()).add(sum(hit.distance for hit in hits))
            except BaseException as fault:  # noqa: BLE001 (told to the test)
                faults.append(fault)

        thread = threading.Thread(target=ask)
        thread.start()
        adopt(archive, folder, "new")
        until = time.monotonic() + 10
        while len(of_model) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        is_done.set()
        thread.join()
        assert faults == []
        assert {len(sums) for sums in of_model.values()} == {1}
        assert of_model.keys() == {(folder / name).read_text() for name in ("old", "new")}


# --- mending


@contextlib.contextmanager
def working(folder: Path, home: Path) -> Iterator[Agent]:
    """A site's agent, without a hub."""
    home.mkdir(exist_ok=True)
    settings = ClientSettings(data=str(folder / "data" / "A" / "manifest.csv"), device="cpu")
    agent = Agent(home, settings, Display(), 1, Consent(home, settings.policy))
    try:
        yield agent
    finally:
        agent._worker.submit(int).result()  # what was begun is done
        agent.close()


async def take_up(agent: Agent, folder: Path, name: str) -> None:
    async def fetch(_: hub.Blob, path: Path) -> None:
        shutil.copy(folder / f"{(folder / name).read_text()}.safetensors", path)

    agent.offers.say((folder / name).read_text(), "accepted")
    await agent.model(hub.Model(id=(folder / name).read_text()), fetch)


async def mended(agent: Agent) -> dict[str, int]:
    """Return the gallery's counts once the work of a start is done."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        stats = await agent.search(lambda archive: archive.gallery.stats())
        if not stats["damaged"] and stats["indexed"] == CASES:
            break
        await asyncio.sleep(0.02)
    return await agent.search(by_image)


@pytest.fixture
def indexed(folder: Path, tmp_path: Path) -> tuple[Path, dict[str, int]]:
    """Make a site's home with an indexed gallery; return it with its hits."""
    with working(folder, tmp_path / "home") as agent:
        asyncio.run(take_up(agent, folder, "old"))
        found = asyncio.run(agent.search(by_image))
    assert len(found) == CASES
    return tmp_path / "home", found


def change(home: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(home / "gallery.sqlite")) as database:
        database.execute(statement)
        database.commit()


FLIPPED = "UPDATE segments SET codes = CAST(substr(codes, 1, 3) || char(1) || substr(codes, 5) AS BLOB)"
CUT = "UPDATE segments SET ids = substr(ids, 2)"
LEFT_OUT = "DELETE FROM segments"  # as a kill leaves it between finding damage and mending it


@pytest.mark.parametrize("harm", [FLIPPED, CUT, LEFT_OUT])
def test_what_was_damaged_while_the_site_was_away_is_encoded_again_when_it_starts(
    harm: str, folder: Path, indexed: tuple[Path, dict[str, int]], caplog: pytest.LogCaptureFixture
) -> None:
    home, found = indexed
    change(home, harm)
    with working(folder, home) as agent:
        assert asyncio.run(mended(agent)) == found
        whole = asyncio.run(agent.verify())
    assert (whole["damaged"], whole["codes"], whole["encoded"]) == ([], CASES, 0)
    assert (f"segment 0 ({CASES} cases)" in caplog.text) == (harm != LEFT_OUT)


def test_verify_reports_flipped_bit_and_encodes_again(folder: Path, indexed: tuple[Path, dict[str, int]]) -> None:
    home, found = indexed
    with working(folder, home) as agent:
        assert asyncio.run(agent.index())["encoded"] == 0  # after the repair at start
        codes = asyncio.run(agent.search(lambda archive: stored_bytes(archive.gallery)))
        flip(home / "gallery.sqlite", codes)
        said = asyncio.run(agent.verify())
        assert said["damaged"] == [f"segment 0 ({CASES} cases)"]
        assert (said["codes"], said["encoded"]) == (0, CASES)
        assert asyncio.run(agent.search(by_image)) == found
        again = asyncio.run(agent.verify())
        assert (again["damaged"], again["codes"], again["encoded"]) == ([], CASES, 0)


def stored_bytes(gallery: Gallery) -> bytes:
    model = stored_codes.in_use(gallery._database)
    assert model is not None
    return stored_codes.segments(gallery._database, model)[0].codes.tobytes()


def flip(path: Path, codes: bytes) -> None:
    """Flip a bit of the first code on disk."""
    for file in (path, Path(f"{path}-wal")):
        place = file.read_bytes().find(codes[:64])
        if place >= 0:
            with file.open("r+b") as opened:
                opened.seek(place)
                opened.write(bytes([codes[0] ^ 1]))


def test_model_file_with_wrong_arrays_is_refused_before_building(folder: Path, tmp_path: Path) -> None:
    """A kilobyte that describes a network of a gigabyte."""
    values = json.loads(plans.read(folder / "plan.yaml").canonical())
    values["network"] |= {"width": 192, "block": "bottleneck"}
    plan, arrays = plans.from_canonical(json.dumps(values)), {"a": np.zeros(1, np.float32)}
    model_id = weights.model_id(arrays, plan.id)
    with opened(folder, tmp_path / "home") as archive:
        weights.save(path := archive.file_of(model_id), arrays, {"plan": plan.canonical()})
        before = psutil.Process().memory_info().rss
        with pytest.raises(UserError, match="its arrays do not match its plan's network"):
            archive.adopt(model_id, path, lambda *_: None)
        assert psutil.Process().memory_info().rss - before < 200 << 20
        assert not list((tmp_path / "home/models").iterdir())


def test_model_with_the_former_detail_code_is_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    plan = plans.read(folder / "plan.yaml")
    arrays = {**arrays_of(build(plan)), "detail.centre": np.zeros(3, np.float32)}
    model_id = weights.model_id(arrays, plan.id)
    with opened(folder, tmp_path / "home") as archive:
        weights.save(path := archive.file_of(model_id), arrays, {"plan": plan.canonical()})
        with pytest.raises(UserError, match="its network has a detail code") as refused:
            archive.adopt(model_id, path, lambda *_: None)
        assert refused.value.do == "ask the coordinator to train a new model"


def test_site_with_a_model_of_renamed_plan_keys_starts_and_waits_for_the_next(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with opened(folder, home) as archive:
        adopt(archive, folder, "old")
        path = archive.file_of((folder / "old").read_text())
        arrays, metadata = weights.load(path)
        weights.save(path, arrays, {"plan": metadata["plan"].replace('"cooldown"', '"settle"')})
    with opened(folder, home) as archive:
        with pytest.raises(RefusedError, match="it has no model"):
            archive.active()
        assert adopt(archive, folder, "new") == {"cases": CASES, "encoded": CASES}


KILLED = """
import os, sys, threading, time
from pathlib import Path
sys.path[:] = sys.argv[4:]
import test_indexer
home = Path(sys.argv[2])
def kill():  # as the system does for want of memory
    while not list(home.glob("models/*.tried")):
        time.sleep(0.0005)
    os.kill(os.getpid(), 9)
threading.Thread(target=kill, daemon=True).start()
with test_indexer.opened(Path(sys.argv[1]), home) as opened:
    test_indexer.adopt(opened, Path(sys.argv[1]), sys.argv[3])
"""


def test_model_that_killed_the_process_is_not_tried_again(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    arguments = [folder, home, "old", *sys.path, Path(__file__).parent]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
    assert done.returncode == -signal.SIGKILL
    with opened(folder, home) as archive:
        with pytest.raises(RefusedError, match="process ended during an earlier attempt") as caught:
            adopt(archive, folder, "old")
        Path(caught.value.do.rpartition(" ")[2]).unlink()
        assert adopt(archive, folder, "old")["cases"] == CASES
        assert not list(home.glob("models/*.tried"))


def test_few_models_are_kept(folder: Path, tmp_path: Path) -> None:
    with opened(folder, tmp_path / "home") as archive:
        for number in range(MOST_MODELS + 5):
            (tmp_path / f"home/models/{number:064}.safetensors").write_bytes(b"")
        adopt(archive, folder, "old")
        kept = [path.stem for path in (tmp_path / "home/models").glob("*.safetensors")]
        assert len(kept) <= MOST_MODELS
        assert archive.model_id in kept


def test_flood_of_one_site_leaves_few_lines_and_others_are_answered(folder: Path, tmp_path: Path) -> None:
    """The flood is garbage, which is the cheapest to send."""
    more = 250

    async def story(agent: Agent) -> None:
        for _ in range(int(ASKED.burst) + more):
            last = await agent.answer("B", b"\xff")
        assert retrieval.Reply.FromString(last).refused.reason == retrieval.Refused.QUOTA_SPENT
        assert retrieval.Reply.FromString(await agent.answer("C", b"\xff")).HasField("unreadable")

    (tmp_path / "home").mkdir()
    with working(folder, tmp_path / "home") as agent:
        asyncio.run(story(agent))
    entries = list(audit.read(tmp_path / "home"))
    assert [entry.kind for entry in entries].count("unreadable") <= ASKED.burst + more / 2
    assert [(entry.kind, dict(entry.outcomes)) for entry in entries][-1] == ("too-many", {"B": "refused"})
    assert len([entry for entry in entries if entry.kind == "unreadable"]) + entries[-1].count == ASKED.burst + more + 1
    assert audit.verify(tmp_path / "home").number == len(entries)


# --- data that are away, and sites without


def test_a_model_that_came_while_the_data_were_away_is_taken_up_when_they_are_back(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    for name in ("new", f"{(folder / 'new').read_text()}.safetensors"):
        shutil.copy(folder / name, tmp_path)
    data, away = tmp_path / "data" / "A", tmp_path / "away"
    with working(tmp_path, tmp_path / "home") as agent:
        data.rename(away)
        back = threading.Timer(1.0, away.rename, [data])
        back.start()
        asyncio.run(take_up(agent, tmp_path, "new"))
        back.join()
        archive = agent.archive_if_ready()
        assert archive is not None
        assert archive.gallery.stats()["indexed"] == CASES


@pytest.mark.parametrize("has_data", [True, False])
def test_a_site_that_only_asks_needs_neither_labels_nor_data(folder: Path, tmp_path: Path, *, has_data: bool) -> None:
    manifest = tmp_path / "A" / "manifest.csv"
    if has_data:
        shutil.copytree(folder / "data" / "A", manifest.parent)
        lines = [line.split(",") for line in manifest.read_text("utf-8").splitlines()]
        at = lines[0].index("label")
        bare = [lines[0], *([*cells[:at], "", *cells[at + 1 :]] for cells in lines[1:])]
        manifest.write_text("\n".join(",".join(cells) for cells in bare), "utf-8")
    with contextlib.closing(Gallery.open(tmp_path / "gallery.sqlite", SECRET)) as gallery:
        site = LocalSite(manifest if has_data else None, "cpu", 0, trains=False)
        archive = Archive(tmp_path / "models", site, gallery)
        cases = CASES if has_data else 0
        assert adopt(archive, folder, "new") == {"cases": cases, "encoded": cases}
        image = folder / "data" / "A" / first_image(folder)
        (hits,) = gallery.search(archive.active().id, [archive.encode(image).code], CASES)
        assert len(hits) == cases


def first_image(folder: Path) -> str:
    return LocalSite(folder / "data" / "A" / "manifest.csv", "cpu", 0).manifest().cases[0].image
