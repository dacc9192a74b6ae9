"""A message's content as a file: what was written comes back, and nothing else can be sent."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from ynet.errors import RefusedError
from ynet.federation import content
from ynet.federation.content import MAX_TEXT_BYTES, Content

in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
records = st.text("abc-_", min_size=1, max_size=5)
keys = st.text(min_size=1, max_size=6)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
arrays = hnp.arrays(np.float32, shapes, elements=st.floats(width=32))
scalars = st.text(max_size=9) | st.integers() | st.booleans() | st.floats(allow_nan=False)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.dictionaries(records, st.dictionaries(keys, arrays, min_size=1, max_size=3), max_size=2),
    st.dictionaries(records, st.dictionaries(keys, scalars, max_size=3), max_size=2),
    st.dictionaries(records, st.dictionaries(keys, numbers, max_size=3), max_size=2),
)
@in_tmp_path
def test_what_is_written_comes_back(tmp_path: Path, a: Any, c: Any, m: Any) -> None:
    written = content.write(tmp_path / "c", Content(a, c, m))
    back = content.read(tmp_path / "c")
    assert (back.configs, back.metrics) == (c, m)
    assert {name: set(record) for name, record in back.arrays.items()} == {
        name: set(record) for name, record in a.items()
    }
    for name, record in a.items():
        for key, array in record.items():
            np.testing.assert_array_equal(back.arrays[name][key], array, strict=True)
    assert written.size_bytes == (tmp_path / "c").stat().st_size
    assert content.is_digest_of(tmp_path / "c", written.sha256)


def write_raw(path: Path, header: object, body: bytes = b"") -> Path:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + body)
    return path


def text(**kinds: object) -> dict[str, Any]:
    return {
        "__metadata__": {kind: value if isinstance(value, str) else json.dumps(value) for kind, value in kinds.items()}
    }


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int64, np.uint8, np.bool_])
def test_arrays_of_another_kind_are_refused(tmp_path: Path, kind: type[np.generic]) -> None:
    save_file({"arrays/w": np.ones(3, kind)}, tmp_path / "c")
    with pytest.raises(RefusedError, match="not float32"):
        content.read(tmp_path / "c")


@pytest.mark.parametrize("kind", ["BF16", "F8_E4M3", "I4096"])
def test_arrays_of_a_kind_that_numpy_does_not_know_are_refused(tmp_path: Path, kind: str) -> None:
    write_raw(tmp_path / "c", {"arrays/w": {"dtype": kind, "shape": [2], "data_offsets": [0, 4]}}, bytes(4))
    with pytest.raises(RefusedError):
        content.read(tmp_path / "c")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        text(configs="{"),
        text(configs="7"),
        text(configs=[]),
        text(configs={"config": []}),
        text(configs={"config": 1}),
        text(configs={"config": {"k": [1]}}),
        text(configs={"config": {"k": {}}}),
        text(configs={"config": {"k": None}}),
        text(configs="[" * 100_000),
        text(metrics={"metrics": {"k": "x"}}),
        text(metrics={"metrics": {"k": True}}),
        text(metrics={"metrics": {"k": [1.0]}}),
        text(metrics='{"metrics": {"k": NaN}}'),
        text(metrics='{"metrics": {"k": Infinity}}'),
        text(metrics='{"metrics": {"k": 1%s}}' % ("0" * 400)),
        text(metrics='{"metrics": {"k": 1%s}}' % ("0" * 5000)),
        {"arrays/w": {"dtype": "F32", "shape": [1 << 62, 4, 0], "data_offsets": [0, 0]}},
        {"arrays/w": {"dtype": "F32", "shape": [1 << 62, 1 << 62], "data_offsets": [0, 0]}},
        {"arrays/w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}},
    ],
    ids=range(23),
)  # fmt: skip
def test_what_is_no_content_is_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(RefusedError):
        content.read(write_raw(tmp_path / "c", header))


def test_configs_of_more_than_four_mebibytes_are_refused(tmp_path: Path) -> None:
    content.write(tmp_path / "c", Content(configs={"config": {"k": "x" * MAX_TEXT_BYTES}}))
    with pytest.raises(RefusedError, match="4096 KiB"):
        content.read(tmp_path / "c")


def test_a_pickle_is_no_content_and_is_not_opened(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    code = f"cbuiltins\nopen\n(S'{opened}'\nS'w'\ntR."  # a pickle that makes a file when it is loaded
    for raw in (code.encode(), len(code).to_bytes(8, "little") + code.encode()):
        (tmp_path / "c").write_bytes(raw)
        with pytest.raises(RefusedError):
            content.read(tmp_path / "c")
    assert not opened.exists()


@given(st.data())
@in_tmp_path
def test_a_file_with_any_byte_changed_or_cut_off_is_read_or_refused_and_nothing_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    whole_content = Content({"arrays": {"w": np.ones(3, np.float32)}}, {"config": {"k": 1}}, {"metrics": {"m": 1.5}})
    content.write(tmp_path / "c", whole_content)
    spoilt = bytearray((tmp_path / "c").read_bytes())
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "c").write_bytes(spoilt[: data.draw(st.integers(1, len(spoilt)))])
    try:
        read = content.read(tmp_path / "c")
    except RefusedError:
        return
    assert all(array.dtype == np.float32 for record in read.arrays.values() for array in record.values())
