"""Room that is kept on the disk: on a real, small, full disk where that can be mounted."""

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from needs import needed

from ynet.errors import UserError
from ynet.runtime.reserve import FILE, Reserve
from ynet_server import audit
from ynet_server.audit import ServerAudit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run([needed("mount"), "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted: root alone may")
    yield disk
    subprocess.run([needed("umount"), "-l", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "flood").open("ab", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def write(log: ServerAudit, times: int) -> None:
    for _ in range(times):
        log.write("asked", "A")


def test_when_the_disk_is_full_the_log_goes_on_in_the_room_that_was_kept(small_disk: Path) -> None:
    reserve = Reserve(small_disk, 1 << 20, 1 << 20)
    assert (small_disk / FILE).stat().st_size == 1 << 20
    with closing(ServerAudit(small_disk, reserve.give_up)) as log:
        log.write("asked", "A")
        fill(small_disk)
        for _ in range(100):
            log.write("revoked", "A")
    assert not (small_disk / FILE).exists()
    assert audit.verify(small_disk).number == 101


def test_without_the_room_a_full_disk_is_an_error_of_three_lines_and_the_log_stays_whole(small_disk: Path) -> None:
    with closing(ServerAudit(small_disk)) as log:
        log.write("asked", "A")
        fill(small_disk)
        with pytest.raises(UserError, match="could not be written"):
            write(log, 100)
        (small_disk / "flood").unlink()
        log.write("asked", "A")
    audit.verify(small_disk)


def test_the_room_is_held_again_when_there_is_enough(small_disk: Path) -> None:
    reserve = Reserve(small_disk, 1 << 20, 1 << 20)
    fill(small_disk)
    assert reserve.give_up()
    assert not reserve.give_up()
    reserve.keep()
    assert not (small_disk / FILE).exists()
    (small_disk / "flood").unlink()
    reserve.keep()
    assert (small_disk / FILE).exists()


def test_little_room_is_noticed_within_a_second(tmp_path: Path) -> None:
    now = [0.0]
    assert Reserve(tmp_path, 1, floor_bytes=1 << 60, clock=lambda: now[0]).is_low()
    assert not (tmp_path / FILE).exists()
    assert not Reserve(tmp_path, 1, floor_bytes=1, clock=lambda: now[0]).is_low()
