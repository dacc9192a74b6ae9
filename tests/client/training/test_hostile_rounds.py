"""A hostile hub's messages of a round are refused and shown to the site's admin, and the site continues.

The site's session, its ClientApp, its data and its connection to the hub are real.
"""

import asyncio
import functools
import json
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from loopback import Consortium, Joined, play, runs, sha256, until
from safetensors.numpy import save

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.federation import content, protocol
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, CONFIG, METRICS, TRAIN
from ynet.learning.model import arrays_of, build
from ynet.plan import Plan
from ynet_client.training import client_app
from ynet_client.training.site_data import LocalSite
from ynet_server.hub.reply_errors import REFUSED
from ynet_server.hub.tasks import TaskError

VALUES: dict[str, Any] = {
    "name": "hostile",
    "classes": list(CLASSES),
    "image": {"channels": 1, "size": 32},
    "network": {"width": 4, "code_bits": 32},
    "training": {"rounds": 4, "learning_rate": 1e-3, "batch_size": 8},
    "cohort": {"min_sites": 1, "quorum": 1},
    "privacy": {"mode": "off"},
}
PLAN = parse(Plan, VALUES, "the test's plan")
FLAT = weights.flatten(arrays_of(build(PLAN)))


def message(
    arrays: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None, more: Any = None, **config: Any
) -> Callable[[Path], bytes]:
    """Build a round's message with changed records."""
    wanted = {ARRAYS: {"block00000": FLAT}} if arrays is None else arrays
    configs = {CONFIG: {"plan": PLAN.canonical(), "server-round": 1, **config}, **(more or {})}

    def write(path: Path) -> bytes:
        content.write(path, Content(wanted, configs, metrics or {}))
        return path.read_bytes()

    return write


def body(data: bytes) -> Callable[[Path], bytes]:
    return lambda _: data


def plan(*place: str, value: Any) -> Callable[[Path], bytes]:
    """Build a round's message whose plan has one changed value."""
    full = inner = json.loads(PLAN.canonical())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return message(plan=json.dumps(full))


def other_network(width: int) -> np.ndarray:
    values = {**VALUES, "network": {"width": width, "code_bits": 32}}
    return weights.flatten(arrays_of(build(parse(Plan, values, "another plan"))))


PICKLE = b"cposix\nsystem\n(S'touch stolen'\ntR."
"""It makes a file when it is unpickled."""


def torch_file() -> bytes:
    buffer = BytesIO()
    torch.save({"block00000": torch.zeros(3)}, buffer)
    return buffer.getvalue()


def zip_bomb() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("arrays", bytes(32 << 20))
    return buffer.getvalue()


def safetensors_header(header: bytes, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header


def huge_shape() -> bytes:
    entry = {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 4]}
    return safetensors_header(json.dumps({f"{ARRAYS}/block00000": entry}).encode()) + bytes(4)


def deep_metadata() -> bytes:
    return save({f"{ARRAYS}/block00000": FLAT}, {"configs": "[" * 200_000})


def unfolding_plan() -> str:
    return json.dumps({**json.loads(PLAN.canonical()), "classes": ["c" * 60 + str(n) for n in range(50_000)]})


FOREIGN = "its plan cannot be read by ynet"
NONE = "it is not a content file of ynet"
RECORDS = "it holds records that no round has"
HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    # another architecture
    "a wider network's weights": (message({ARRAYS: {"block00000": other_network(8)}}), "the plan's network has"),
    "a value too few": (message({ARRAYS: {"block00000": FLAT[:-1]}}), "the plan's network has"),
    "weights with a shape": (message({ARRAYS: {"block00000": FLAT[None]}}), "blocks of float32"),
    "no weights": (message({}), "it brings no weights"),
    # more than was asked for
    "an array more": (message({ARRAYS: {"block00000": FLAT, "block00001": FLAT[:9]}}), "the plan's network has"),
    "a record of arrays more": (message({ARRAYS: {"block00000": FLAT}, "more": {"x": FLAT}}), RECORDS),
    "a config more": (message(more={"more": {"x": 1}}), RECORDS),
    "metrics": (message(metrics={METRICS: {"x": 1.0}}), RECORDS),
    # what a machine could run
    "a pickle": (body(PICKLE), NONE),
    "torch's file, which is a zip of pickles": (body(torch_file()), NONE),
    "a program": (body(b"\x7fELF" + bytes(60)), NONE),
    "an array of objects' dtype": (body(save({f"{ARRAYS}/block00000": FLAT.view(np.uint8)})), "not float32"),
    # a config outside the schema
    "an unknown key": (message(command="rm -rf /"), "unknown key 'command'"),
    "no plan": (message(plan=1), "it names no plan"),
    "a plan that is none": (message(plan="[[["), FOREIGN),
    "a plan with an unknown key": (plan("training", "hook", value="os.system"), FOREIGN),
    "a recipe of its own": (plan("recipe", value="ynet_client.commands.cli"), FOREIGN),
    "a strategy of its own": (plan("training", "strategy", value="os.system"), FOREIGN),
    "an image beyond all memory": (plan("image", "size", value=2**30), FOREIGN),
    "epochs without end": (plan("training", "local_epochs", value=10**9), FOREIGN),
    "privacy that is not decided": (plan("privacy", value={}), FOREIGN),
    "a round that the plan has not": (message(**{"server-round": 5}), "no whole number from 0 to 4"),
    "a round that is no number": (message(**{"server-round": True}), "no whole number"),
    "a pull that the plan has not": (message(**{"proximal-mu": 1.0}), "does not fit the plan"),
    # a path in a name
    "a plan named as a path": (plan("name", value="../../.ssh/authorized_keys"), FOREIGN),
    "a class named as a path": (plan("classes", value=["ring", "smooth", "/etc/passwd"]), FOREIGN),
    "an init elsewhere": (plan("init", value={"file": "../../secret", "sha256": "0" * 64}), FOREIGN),
    "a record named as a path": (message({"../../stolen": {"block00000": FLAT}}), RECORDS),
    "a config named as a path": (message(more={"../stolen": {"x": 1}}), RECORDS),
    # small on the line, large in memory
    "a zip bomb": (body(zip_bomb()), NONE),
    "a header of 2^63 bytes": (body(safetensors_header(b"{}", 2**63)), NONE),
    "a shape beyond all memory": (body(huge_shape()), NONE),
    "brackets without end": (body(deep_metadata()), NONE),
    "a plan of 50,000 classes": (message(plan=unfolding_plan()), FOREIGN),
}


