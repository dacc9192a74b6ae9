"""Programs that tests start and pip does not install; as a script, install them from Debian packages.

`python3 tests/programs.py` reports missing programs and installs them if it is root and apt exists; otherwise it prints
the command that does. With `--all` it fails if something is still missing at the end; names restrict it to those. It
needs only Python. needs.py is what tests use.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

PACKAGES = {
    "bash": "bash",
    "cc": "gcc libc6-dev",
    "chromium": "chromium",
    "dcmcjpeg": "dcmtk",
    "dcmcjpls": "dcmtk",
    "dcmcrle": "dcmtk",
    "dcmdump": "dcmtk",
    "ensurepip": "python3-venv",  # makes .venv
    "fish": "fish",
    "getscu": "dcmtk",
    "git": "git",
    "libOrthancDicomWeb.so": "orthanc-dicomweb",
    "Orthanc": "orthanc",
    "make": "make",
    "mount": "mount",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "setpriv": "util-linux",
    "sh": "dash",
    "storescu": "dcmtk",
    "systemd-analyze": "systemd",
    "umount": "mount",
    "unshare": "util-linux",
    "zsh": "zsh",
}
"""The Debian packages of each program."""

FILES = {
    "ensurepip": f"{sysconfig.get_path('stdlib')}/ensurepip",
    "libOrthancDicomWeb.so": "/usr/share/orthanc/plugins/libOrthancDicomWeb.so",
}
"""Names that are no programs on PATH."""

SERVICES = {"orthanc", "prometheus"}
"""Packages that start a service under systemd; tests start their own process."""

COMMAND = "sudo make programs"
APT = ("apt-get", "-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30")


def find(name: str) -> str | None:
    """Return the path of a program, or None if it is missing. Raises ValueError for a name that PACKAGES lacks."""
    if name not in PACKAGES:
        raise ValueError(f"{name} is not in tests/programs.py: add it there, with its Debian package")
    if name in FILES:
        return FILES[name] if Path(FILES[name]).exists() else None
    return shutil.which(name)


def missing(names: Iterable[str] = PACKAGES) -> list[str]:
    """Return the names whose program is missing."""
    return [name for name in names if find(name) is None]


def packages(names: Iterable[str]) -> list[str]:
    """Return the Debian packages of these programs."""
    return sorted({package for name in names for package in PACKAGES[name].split()})


def install(names: list[str]) -> None:
    """Install their Debian packages; if some cannot be installed, install the others."""
    wanted = packages(names)
    print(f"Installing Debian's packages {' '.join(wanted)}: the tests need {', '.join(names)}", flush=True)
    is_fresh = _apt("update")
    if not _apt("install", *wanted) and is_fresh:
        for package in wanted:
            _apt("install", package)
    if Path("/run/systemd/system").exists():
        for service in SERVICES.intersection(wanted):
            print(f"Stopping the service {service}, which its package has started; tests start their own")
            subprocess.run(["systemctl", "--quiet", "disable", "--now", service], check=False)


def _apt(action: str, *wanted: str) -> bool:
    flags = ["--yes", "--no-install-recommends"] if action == "install" else []
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run([*APT, action, *flags, *wanted], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"apt-get {action} {' '.join(wanted)} failed:\n{done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0


def main(*arguments: str) -> int:
    """Run the script and return its exit code."""
    names = [word for word in arguments if word != "--all"] or list(PACKAGES)
    gone = missing(names)
    if gone and os.geteuid() == 0 and shutil.which("apt-get"):
        install(gone)
        gone = missing(names)
    if gone:
        print(f"Missing here: {', '.join(gone)}")
        print(f"`{COMMAND}` installs Debian's packages {' '.join(packages(gone))}")
    return 1 if gone and "--all" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
