"""Fetches the wheels of the dependencies: exactly those whose SHA-256 the repository names."""

import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from release.archive import digest
from ynet.errors import UserError

AT_ONCE = 4
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")


def platform() -> str:
    """Return the Python and the platform that the wheels are for."""
    machine = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{machine}"


def read_lock(path: Path) -> dict[str, str]:
    """Read the pinned wheels: each SHA-256 with its line. Raises UserError."""
    if not path.exists():
        raise UserError(
            f"no release can be made with this Python on this platform ({platform()})",
            f"there is no {path.name}",
            "make release-lock, and commit the file",
        )
    return {line.partition("--hash=sha256:")[2].strip(): line for line in path.read_text("ascii").splitlines()}


def present(folder: Path, pinned: Mapping[str, str]) -> dict[str, Path]:
    """Return the pinned wheels that a folder has, by SHA-256."""
    found = {digest(path): path for path in sorted(folder.glob("*.whl"))}
    return {sha256: path for sha256, path in found.items() if sha256 in pinned}


def fetch(lock: Path, folder: Path) -> list[Path]:
    """Bring every pinned wheel into a folder, from pip's index where it is not there yet; return their paths.

    Other wheels in the folder are left alone, and not returned. Raises UserError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pinned = read_lock(lock)
    found = present(folder, pinned)
    missing = [line for sha256, line in pinned.items() if sha256 not in found]
    said = [text for text in download(missing, folder) if text]
    found = present(folder, pinned) if missing else found
    if absent := [line.split()[0] for sha256, line in pinned.items() if sha256 not in found]:
        why = said[0] if said else "pip brought other files"
        raise UserError(f"{len(absent)} wheels could not be fetched, first {absent[0]}", why, f"put them into {folder}")
    return sorted(found.values())


def download(lines: list[str], folder: Path) -> Iterator[str]:
    """Download some lines of a lock, a few at once; yield the last words of each pip that fails."""
    parts = [part for start in range(AT_ONCE) if (part := lines[start::AT_ONCE])]
    running = []
    for number, part in enumerate(parts):
        wanted = folder / f"wanted-{number}.txt"
        wanted.write_text("\n".join(part) + "\n", "ascii")
        command = [*PIP, "download", "--no-deps", "--only-binary", ":all:", "--require-hashes", "-d", str(folder)]
        process = subprocess.Popen([*command, "-r", str(wanted)], stderr=subprocess.PIPE, text=True)
        running.append((process, wanted))
    for process, wanted in running:
        _, errors = process.communicate()
        wanted.unlink()
        if process.returncode:
            yield next((line for line in reversed(errors.splitlines()) if line.startswith("ERROR")), "pip failed")


def resolve(wheel: Path, constraints: Path, folder: Path) -> list[Path]:
    """Let pip choose the wheels of the client, with the versions of requirements.lock. For `make release-lock`."""
    shutil.rmtree(folder, ignore_errors=True)
    torch = next(line for line in constraints.read_text("utf-8").splitlines() if line.startswith("torch=="))
    for wanted in (["--no-deps", torch], [f"{wheel}[client]"]):  # torch first: the resolver may choose another build
        found = ["--find-links", str(folder)] if folder.exists() else []
        command = [*PIP, "download", "--only-binary", ":all:", "-c", str(constraints), "-d", str(folder), *found]
        subprocess.run([*command, *wanted], check=True)
    return sorted(path for path in folder.glob("*.whl") if path.name != wheel.name)
