"""Bytes as no honest side writes them: good ones, bent at a few places; and the law that parsers of them keep."""

import copy
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ynet.errors import UserError

WITHIN_S = 4.0
"""CPU time that one input may take, on a slow machine."""
MOST_MIB = 256
"""Memory that one input may take beside what was there before; an image may have 50 million pixels."""

HUGE = [b"0", b"-1", b"1e999", b"NaN", b"-Infinity", b"1e-999", b"9" * 400, str(2**63).encode(), str(2**64).encode()]
FRAGMENTS = [
    *HUGE,
    *(b"[" * 3_000, b'{"a":' * 3_000, b"- " * 500, b"null", b"true", b'""', b"{}", b"[]", b'"\\ud800"', b'"\\u0000"'),
    *(b"&a [*a]", b"<<: {a: 1}\n", b"!!bool x", b"!!int ''", b"!!float x", b"!!timestamp x", b"!!binary x", b"? [a]\n"),
    *(b"2026-99-99", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[2J", b"\r\n", b"\n", b'"', b",", b":", b"../", b"%00"),
    *(b"\xff" * 10, b"\x80" * 10 + b"\x01", b"\x08\xff\xff\xff\xff\x0f", b"x" * 20_000),
]
LENGTHS = [0, 1, 127, 128, 255, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def fuzzed(examples: int) -> Any:
    """How many inputs a test draws: the same ones each time; in `make fuzz` others, and four times as many a pass."""
    is_long = "YNET_FUZZ" in os.environ
    return settings(
        max_examples=examples * (4 if is_long else 1),
        derandomize=not is_long,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def _flip(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << value % 8)]) + data[place + 1 :]


def _put(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([value % 256]) + data[place + 1 :]


def _end(data: bytes, place: int, value: int) -> bytes:
    return data[:place]


def _cut(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + data[place + value % 64 :]


def _insert(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + FRAGMENTS[value % len(FRAGMENTS)] + data[place:]


def _replace(data: bytes, place: int, value: int) -> bytes:
    """Something else where a number or a word stood."""
    end = place
    while end < len(data) and (data[end : end + 1].isalnum() or data[end : end + 1] in b".-_+"):
        end += 1
    return data[:place] + FRAGMENTS[value % len(FRAGMENTS)] + data[max(end, place + 1) :]


def _swap(data: bytes, place: int, value: int) -> bytes:
    size = value % 32 + 1
    return data[:place] + data[place + size : place + 2 * size] + data[place : place + size] + data[place + 2 * size :]


def _repeat(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + data[place : place + value % 97 + 1] * (value % 500) + data[place:]


def _lie(data: bytes, place: int, value: int) -> bytes:
    """Another length, in 2, 4 or 8 bytes of either order."""
    size, order = (2, 4, 8)[value % 3], "little" if value % 2 else "big"
    told = LENGTHS[value % len(LENGTHS)] % (1 << 8 * size)
    return data[:place] + told.to_bytes(size, order) + data[place + size :]  # type: ignore[arg-type]


WAYS = (_flip, _put, _end, _cut, _insert, _replace, _swap, _repeat, _lie)


def mangled(*samples: bytes) -> st.SearchStrategy[bytes]:
    """One of the samples, bent one to four times at places of any depth."""
    step = st.tuples(st.sampled_from(WAYS), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1))

    def bent(sample: bytes, steps: Iterable[tuple[Callable[[bytes, int, int], bytes], int, int]]) -> bytes:
        for way, place, value in steps:
            if sample:
                sample = way(sample, place * len(sample) >> 16, value)
        return sample

    return st.builds(bent, st.sampled_from(samples), st.lists(step, min_size=1, max_size=4))


ODD: list[Any] = [None, True, -1, 0, 2**64, -(2**63), 1e308, 10**400, "", "x", "x" * 5_000, "\ud800", "\0", [], {}]
ODD += ["3", "-1", "NaN", [[]], [1, 2, 3], {"a": 1}, {"": None}, float("nan"), float("inf"), 0.1, ["x", "x"]]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a JSON value, with each key or index of it."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def _odd(sample: bytes, steps: Iterable[tuple[int, int]]) -> bytes:
    """JSON still, with other values or keys at some places."""
    value = json.loads(sample)
    for place, what in steps:
        if not (places := list(_places(value))):
            break
        inside, key = places[place % len(places)]
        if what % 8 == 0:
            del inside[key]
        elif what % 8 == 1 and isinstance(inside, dict):
            inside["x" * (what % 40)] = inside.pop(key)
        else:
            inside[key] = copy.deepcopy(ODD[what % len(ODD)])
    return json.dumps(value).encode()


def odd_json(*samples: bytes) -> st.SearchStrategy[bytes]:
    """One of the samples, which are JSON, with one to three values of it exchanged; or bent like any other bytes."""
    numbers = st.integers(0, 2**16 - 1)
    steps = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=3)
    return st.builds(_odd, st.sampled_from(samples), steps) | mangled(*samples)


def peak_mib() -> float:
    """The most memory that the process had since it was last asked to count anew (Linux; elsewhere 0)."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


def count_anew() -> None:
    """Let the peak be what the process has now (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def holds(parse: Callable[[], object], *also: type[Exception]) -> object:
    """What `parse` gives, or None for an error that it may raise: a UserError in three lines, or one of `also`.

    Fails of any other exception, and of one that takes too long or too much.
    """
    count_anew()
    before, began = peak_mib(), time.process_time()
    try:
        value = parse()
    except UserError as error:
        shown = str(error)
        assert len(shown.splitlines()) == 3, shown
        assert len(shown) < 5_000, shown[:200]
        shown.encode()
        value = None
    except also:
        value = None
    assert time.process_time() - began < WITHIN_S
    assert peak_mib() - before < MOST_MIB
    return value
