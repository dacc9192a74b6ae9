"""The audit log on a real file: what it shows, what it lets through, and what a kill leaves."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ynet_client import audit
from ynet_client.audit import HEAD, LOG, Audit, AuditError


def write(log: Audit, count: int, user: str = "u") -> None:
    for _ in range(count):
        log.write(
            1.5, "answered", "query", {"B": "found"}, user=user, hits={"B": 3}, codes=64, k=10, filters=("label",)
        )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    log = Audit(tmp_path)
    write(log, 5)
    log.close()
    return tmp_path


def test_log_round_trips_and_verifies(home: Path) -> None:
    assert audit.verify(home).number == 5
    entry = list(audit.read(home))[-1]
    assert (entry.number, entry.codes, entry.k, entry.filters) == (5, 64, 10, ("label",))
    assert entry.outcomes == {"B": "found"}
    again = Audit(home)
    write(again, 2)
    again.close()
    assert audit.verify(home).number == 7


def test_empty_log_verifies(tmp_path: Path) -> None:
    assert audit.verify(tmp_path).number == 0


SPOILS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edited": lambda lines: [lines[0].replace(b'"hits":{"B":3}', b'"hits":{"B":0}'), *lines[1:]],
    "one taken out": lambda lines: lines[:2] + lines[3:],
    "the end cut off": lambda lines: lines[:-1],
    "all cut off": lambda lines: lines[:0],
    "exchanged": lambda lines: [lines[1], lines[0], *lines[2:]],
    "no JSON": lambda lines: [b"{}\n", *lines[1:]],
    "white space": lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]],
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=list(SPOILS))
def test_edited_or_cut_log_is_detected(home: Path, spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = (home / LOG).read_bytes().splitlines(keepends=True)
    (home / LOG).write_bytes(b"".join(spoil(lines)))
    with pytest.raises(AuditError, match="cannot be trusted") as caught:
        audit.verify(home)
    assert caught.value.exit_code == 3


def test_log_with_missing_end_is_not_appended(home: Path) -> None:
    lines = (home / LOG).read_bytes().splitlines(keepends=True)
    (home / LOG).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(AuditError, match="had 5"):
        Audit(home)


def test_log_without_head_is_rejected(home: Path) -> None:
    (home / HEAD).unlink()
    for open_it in (audit.verify, Audit):
        with pytest.raises(AuditError, match="is missing"):
            open_it(home)


def test_half_written_line_is_cut_off_at_start(home: Path) -> None:
    with (home / LOG).open("ab") as file:
        file.write(b'{"codes":64,"direction":"ans' + b"x" * 100_000)
    assert audit.verify(home).number == 5
    log = Audit(home)
    write(log, 1)
    log.close()
    assert audit.verify(home).number == 6


def test_threads_write_one_chain(tmp_path: Path) -> None:
    log = Audit(tmp_path)
    threads = [threading.Thread(target=write, args=(log, 50, str(n))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert audit.verify(tmp_path).number == 200


WRITER = """
import sys
from pathlib import Path
from ynet_client.audit import Audit
log = Audit(Path(sys.argv[1]))
for number in range(10**6):
    log.write(1.0, "asked", "query", {"B": "found"}, user=f"user {number}")
    print(number, flush=True)
"""


def test_kill_loses_no_acknowledged_entry(tmp_path: Path) -> None:
    reported = 0
    for attempt in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout
        seen = [writer.stdout.readline()]
        until = time.monotonic() + 0.02 * attempt
        while time.monotonic() < until:
            seen.append(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        seen += writer.stdout.read().splitlines(keepends=True)
        writer.wait()
        writer.stdout.close()
        reported += sum(line.endswith(b"\n") for line in seen)
        chained = list(audit.read(tmp_path))
        assert len(chained) >= reported
        Audit(tmp_path).close()
        assert audit.verify(tmp_path).number == len(chained)
        reported = len(chained)


def test_log_takes_hundreds_of_entries_per_second(tmp_path: Path) -> None:
    log = Audit(tmp_path)
    start = time.perf_counter()
    write(log, 500)
    took_s = time.perf_counter() - start
    log.close()
    assert took_s < 1.0


def test_log_holds_filter_kinds_without_values(home: Path) -> None:
    held = set(json.loads((home / LOG).read_bytes().splitlines()[0]))
    chain = {"number", "time", "previous"}
    assert held - chain == {"direction", "kind", "outcomes", "hits", "user", "codes", "k", "filters", "epsilon"}
