"""Compiles the scan of galleries when the package is built, where there is a C compiler; without one numpy scans.

By hand, in a checkout: `python hatch_build.py`.
"""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path(__file__).with_name("ynet") / "search/scan.c"
LIBRARY = SOURCE.with_name("_scan.so")
TIMEOUT_S = 120.0


def compile_scan(source: Path = SOURCE, library: Path = LIBRARY) -> bool:
    """Compile the scan beside its source; whether that could be done. A failure leaves no library behind.

    Not for this processor alone (-march=native): the scan finds out what it runs on.
    """
    compiler = shutil.which(os.environ.get("CC", "cc"))
    unfinished = library.with_suffix(f".{os.getpid()}")
    command = [str(compiler), "-O3", "-shared", "-fPIC", "-o", str(unfinished), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)  # noqa: S603
        unfinished.replace(library)  # who uses the old one keeps it
    except (OSError, subprocess.SubprocessError):
        unfinished.unlink(missing_ok=True)
        library.unlink(missing_ok=True)
        return False
    return True


class ScanHook(BuildHookInterface):
    """What hatchling calls before it builds a wheel, also an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Put the compiled scan into the wheel, which then is for this platform, whatever the Python."""
        if compile_scan():
            build_data["artifacts"].append(f"/ynet/search/{LIBRARY.name}")
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


if __name__ == "__main__":
    print("compiled" if compile_scan() else "no C compiler that can: numpy will scan")  # noqa: T201
