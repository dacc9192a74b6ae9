"""Kill a process that changes a gallery, many times, and check each time what it left.

    python tests/gallery_kills.py --kills 1000 --seed 2

The process and the file are real; a process is forked for each kill. It reports on a pipe which change it begins and
which it has finished. Every finished change must be in the gallery, and the interrupted one wholly or not at all.
The kinds of death:

- `delay`: SIGKILL from outside, some microseconds after the start of a change of the chosen kind;
- `statement`: SIGKILL when SQLite begins the n-th statement of such changes;
- `instruction`: SIGKILL within a statement, after n steps of SQLite;
- `write`: SIGXFSZ within a write to the file or its log; the beginning of the write stays.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import gallery_truth
from gallery_truth import KINDS, SECRET, Change, Truth

from ynet_client.gallery import case_facts, gallery, stored_codes
from ynet_client.gallery.gallery import Gallery

OPENING = "opening"
HOWS = ("statement", "instruction", "write", "delay")
KILLS_OF_A_FILE = 12
# About as many as SQLite needs for one change; if it needs fewer, the next change of the kind is interrupted.
STATEMENTS = dict(zip(KINDS, (350, 350, 350, 26, 18, 22, 24, 15), strict=True))
INSTRUCTIONS = dict(zip(KINDS, (7000, 7000, 7000, 1100, 700, 1400, 2200, 350), strict=True))
WRITTEN_BYTES = 60_000  # of the log, which is checkpointed often here
STEP = 10  # instructions
MOST_CHANGES = 200
"""After this many changes without one of the chosen kind the process is killed between two changes."""


class Death(NamedTuple):
    """When and how a process dies."""

    kind: str  # of the interrupted change
    how: str
    after: int  # changes
    count: int  # statements or instructions
    delay_s: float
    share: float  # of WRITTEN_BYTES, the limit of the file size


@dataclass
class Seen:
    """Counts by kind: how many changes were interrupted, and how many of those were applied nevertheless."""

    cut_off: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    hows: Counter[str] = field(default_factory=Counter)
    changes: int = 0


def run(folder: Path, kills: int, seed: int) -> Seen:
    """Kill this many times. Raises AssertionError when a gallery lost or invented something."""
    generator, seen = random.Random(seed), Seen()
    path, truth = folder, Truth()
    for number in range(kills):
        if number % KILLS_OF_A_FILE == 0:
            path, truth = folder / f"{number}.sqlite", Truth()
        kinds = (*KINDS, OPENING)
        how = HOWS[(number + number // len(kinds)) % len(HOWS)]
        death = _death(kinds[number % len(kinds)], how, generator)
        try:
            truth = _kill_once(path, truth, death, generator.getrandbits(32), seen)
            truth = _check(path, truth, generator, seen)
        except AssertionError:
            print(f"kill {number} of seed {seed}: {death}", file=sys.stderr)
            raise
    return seen


def _death(kind: str, how: str, generator: random.Random) -> Death:
    how = "delay" if kind == OPENING else how
    most = (STATEMENTS if how == "statement" else INSTRUCTIONS).get(kind, 1)
    count, delay_s = generator.randrange(most), 0.015 * generator.random() ** 2
    return Death(kind, how, generator.randint(0, 8), count, delay_s, generator.random())


_under_way: list[Change] = []


def _kill_once(path: Path, truth: Truth, death: Death, seed: int, seen: Seen) -> Truth:
    """Return the changes acknowledged before the process died; `_under_way` has the interrupted one."""
    out, into = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(out)
        _change_until_killed(path, truth, death, seed, into)
    os.close(into)
    generator, is_opening = random.Random(seed), False
    _under_way.clear()
    with os.fdopen(out, "rb", buffering=0) as pipe:
        while message := pipe.read(1):
            if message == b"f":
                raise AssertionError(pipe.read().decode())
            if message == b"k":
                time.sleep(death.delay_s)
                os.kill(process, signal.SIGKILL)
            if message == b"b":
                _under_way.append(_draw(truth, death, generator))
            if message == b"d":
                truth = _under_way.pop().after
                seen.changes += 1
            is_opening = message == b"o" or (is_opening and message == b"k")
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status), f"the process was not killed: {status}"
    assert os.WTERMSIG(status) in (signal.SIGKILL, signal.SIGXFSZ)
    seen.hows[death.how] += 1
    seen.cut_off[OPENING] += is_opening
    return truth


def _draw(truth: Truth, death: Death, generator: random.Random) -> Change:
    return gallery_truth.draw(truth, generator, death.kind if generator.random() < 0.6 else "")


def _check(path: Path, truth: Truth, generator: random.Random, seen: Seen) -> Truth:
    """Open the gallery, check everything, and return the new truth."""
    opened, before = Gallery.open(path, SECRET), truth
    try:
        assert opened.verify()["damaged"] == []
        held = gallery_truth.holds(opened)
        for change in _under_way:
            seen.cut_off[change.kind] += 1
            if held == gallery_truth.as_held(change.after):  # a compaction has no visible state before it
                seen.done[change.kind] += 1
                truth = change.after
        assert held == gallery_truth.as_held(truth)
        gallery_truth.assert_answers(opened, truth, generator)
        for change in _under_way:
            if generator.random() < 0.5:  # repeated, it completes
                change.do(opened)
                truth = change.after
                assert gallery_truth.holds(opened) == gallery_truth.as_held(truth)
                gallery_truth.assert_answers(opened, truth, generator)
                assert change.kind != "forget" or not _traces(path, before.cases.keys() - truth.cases.keys())
    finally:
        opened.close()
    return truth


def _traces(path: Path, images: Iterable[str]) -> list[str]:
    """Return those cases that a page of the file or its log still names."""
    held = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    return [image for image in images if image.encode() in held]


# --- the killed process


def _change_until_killed(path: Path, truth: Truth, death: Death, seed: int, into: int) -> None:
    try:
        os.write(into, b"o" + b"k" * (death.kind == OPENING))
        opened = Gallery.open(path, SECRET)
        os.write(into, b"O")
        if death.kind == OPENING:
            _die()
        opened._database.execute("PRAGMA wal_autocheckpoint = 16")  # pages: checkpoint often
        generator, left = random.Random(seed), itertools.count(death.count, -STEP if death.how == "instruction" else -1)
        for number in range(MOST_CHANGES):
            change = _draw(truth, death, generator)
            is_meant = change.kind == death.kind and number >= death.after
            os.write(into, b"b" + b"k" * (is_meant and death.how == "delay"))
            with _aimed(opened, death, left) if is_meant else contextlib.nullcontext():
                change.do(opened)
            os.write(into, b"d")
            truth = change.after
        _die()
    except BaseException:  # noqa: BLE001 (reported to the parent process)
        os.write(into, b"f" + traceback.format_exc().encode())
    os._exit(1)


@contextmanager
def _aimed(opened: Gallery, death: Death, left: Iterator[int]) -> Iterator[None]:
    """Let the process die inside the block."""

    def count_down(*_: object) -> None:
        if next(left) <= 0:
            _die()

    database = opened._database
    if death.how == "statement":
        database.set_trace_callback(count_down)
    if death.how == "instruction":
        database.set_progress_handler(count_down, STEP)
    with _shot(death) if death.how == "write" else contextlib.nullcontext():
        yield
    database.set_trace_callback(None)
    database.set_progress_handler(None, 0)


@contextmanager
def _shot(death: Death) -> Iterator[None]:
    """Let the process die inside the block when it writes beyond some byte of a file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(death.share * WRITTEN_BYTES), most))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def small_parts() -> None:
    """Make segments, facts and tails so small that a gallery of a hundred cases has several of each."""
    stored_codes.SEGMENT_CASES, case_facts.CHUNK, gallery.MOST_TAIL = 32, 64, 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    small_parts()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen = run(Path(folder), given.kills, given.seed)
    names = [*KINDS, OPENING]
    shown = {"kills": given.kills, "changes": seen.changes, "seconds": round(time.monotonic() - begun, 1)}
    counts: dict[str, Callable[[str], int]] = {"cut_off": seen.cut_off.__getitem__, "done": seen.done.__getitem__}
    tables = {key: {name: count(name) for name in names} for key, count in counts.items()}
    print(json.dumps({**shown, "hows": dict(seen.hows), **tables, "torch": "torch" in sys.modules}))


if __name__ == "__main__":
    main()
