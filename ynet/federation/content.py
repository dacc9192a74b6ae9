"""The content of one message of the Flower apps as a file: one safetensors buffer, and its index beside it.

A content holds named float32 arrays, and two kinds of small records: configs (text and numbers) and metrics (numbers).
The reader accepts nothing else, so that nothing else can be sent.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ynet.errors import RefusedError
from ynet.runtime import private_files

Array = npt.NDArray[np.float32]
Scalar = str | int | float | bool
CHUNK_BYTES = 1 << 20
MAX_TEXT_BYTES = 4 << 20
MAX_HEAD_BYTES = 16 << 20  # such text, escaped, and the names of arrays
MAX_METRICS_BYTES = 16 << 10  # a few figures: the server keeps them for every round


@dataclass(frozen=True)
class Content:
    """The records of a message: record name -> key -> value."""

    arrays: Mapping[str, Mapping[str, Array]] = field(default_factory=dict)
    configs: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class ContentHead(NamedTuple):
    """The header of a file of arrays."""

    metadata: Mapping[str, str]
    values: int  # in all its arrays together
    bytes: int  # before the first array

    def configs(self) -> Mapping[str, Mapping[str, Scalar]]:
        """The configs of a content file. Raises RefusedError."""
        try:
            return _records(self.metadata, "configs", MAX_TEXT_BYTES)
        except (ValueError, TypeError, AttributeError, RecursionError):
            raise _refused("it is not a content file of ynet") from None


class Written(NamedTuple):
    """A content file's digest (64 hexadecimal digits) and size."""

    sha256: str
    size_bytes: int


def write(path: Path, content: Content) -> Written:
    """Write `content` as one safetensors file, one array at a time, without a second copy of the arrays."""
    header, start = {}, 0
    for record, key, array in _each(content.arrays):
        size = array.size * 4
        header[f"{record}/{key}"] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [start, start + size],
        }
        start += size
    text = {"configs": json.dumps(content.configs), "metrics": json.dumps(content.metrics)}
    encoded = json.dumps({"__metadata__": text, **header}, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    sha = hashlib.sha256()
    private_files.begin(path)
    with path.open("wb") as file:
        for part in _parts(encoded, content.arrays):
            file.write(part)
            sha.update(part)
    return Written(sha.hexdigest(), 8 + len(encoded) + start)


def read(path: Path) -> Content:
    """Read the content that `write` wrote. Raises RefusedError when the file is anything else."""
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays: dict[str, dict[str, Array]] = {}
            for name in file.keys():  # noqa: SIM118 (no mapping)
                record, _, key = name.partition("/")
                arrays.setdefault(record, {})[key] = _float32(name, file.get_tensor(name))
        return Content(
            arrays,
            _records(metadata, "configs", MAX_TEXT_BYTES),
            _numbers(_records(metadata, "metrics", MAX_METRICS_BYTES)),
        )
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        raise _refused("it is not a content file of ynet") from None


def head(path: Path) -> ContentHead | None:
    """Read the header of a safetensors file that may still be arriving; None while the header is incomplete.

    Raises RefusedError where it is none.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEAD_BYTES:
            raise _refused("its beginning is too large")
        text = file.read(size)
    if path.stat().st_size < 8 + size:
        return None
    try:
        entries = dict(json.loads(text))
        metadata = dict(entries.pop("__metadata__", {}))
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("not text")
        values = sum(math.prod(map(_whole, one["shape"])) for one in entries.values())
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError):
        raise _refused("it is not a file of arrays") from None
    return ContentHead(metadata, values, 8 + size)


def _whole(side: object) -> int:
    if not isinstance(side, int) or isinstance(side, bool) or side < 0:
        raise ValueError("no side of an array")
    return side


def is_digest_of(path: Path, sha256: str) -> bool:
    """Whether a file has this SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _parts(header: bytes, arrays: Mapping[str, Mapping[str, Array]]) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(8, "little")
    yield header
    for _, _, array in _each(arrays):
        yield np.ascontiguousarray(array, dtype="<f4").reshape(-1).data.cast("B")


def _each(arrays: Mapping[str, Mapping[str, Array]]) -> Iterator[tuple[str, str, Array]]:
    for record in arrays:
        for key, array in arrays[record].items():
            yield record, key, array


def _float32(name: str, array: npt.NDArray[Any]) -> Array:
    if array.dtype != np.float32:
        raise _refused(f"the array {name[:60]!r} is {array.dtype}, not float32")
    return array


def _records(metadata: Mapping[str, str], kind: str, limit: int) -> dict[str, dict[str, Scalar]]:
    text = metadata.get(kind, "{}")
    if len(text) > limit:
        raise _refused(f"its {kind} have more than {limit >> 10} KiB")
    loaded = json.loads(text)
    for record in loaded.values():
        for value in record.values():
            if not isinstance(value, str | int | float | bool):
                raise _refused(f"its {kind} hold something other than text and numbers")
    return dict(loaded)


def _numbers(records: Mapping[str, Mapping[str, Scalar]]) -> dict[str, dict[str, float]]:
    for record in records.values():
        for value in record.values():
            if isinstance(value, str | bool) or not math.isfinite(value):
                raise _refused("its metrics hold something other than finite numbers")
    return {name: {key: float(value) for key, value in record.items()} for name, record in records.items()}


def _refused(why: str) -> RefusedError:
    return RefusedError("a message was refused", why, "use the same ynet version on both sides")
