"""A hub's file is fetched only as far as its plan needs, and without its arrays when the plan is not accepted."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from loopback import Consortium, Site, play, sha256, until
from smallest_plan import smallest_plan

from ynet import weights
from ynet.errors import RefusedError
from ynet.federation import content
from ynet.federation.content import Content
from ynet.network_size import network_values
from ynet.plan import Plan
from ynet_client.connection import download_limit
from ynet_client.connection.download_limit import DownloadLimits
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_server.hub.tasks import TaskError

PLAN = smallest_plan()
LARGE = 8 << 20


def message(folder: Path, values: int, plan: Plan = PLAN) -> bytes:
    path = folder / "message"
    arrays = {"arrays": {"block00000": np.zeros(values, np.float32)}}
    content.write(path, Content(arrays, {"config": {"plan": plan.canonical(), "server-round": 1}}))
    return path.read_bytes()


def told(tmp_path: Path, values: int, *, takes_part: bool) -> tuple[list[Content], list[int], str]:
    """Return what a site's work received of a message, the sizes of its spool files, and why it was refused."""
    given, sizes, refusals = list[Content](), list[int](), list[str]()

    async def work(kind: str, received: Path) -> Content:
        sizes.append(received.stat().st_size)
        given.append(content.read(received))
        return Content()

    async def story(consortium: Consortium) -> None:
        spool = tmp_path / "site"
        spool.mkdir()
        session = Session(
            consortium.enrol("A"),
            spool,
            Site(task=work),
            lambda _: None,
            SessionHooks(limits=DownloadLimits(download_limit.of_task(lambda _: takes_part))),
        )
        consortium.run(session)
        await until(lambda: session.connected)
        try:
            await consortium.task("A", message(tmp_path, values))
        except TaskError as error:
            refusals.append(str(error))

    play(tmp_path, story)
    return given, sizes, "".join(refusals)


def test_a_message_of_an_accepted_plan_arrives_whole(tmp_path: Path) -> None:
    needed = network_values(PLAN)
    ((got,), _, why) = told(tmp_path, needed, takes_part=True)
    assert not why
    assert got.arrays["arrays"]["block00000"].size == needed


def test_of_a_plan_without_a_yes_no_array_is_fetched_and_the_site_can_still_say_so(tmp_path: Path) -> None:
    ((got,), (size,), why) = told(tmp_path, LARGE, takes_part=False)
    assert not why
    assert not got.arrays
    assert got.configs["config"]["plan"] == PLAN.canonical()
    assert size < 1 << 16


def test_more_than_a_plan_needs_is_refused_at_its_beginning(tmp_path: Path) -> None:
    given, _, why = told(tmp_path, LARGE, takes_part=True)
    assert not given
    assert "larger than its plan's network" in why


def model(folder: Path, values: int) -> Path:
    path = folder / "model.safetensors"
    weights.save(path, {"a": np.zeros(values, np.float32)}, {"plan": PLAN.canonical()})
    return path


def test_a_model_larger_than_its_plans_network_is_refused_at_its_beginning(tmp_path: Path) -> None:
    path = model(tmp_path, network_values(PLAN))
    assert download_limit.of_model(path, path.stat().st_size) is True
    path = model(tmp_path, LARGE)
    size = path.stat().st_size
    with path.open("rb+") as file:
        file.truncate(4000)
    with pytest.raises(RefusedError, match="larger than its plan"):
        download_limit.of_model(path, size)
    with path.open("rb+") as file:
        file.truncate(100)
    assert download_limit.of_model(path, size) is None


@pytest.mark.parametrize(
    "beginning",
    [
        b"\xff" * 64,
        (20 << 20).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
        (4).to_bytes(8, "little") + b"null",
    ],
)
def test_a_file_whose_beginning_says_nothing_is_refused(tmp_path: Path, beginning: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(beginning)
    with pytest.raises(RefusedError):
        download_limit.of_model(path, 1 << 30)


@pytest.mark.parametrize("shape", ["[-1]", "[true]", "[1e3]", '["9"]', "5", "[1099511627776,1099511627776]"])
def test_shapes_that_are_none_or_too_large_are_refused(tmp_path: Path, shape: str) -> None:
    text = f'{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":[0,4]}},"__metadata__":{{}}}}'.encode()
    path = tmp_path / "file"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(RefusedError):
        download_limit.of_model(path, 1 << 30)


def test_few_large_messages_are_at_a_site_at_a_time(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    size = 4_300_000

    async def work(kind: str, received: Path) -> Content:
        await go_on.wait()
        return Content()

    async def story(consortium: Consortium) -> None:
        spool = tmp_path / "site"
        spool.mkdir()
        look = lambda *_: True  # noqa: E731 (an accepted plan with a large network)
        session = Session(
            consortium.enrol("A"), spool, Site(task=work), lambda _: None, SessionHooks(limits=DownloadLimits(look))
        )
        consortium.run(session)
        await until(lambda: session.connected)
        body = message(tmp_path, size)
        path = tmp_path / "offered"
        path.write_bytes(body)
        blob = consortium.hub.offer(path, sha256(body), len(body))
        tasks = [asyncio.ensure_future(consortium.hub.task("A", "train", blob)) for _ in range(7)]
        await until(lambda: sum(task.done() for task in tasks) == 3, 40)
        assert all("too much to do" in str(task.exception()) for task in tasks if task.done())
        go_on.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    play(tmp_path, story, 60)
