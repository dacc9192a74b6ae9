"""Files that others give, bent: images, weights, contents of messages, encoded updates."""

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from fuzz.mangling import fuzzed, holds, mangled, odd_json
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ynet import plan as plans
from ynet import weights
from ynet.data import images
from ynet.errors import RefusedError
from ynet.federation import content, update_encoding
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, CONFIG, METRICS, TRAIN
from ynet_client.training import app_call
from ynet_client.training.request import read_request
from ynet_server.rounds.run_folder import RunFolder, State

COLOURS = np.random.default_rng(1).integers(0, 256, (24, 17, 3), np.uint8)
PLAN = plans.read(Path(__file__).parents[2] / "configs/plans/default.yaml").canonical()
LAYOUT = (weights.LayoutEntry("w", (3, 5)), weights.LayoutEntry("b", (4,)), weights.LayoutEntry("v", (2, 300)))


def image(kind: str, mode: str, **how: Any) -> bytes:
    """A small picture's file."""
    made = io.BytesIO()
    picture = Image.fromarray(COLOURS)
    picture = Image.fromarray(COLOURS[..., 0].astype(np.uint16) * 200) if mode == "I;16" else picture.convert(mode)
    picture.save(made, kind, **how)
    return made.getvalue()


PICTURES = {
    "png": [image("PNG", mode) for mode in ("RGB", "L", "1", "P", "RGBA", "I;16")],
    "jpg": [image("JPEG", "RGB"), image("JPEG", "L"), image("JPEG", "RGB", progressive=True), image("JPEG", "CMYK")],
    "tif": [
        image("TIFF", mode, compression=packing)
        for mode, packing in (
            *(("RGB", None), ("L", "tiff_lzw"), ("I;16", "tiff_adobe_deflate"), ("RGB", "jpeg"), ("1", "group4")),
            *(("P", "packbits"), ("RGB", "tiff_lzw")),
        )
    ],
}


@pytest.mark.parametrize("ending", PICTURES)
@fuzzed(250)
@given(data=st.data())
def test_an_image(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    path = tmp_path / f"image.{ending}"
    path.write_bytes(data.draw(mangled(*PICTURES[ending])))
    decoded = holds(lambda: images.decode(path, 3))
    assert decoded is None or decoded.dtype == np.float32  # type: ignore[attr-defined]
    holds(lambda: images.decode_mask(path))


def png(width: int, height: int, depth: int, colour: int, packed: bytes) -> bytes:
    """A PNG of any size, its checksums right."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


sides = st.sampled_from([0, 1, 2, 31, 255, 4_000, 7_071, 7_072, 50_000, 2**24, 2**31 - 1, 2**32 - 1])


@fuzzed(60)
@given(sides, sides, st.sampled_from([1, 2, 4, 8, 16]), st.sampled_from([0, 2, 3, 4, 6]))
def test_an_image_that_says_that_it_is_large(tmp_path: Path, width: int, height: int, depth: int, colour: int) -> None:
    """Of 50 million pixels at most, and whatever it says, a file of a kilobyte takes no gigabyte."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, depth, colour, zlib.compress(bytes(100_000))))
    holds(lambda: images.decode(path, 1))


def weights_file(path: Path) -> bytes:
    arrays = {entry.name: np.ones(entry.shape, np.float32) for entry in LAYOUT}
    weights.save(path, arrays, {"round": "1", "layout": weights.layout_to_json(LAYOUT), "cases": '{"A": 3}'})
    return path.read_bytes()


def with_header(file: bytes, header: bytes) -> bytes:
    """A safetensors file with another header, its length told rightly."""
    (size,) = struct.unpack("<Q", file[:8])
    return struct.pack("<Q", len(header)) + header + file[8 + size :]


def bent_safetensors(file: bytes) -> st.SearchStrategy[bytes]:
    (size,) = struct.unpack("<Q", file[:8])
    return mangled(file) | odd_json(file[8 : 8 + size]).map(lambda header: with_header(file, header))


@fuzzed(300)
@given(data=st.data())
def test_weights(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data.draw(bent_safetensors(weights_file(path))))
    holds(lambda: weights.load(path))


@fuzzed(150)
@given(data=st.data())
def test_the_state_of_a_run(tmp_path: Path, data: st.DataObject) -> None:
    folder = RunFolder(tmp_path)
    folder.save_state(State(1, np.ones(sum(entry.size for entry in LAYOUT), np.float32), LAYOUT, {"A": 3}))
    path = tmp_path / "state.safetensors"
    path.write_bytes(data.draw(bent_safetensors(path.read_bytes())))
    holds(folder.state)


READER = ClientApp()


@READER.train()
def read_only(message: Message, _: Context) -> Message:
    """What a site's app does first with a message."""
    read_request(message)
    return Message(RecordDict(), reply_to=message)


def message_file(path: Path) -> bytes:
    flat = np.ones(30, np.float32)
    arrays = {ARRAYS: {"block00000": flat[:20], "block00001": flat[20:]}}
    configs = {CONFIG: {"plan": PLAN, "server-round": 3, "proximal-mu": 0.5, "attempt": 1, "roster": "[]"}}
    content.write(path, Content(arrays, configs, {METRICS: {"num-examples": 7, "loss": 0.5}}))
    return path.read_bytes()


def bent_texts(file: bytes) -> st.SearchStrategy[bytes]:
    """A content file with other JSON in the two texts of its metadata."""
    (size,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + size])

    def made(kind: str, text: bytes) -> bytes:
        metadata = {**header["__metadata__"], kind: text.decode("utf-8", "replace")}
        return with_header(file, json.dumps({**header, "__metadata__": metadata}).encode())

    texts = {kind: odd_json(text.encode()) for kind, text in header["__metadata__"].items()}
    return st.one_of([st.builds(made, st.just(kind), text) for kind, text in texts.items()])


@fuzzed(400)
@given(data=st.data())
def test_the_content_of_a_message(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "content"
    file = message_file(path)
    path.write_bytes(data.draw(bent_safetensors(file) | bent_texts(file)))
    loaded = holds(lambda: app_call.load(path))
    if loaded is not None:
        holds(lambda: app_call.call(READER, app_call.new_context(), TRAIN, cast(RecordDict, loaded)))


@pytest.mark.parametrize("encoding", ["float16", "int8"])
@fuzzed(100)
@given(data=st.data())
def test_an_encoded_update(encoding: update_encoding.Encoding, data: st.DataObject) -> None:
    good = update_encoding.encode(np.ones(sum(entry.size for entry in LAYOUT), np.float32), LAYOUT, encoding)
    bent = data.draw(mangled(good.tobytes()))
    values = np.frombuffer(bent[: len(bent) // 4 * 4], np.float32)
    decoded = holds(lambda: update_encoding.decode(values, LAYOUT, encoding), ValueError, RefusedError)
    assert decoded is None or decoded.shape == (sum(entry.size for entry in LAYOUT),)  # type: ignore[attr-defined]
