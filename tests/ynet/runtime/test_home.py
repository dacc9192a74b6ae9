"""The home folder: private, written whole, and held by one process."""

import subprocess
import sys
from pathlib import Path

import pytest

from ynet.errors import UserError
from ynet.runtime.home import Lock, default_home, prepare, write_private


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_home_is_its_owners_alone_also_when_it_was_open_before(tmp_path: Path) -> None:
    assert mode(prepare(tmp_path / "a" / "b")) == 0o700
    (tmp_path / "open").mkdir(mode=0o755)
    assert mode(prepare(tmp_path / "open")) == 0o700


def test_a_home_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be used"):
            prepare(path)


def test_the_environment_names_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("YNET_HOME", str(tmp_path))
    assert default_home("server") == tmp_path
    monkeypatch.delenv("YNET_HOME")
    assert default_home("server").parts[-2:] == ("ynet", "server")


def test_a_private_file_is_readable_by_its_owner_alone_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("old, and open to all")
    path.chmod(0o644)
    (tmp_path / "key.partial").write_text("what a power cut left")
    (tmp_path / "key.partial").chmod(0o644)
    write_private(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_a_private_file_is_not_written_through_a_planted_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("untouched")
    (tmp_path / "key.partial").symlink_to(tmp_path / "elsewhere")
    write_private(tmp_path / "key", b"secret")
    assert (tmp_path / "elsewhere").read_text() == "untouched"
    assert not (tmp_path / "key").is_symlink()


def test_a_home_is_held_by_one_process_and_let_go_when_that_process_dies(tmp_path: Path) -> None:
    hold = "import sys, pathlib; from ynet.runtime.home import Lock"
    hold += "; l = Lock(pathlib.Path(sys.argv[1]), 'x').__enter__(); print('held')"
    holder = subprocess.Popen(
        [sys.executable, "-uc", f"{hold}; input()", tmp_path], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="the server is running already"), Lock(tmp_path, "the server"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with Lock(tmp_path, "the server"), pytest.raises(UserError), Lock(tmp_path, "the server"):
        pass
    with Lock(tmp_path, "the server"):
        pass
