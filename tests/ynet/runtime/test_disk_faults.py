"""A database that is held or full, and a full disk, in three lines."""

import contextlib
import errno
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ynet.runtime import disk_faults
from ynet_client.database import Database
from ynet_client.gallery.case_rows import GalleryCase
from ynet_client.gallery.gallery import Gallery
from ynet_lab.trial import Trial
from ynet_server.registry import Registry

HOLDING = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process holds a database for writing."""
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
        process.kill()


def invite_many(registry: Registry) -> None:
    for number in range(1_000):
        registry.invite(f"S{number}", b"s" * 16, 0.0, replace=False)


def three_lines(error: BaseException) -> list[str]:
    said = disk_faults.in_words(error)
    assert said is not None
    return str(said).splitlines()


def test_a_registry_that_another_process_holds_is_waited_for_a_quarter_of_a_second_and_no_longer(
    tmp_path: Path,
) -> None:
    with contextlib.closing(Registry(tmp_path / "r")) as registry, held(tmp_path / "r"):
        begun = time.monotonic()
        with pytest.raises(sqlite3.OperationalError) as caught:
            registry.invite("A", b"s" * 16, 0.0, replace=False)
        assert time.monotonic() - begun < 1.5
        assert registry.sites() == []  # reads still work
    assert "another process holds a database" in three_lines(caught.value)[1]


def test_a_registry_that_is_full_says_so_and_takes_more_when_there_is_room(tmp_path: Path) -> None:
    with contextlib.closing(Registry(tmp_path / "r")) as registry:
        (pages,) = registry._file._db.execute("PRAGMA page_count").fetchone()
        registry._file._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.OperationalError) as caught:
            invite_many(registry)
        assert "is full" in three_lines(caught.value)[1]
        registry._file._db.execute("PRAGMA max_page_count = 100000")
        registry.invite("A", b"s" * 16, 0.0, replace=False)


def test_a_full_gallery_and_a_full_book_are_the_users_to_mend(tmp_path: Path) -> None:
    with contextlib.closing(Database(tmp_path / "d", "CREATE TABLE t (a BLOB)", 1, is_synced=False)) as database:
        database._connection.execute("PRAGMA max_page_count = 4")
        with pytest.raises(disk_faults.UserError, match="could not be written"):
            database.write("INSERT INTO t VALUES (?)", (bytes(100_000),))
    with contextlib.closing(Gallery.open(tmp_path / "g", b"secret")) as gallery:
        (pages,) = gallery._database.execute("PRAGMA page_count").fetchone()
        gallery._database.execute(f"PRAGMA max_page_count = {pages}")
        cases = [
            GalleryCase(f"{number}.png", f"{number:064x}", "a" * 99, str(number), "train", {}) for number in range(999)
        ]
        with pytest.raises(disk_faults.UserError, match="gallery could not be written"):
            gallery.sync_cases(cases)


@pytest.mark.parametrize(
    "error", [ValueError("x"), sqlite3.OperationalError("no such table: t"), OSError(errno.EPERM, "x")]
)
def test_any_other_fault_is_ynets(error: Exception) -> None:
    assert disk_faults.in_words(error) is None


def test_a_command_at_a_held_registry_ends_with_three_lines_and_others_go_on(tmp_path: Path) -> None:
    with Trial(tmp_path / "trial", {}) as trial:
        trial.start_server()
        with held(trial.server_home / "registry.sqlite"):
            refused = trial.server_command("invite", "A")
            assert trial.server_command("sites").returncode == 0
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 3), refused.stderr
        assert "another process holds" in refused.stderr
        assert trial.server_command("invite", "A").returncode == 0
