"""Builds source archive and wheel of ynet from a commit, the same bytes each time."""

import os
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from typing import NamedTuple

from ynet.errors import UserError


class Source(NamedTuple):
    """What a release is made from."""

    commit: str  # 40 hexadecimal digits
    time: int  # of the commit, seconds since 1970
    version: str
    folder: Path  # the commit's files, without the repository's history


def export(repository: Path, commit: str, folder: Path) -> Source:
    """Write the files of a commit into a new folder: what is not committed is not released. Raises UserError."""
    try:
        full, time = git(repository, "show", "--no-patch", "--format=%H %ct", f"{commit}^{{commit}}").split()
    except subprocess.CalledProcessError:
        raise UserError(f"there is no commit {commit}", "git does not know it", "name another: COMMIT=HEAD") from None
    packed = folder.with_suffix(".tar")
    git(repository, "archive", "--format=tar", f"--output={packed}", full)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    packed.unlink()
    version = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    return Source(full, int(time), version, folder)


def git(repository: Path, *arguments: str) -> str:
    """Run git; return its output."""
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def build(source: Source, into: Path) -> tuple[Path, Path]:
    """Build the source archive and the wheel; return their paths. Times in them are the commit's."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(source.time)}
    before = os.umask(0o022)
    try:
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(into)]
        subprocess.run(command, cwd=source.folder, env=environment, check=True, capture_output=True)
    finally:
        os.umask(before)
    (archive,), (wheel,) = into.glob("ynet-*.tar.gz"), into.glob("ynet-*.whl")
    return archive, wheel
