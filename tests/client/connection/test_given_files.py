"""Files of arrays that no message carries: fetched once, over killed processes, checked by size and digest."""

import asyncio
import secrets
from collections import Counter
from pathlib import Path

import pytest
from broken_line import line_to
from loopback import Consortium, Joined, Site, play, sha256, until

from ynet.config import parse
from ynet.federation import content
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.federation.records import CONFIG, INITIAL
from ynet.plan import Plan
from ynet_client.connection.given_files import GivenFiles
from ynet_client.connection.hooks import SessionHooks
from ynet_client.membership.membership import Membership
from ynet_client.training.fixed_files import FixedFiles
from ynet_server.hub.tasks import TaskError

FILE = secrets.token_bytes(4 << 20)
SHA256 = sha256(FILE)
PLAN = parse(
    Plan,
    {
        "name": "given",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "network": {"encoder": "resnet18", "encoder_weights": SHA256},
        "training": {"rounds": 1, "learning_rate": 0.1, "trained": "heads"},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    },
    "the test's plan",
)


class Home:
    """A site's home, the sessions that run from it, and what they fetched."""

    def __init__(self, consortium: Consortium, takes_part: bool = True) -> None:
        self.consortium, self.folder, self.received = consortium, consortium.folder / "A", Counter[str]()
        self.fetched, self._takes_part = list[str](), takes_part
        self.file = self.folder / "encoders" / f"{SHA256}.safetensors"
        self.folder.mkdir()

    def start(self, member: Membership) -> Joined:
        files = GivenFiles(FixedFiles(self.folder, lambda _: self._takes_part), self.fetched.append)
        hooks = SessionHooks(received=lambda method, size: self.received.update({method: size}), files=files)
        return self.consortium.session(member, Site(), hooks=hooks)

    @property
    def arrived_bytes(self) -> int:
        partial = self.file.with_suffix(".partial")
        return partial.stat().st_size if partial.exists() else 0


async def given(consortium: Consortium, size_bytes: int = len(FILE), data: bytes = FILE) -> Path:
    """Give site A the first task of a run that names the encoder's file."""
    path, encoder = consortium.folder / "content", consortium.folder / "encoder"
    written = content.write(path, Content(configs={CONFIG: {"plan": PLAN.canonical()}}))
    encoder.write_bytes(data)
    files = [consortium.hub.offer(encoder, SHA256, size_bytes), pb.Blob(name="other", sha256="0" * 64, size_bytes=9)]
    return await consortium.hub.task("A", INITIAL, consortium.hub.offer(path, *written), files=files)


def test_file_is_fetched_once_when_both_processes_are_killed(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home, member = Home(consortium), consortium.enrol("A")
        async with line_to(consortium.port, bytes_per_s=2e6) as line:
            slow = member._replace(hub=line.address)
            first = home.start(slow)
            await until(lambda: first.session.connected)
            asking = asyncio.ensure_future(given(consortium))
            await until(lambda: home.arrived_bytes > 1 << 20)
            first.task.cancel()  # the site's process ends; nothing of it is left but the home
            await asyncio.gather(first.task, return_exceptions=True)
            second = home.start(slow)
            await until(lambda: second.session.connected)
            await asyncio.gather(asking, return_exceptions=True)  # lost with the process
            asking = asyncio.ensure_future(given(consortium))
            before = home.arrived_bytes
            await until(lambda: home.arrived_bytes > before)
            await consortium.stop()  # the server's process ends; the next one has another file under another name
            await asyncio.gather(asking, return_exceptions=True)
            await consortium.open()
            line._port = consortium.port
            await until(lambda: second.session.connected and "A" in consortium.hub.connected(), 20)
            for _ in range(2):
                (await given(consortium)).unlink()
        assert home.file.read_bytes() == FILE
        assert home.fetched == [f"encoder {SHA256}, {len(FILE)} bytes"]
        assert home.received["download"] < 1.3 * len(FILE)
        assert any("a part of it is here" in line for line in second.said)

    play(tmp_path, story, within_s=60)


def test_file_is_not_fetched_for_a_plan_that_was_not_accepted(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home = Home(consortium, takes_part=False)
        joined = home.start(consortium.enrol("A"))
        await until(lambda: joined.session.connected)
        (await given(consortium)).unlink()
        assert not list(home.folder.rglob("*.*"))

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("size_bytes", "data", "why"),
    [
        (80 << 20, FILE, "the file of the encoder is larger than its plan's network"),
        (len(FILE), b"x" * len(FILE), "the site's data or settings do not allow it"),
    ],
    ids=["too large", "another file"],
)
def test_other_file_than_announced_is_refused(tmp_path: Path, size_bytes: int, data: bytes, why: str) -> None:
    async def story(consortium: Consortium) -> None:
        home = Home(consortium)
        joined = home.start(consortium.enrol("A"))
        await until(lambda: joined.session.connected)
        with pytest.raises(TaskError, match=why):
            await given(consortium, size_bytes, data)
        assert not home.file.exists()
        assert not home.fetched

    play(tmp_path, story)