async def join(consortium: Consortium, folder: Path) -> Joined:
    """A site with a few cases, and a client as it is installed."""
    make_federation(folder, {"A": 16}, seed=1, size=32)
    site = LocalSite(folder / "A/manifest.csv", "cpu", 1 << 24)
    return await consortium.join("A", runs(client_app.build(lambda _: site), 7))


async def trains(consortium: Consortium, joined: Joined, folder: Path) -> bool:
    """Check that an honest round still gets its update, and that no file is left."""
    reply = content.read(await consortium.task("A", message()(folder / "honest"), TRAIN))
    await until(lambda: not list(joined.spool.iterdir()))
    return bool(np.isfinite(reply.arrays[ARRAYS]["block00000"]).all()) and joined.session.connected


def test_what_no_round_has_is_refused_each_with_its_reason_and_the_site_goes_on(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await join(consortium, tmp_path / "data")
        for name, (write, why) in HOSTILE.items():
            with pytest.raises(TaskError) as caught:
                await consortium.task("A", write(tmp_path / "hostile"), TRAIN)
            assert why in str(caught.value), name
            assert caught.value.code == REFUSED, name
            assert why in joined.said[-1], name  # what the admin reads, on the terminal and in the log
            assert joined.said[-1].replace("\n", "").isprintable(), name
        assert not Path("stolen").exists()
        assert await trains(consortium, joined, tmp_path)

    play(tmp_path, story, within_s=60)


@pytest.mark.parametrize("kind", ["../../train", "train; rm -rf /", "query.shell", "", "\x1b[2J"])
def test_a_kind_of_message_that_there_is_not_is_refused(tmp_path: Path, kind: str) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await join(consortium, tmp_path / "data")
        with pytest.raises(TaskError, match="is unknown"):
            await consortium.task("A", message()(tmp_path / "hostile"), kind)
        assert await trains(consortium, joined, tmp_path)

    play(tmp_path, story)


def test_weights_with_nan_fail_the_training_only(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await join(consortium, tmp_path / "data")
        for value in (np.nan, np.inf, 3e38):
            spoilt = message({ARRAYS: {"block00000": np.full_like(FLAT, value)}})
            with pytest.raises(TaskError):
                await consortium.task("A", spoilt(tmp_path / "hostile"), TRAIN)
        assert await trains(consortium, joined, tmp_path)

    play(tmp_path, story)


def test_a_message_that_unpacks_to_more_than_one_may_be_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC may compress what it carries: here 64 MiB of zeros, which are 64 KiB on the line."""
    monkeypatch.setattr(grpc.aio, "server", functools.partial(grpc.aio.server, compression=grpc.Compression.Gzip))
    large = 64 << 20

    async def story(consortium: Consortium) -> None:
        joined = await join(consortium, tmp_path / "data")
        with (tmp_path / "zeros").open("wb") as file:
            file.truncate(large)
        with monkeypatch.context() as hostile:
            hostile.setattr(protocol, "CHUNK_BYTES", large)
            with pytest.raises(TaskError, match="broken off"):
                await consortium.hub.task("A", TRAIN, consortium.hub.offer(tmp_path / "zeros", "", large))
        assert joined.said[-1] == "a transfer was broken off: resource exhausted"
        assert await trains(consortium, joined, tmp_path)

    play(tmp_path, story)


def test_a_stream_without_end_is_left_at_the_size_that_was_announced(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await join(consortium, tmp_path / "data")
        with (tmp_path / "endless").open("wb") as file:
            file.truncate(1 << 40)
        blob = consortium.hub.offer(tmp_path / "endless", sha256(b""), 3 << 20)
        asked = asyncio.ensure_future(consortium.hub.task("A", TRAIN, blob))
        largest = 0
        while not asked.done():
            largest = max([largest, *(path.stat().st_size for path in joined.spool.iterdir())])
            await asyncio.sleep(0.002)
        with pytest.raises(TaskError):
            await asked
        assert largest <= 3 << 20
        assert await trains(consortium, joined, tmp_path)

    play(tmp_path, story)


def test_a_model_without_end_is_left_at_the_size_that_was_announced_too(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await join(consortium, tmp_path / "data")
        with (tmp_path / "endless").open("wb") as file:
            file.truncate(1 << 40)
        blob = consortium.hub.offer(tmp_path / "endless", sha256(b""), 3 << 20)
        with pytest.raises(Exception, match="not what was announced"):
            await joined.session.fetch(pb.Blob(name=blob.name, sha256=blob.sha256, size_bytes=3 << 20), tmp_path / "m")
        assert not (tmp_path / "m").exists()
        assert await trains(consortium, joined, tmp_path)

    play(tmp_path, story)
