"""What a command writes is its user's alone, whatever the umask: data of patients, weights, secrets."""

import os
import subprocess
import sys
from pathlib import Path

import dicom_hospital
import numpy as np
import pytest
from modes import open_to_others, umask
from smallest_plan import smallest_plan

from ynet import weights
from ynet.data.synthetic import make_federation
from ynet.federation import content
from ynet.federation.content import Content
from ynet.runtime import private_files
from ynet_client.gallery.gallery import Gallery
from ynet_lab.trial import Trial, command
from ynet_server.registry import Registry
from ynet_server.rounds.run_folder import RunFolder


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077, 0o277])
def test_a_folder_that_is_made_is_private_and_one_that_is_there_stays_as_it_is(mask: int, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o750)
    with umask(mask):
        private_files.make_folder(tmp_path / "theirs/a/b")
        private_files.make_folder(tmp_path / "theirs/a/b")
        private_files.own_folder(tmp_path / "c")
        private_files.write(tmp_path / "c/file", "text")
    assert [mode(tmp_path / name) for name in (".", "theirs", "theirs/a", "theirs/a/b")] == [0o755, 0o750, 0o700, 0o700]
    assert (mode(tmp_path / "c"), mode(tmp_path / "c/file")) == (0o700, 0o600)


def test_a_folder_of_ones_own_that_an_older_version_left_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir(mode=0o755)
    assert mode(private_files.own_folder(tmp_path / "images")) == 0o700


def test_a_file_is_private_also_where_an_open_one_or_half_of_one_was(tmp_path: Path) -> None:
    for name in ("file", "file.partial"):
        (tmp_path / name).write_text("open to all")
        (tmp_path / name).chmod(0o666)
    with umask():
        private_files.write(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes(), mode(path)) for path in tmp_path.iterdir()] == [("file", b"new", 0o600)]


COPY = "import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen([sys.executable, "-c", COPY, tmp_path / "pipe"], stdout=subprocess.PIPE)
    private_files.write(tmp_path / "pipe", b"through")
    assert reader.communicate()[0] == b"through"
    assert (tmp_path / "pipe").is_fifo()


def test_weights_databases_and_runs_are_private_whoever_makes_them(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with umask():
        run = RunFolder(folder).create(smallest_plan())
        run.event("round", round=1)
        arrays = {"w": np.zeros(3, np.float32)}
        for _ in range(2):
            weights.save(folder / "state.safetensors", arrays, {})
            content.write(folder / "sent", Content({"arrays": arrays}))
        Registry(folder / "registry.sqlite").close()
        Gallery.open(folder / "gallery.sqlite", b"s" * 32).close()
    assert len(list(folder.iterdir())) >= 6
    assert not open_to_others(folder)


def test_an_import_is_its_users_alone_and_so_is_what_an_older_one_left_open(tmp_path: Path) -> None:
    pacs = dicom_hospital.make(tmp_path / "pacs", 4)
    out, home = tmp_path / "site/a", tmp_path / "home"
    given = ["import", "--dicom", pacs.images[0].parent, "--labels", pacs.labels, "--out", out, "--home", home]
    with umask():
        done = command("ynet_client", *given)
    assert done.returncode == 0, done.stderr
    assert list((out / "images").glob("*.png"))
    assert list((out / "masks").glob("*.png"))
    assert not open_to_others(tmp_path / "site", home)

    out.chmod(0o755)  # the admin's choice
    (out / "images").chmod(0o755)
    (out / "manifest.csv").chmod(0o644)
    with umask():
        assert command("ynet_client", *given).returncode == 0
    assert open_to_others(out) == [f"{out} 755"]


def test_what_server_and_site_write_is_their_users_alone(tmp_path: Path) -> None:
    with umask():
        make_federation(tmp_path / "data", {"A": 8}, seed=1, size=32)
        with Trial(tmp_path / "trial", {"A": tmp_path / "data/A/manifest.csv"}) as trial:
            trial.start_server()
            trial.join("A")
            trial.wait_connected("A")
            for by, name in ((trial.server_command, "server.tar"), (lambda *a: trial.site_command("A", *a), "a.tar")):
                assert by("backup", tmp_path / name).returncode == 0
            trial.stop_all()
        kind = {"server.tar": "ynet_server", "a.tar": "ynet_client"}
        for name, module in kind.items():
            done = command(module, "restore", tmp_path / name, "--home", tmp_path / "again" / name)
            assert done.returncode == 0, done.stderr
        homes = (trial.server_home, trial.home("A"), tmp_path / "again")
        assert {path.suffix for home in homes for path in home.rglob("*")} >= {".sqlite", ".jsonl", ".key", ".log"}
        assert not open_to_others(*homes, *(tmp_path / name for name in kind), *(tmp_path / "trial").glob("*.out"))


def test_what_a_library_writes_in_a_command_is_private_too(tmp_path: Path) -> None:
    """Any file of any command: here one that no code of ynet's opens."""
    script = """
import pathlib, sys, typer
from ynet.runtime import terminal
app = typer.Typer()
@app.command()
def write(path: pathlib.Path) -> None:
    path.write_text("x")
    (path.parent / "folder").mkdir()
terminal.run(app)
"""
    with umask():
        subprocess.run([sys.executable, "-c", script, tmp_path / "file"], check=True)
    assert not open_to_others(tmp_path / "file", tmp_path / "folder")
