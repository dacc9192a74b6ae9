"""What a hub that means harm can do to a site: waste its time, and nothing that lasts."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from loopback import Consortium, Site, play, sha256, until

from hospitals import small_plan
from ynet import weights
from ynet.data.synthetic import make_federation
from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import plan as plans
from ynet.federation import protocol, retrieval_pb2
from ynet.federation.content import Content
from ynet.index import Hit
from ynet.model import arrays_of, build
from ynet_client import lookup
from ynet_client.archive import Archive
from ynet_client.consent import Consent
from ynet_client.display import Display
from ynet_client.duties import Duties
from ynet_client.gallery import Gallery
from ynet_client.local_site import LocalSite
from ynet_client.settings import ClientSettings
from ynet_server.hub import TaskError
from ynet_server.reply_errors import REFUSED


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A small hospital's manifest."""
    make_federation(tmp_path / "data", {"A": 8}, seed=1, size=32)
    return tmp_path / "data" / "A" / "manifest.csv"


def archive(home: Path, manifest: Path) -> Archive:
    """The site's archive, opened as at each start."""
    gallery = Gallery.open(home / "gallery.sqlite", b"secret")
    return Archive(home / "models", LocalSite(manifest, "cpu", 1 << 20), gallery)


def model(folder: Path) -> tuple[str, Path]:
    """A published model: its id and its file."""
    plan = plans.read(small_plan(folder / "plan.yaml"))
    arrays = arrays_of(build(plan))
    path = folder / "published.safetensors"
    weights.save(path, arrays, {"plan": plan.canonical()})
    return weights.model_id(arrays, plan.id), path


def quiet(*_: object) -> None:
    """No progress is shown."""


# --- models


@pytest.mark.parametrize("name", ["../../stolen", "/{tmp}/stolen", "", "a" * 63, "A" * 64, "a" * 64 + "\n"])
def test_a_models_name_is_no_path(tmp_path: Path, manifest: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    fetched: list[Path] = []

    async def fetch(blob: hub.Blob, path: Path) -> None:
        fetched.append(path)
        path.write_bytes(b"anything")

    async def story() -> None:
        settings = ClientSettings(data=str(manifest), device="cpu")
        home = tmp_path / "home"
        duties = Duties(home, settings, Display(), 1, Consent(home, settings.policy))
        try:
            with pytest.raises(RefusedError, match="id"):
                await duties.model(hub.Model(id=name.format(tmp=tmp_path)), fetch)
        finally:
            duties.close()

    asyncio.run(story())
    assert not fetched
    assert not list(tmp_path.glob("stolen*"))


@pytest.mark.parametrize("kept", [b"", b"cut off", None], ids=["empty", "cut", "gone"])
def test_a_model_file_that_a_power_cut_spoilt_is_fetched_again_after_the_next_start(
    tmp_path: Path, manifest: Path, kept: bytes | None
) -> None:
    model_id, published = model(tmp_path)
    first = archive(tmp_path, manifest)
    first.file_of(model_id).write_bytes(published.read_bytes())
    first.adopt(model_id, first.file_of(model_id), quiet)
    first.gallery.close()
    if kept is None:
        first.file_of(model_id).unlink()
    else:
        first.file_of(model_id).write_bytes(kept)

    again = archive(tmp_path, manifest)
    assert again.model_id is None
    assert not again.file_of(model_id).exists()
    again.file_of(model_id).write_bytes(published.read_bytes())
    again.adopt(model_id, again.file_of(model_id), quiet)
    assert again.model_id == model_id
    again.gallery.close()


@pytest.mark.parametrize("body", [b"", b"no weights", None], ids=["empty", "garbage", "no plan"])
def test_a_model_that_is_none_is_refused_and_not_kept(tmp_path: Path, manifest: Path, body: bytes | None) -> None:
    model_id, published = model(tmp_path)
    opened = archive(tmp_path, manifest)
    path = opened.file_of(model_id)
    if body is None:
        weights.save(path, weights.load(published)[0], {"plan": "[1]"})
    else:
        path.write_bytes(body)
    with pytest.raises(UserError):
        opened.adopt(model_id, path, quiet)
    assert not path.exists()
    opened.gallery.close()


# --- what comes over the stream


def test_a_content_larger_than_any_model_is_refused_before_a_byte_of_it_is_kept(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        (tmp_path / "endless").write_bytes(b"x")
        blob = consortium.hub.offer(tmp_path / "endless", sha256(b"x"), protocol.MAX_BLOB_BYTES + 1)
        with pytest.raises(TaskError, match="larger than"):
            await consortium.hub.task("A", "train", blob)
        assert not list(joined.spool.iterdir())

    play(tmp_path, story)


def test_a_site_takes_few_tasks_at_a_time_and_leaves_no_file_of_them(tmp_path: Path) -> None:
    started, go_on = [], asyncio.Event()

    async def work(kind: str, received: Path) -> Content:
        started.append(kind)
        await go_on.wait()
        return Content()

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=work))
        tasks = [asyncio.ensure_future(consortium.task("A")) for _ in range(protocol.MAX_TASKS + 20)]
        await until(lambda: sum(task.done() for task in tasks) == 20)
        await until(lambda: len(started) == protocol.MAX_TASKS)
        assert len(list(joined.spool.iterdir())) == protocol.MAX_TASKS
        go_on.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(one, TaskError) and one.code == REFUSED for one in outcomes) == 20
        await until(lambda: not list(joined.spool.iterdir()))

    play(tmp_path, story)


def test_what_the_hub_says_of_itself_is_shown_without_control_characters(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        consortium.hub._federation = "\x1b]0;owned\x07evil\n"
        joined = await consortium.join("A")
        assert "evil" in joined.said[0]
        assert joined.said[0].isprintable()

    play(tmp_path, story)


# --- answers


def found(*hits: Hit) -> bytes:
    wire = [retrieval_pb2.Hit(distance=hit.distance, token=hit.token, label=hit.label, ties=hit.ties) for hit in hits]
    return retrieval_pb2.LookupReply(found=retrieval_pb2.Found(hits=wire)).SerializeToString()


def combined(*answers: tuple[str, bytes]) -> Any:
    own = [Hit(3, b"o" * 16, "x", 1)]
    return lookup.combine("A", own, hub.Answers(answers=[{"site": s, "body": b} for s, b in answers]), bytes(8), 5)


def test_nobody_answers_in_the_name_of_the_asking_site(tmp_path: Path) -> None:
    result = combined(("A", found(Hit(0, b"f" * 16, "x", 1))), ("B", found(Hit(1, b"b" * 16, "x", 1))))
    assert [(one.site, one.hit.token) for one in result.hits] == [("B", b"b" * 16), ("A", b"o" * 16)]


def test_an_answer_under_a_name_that_names_no_site_is_thrown_away(tmp_path: Path) -> None:
    assert set(combined(("\x1b[2J", found()), ("B", found())).by_site) == {"A", "B"}


def test_another_sites_reason_is_shown_without_control_characters(tmp_path: Path) -> None:
    reason = retrieval_pb2.Declined(reason="no\x1b[2J\n")
    result = combined(("B", retrieval_pb2.LookupReply(declined=reason).SerializeToString()))
    assert result.declined["B"].isprintable()
