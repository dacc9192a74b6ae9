"""Run a site's client as a systemd user service: write the unit and start it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_config_path

from ynet.errors import UserError
from ynet.runtime.home import needs_a_home, user_name, write_private

WITHIN_S = 60.0
LINGER = Path("/var/lib/systemd/linger")
UNIT = """\
# Written by `ynet-client join --service`, which overwrites it.
[Unit]
Description=ynet client of site {site}
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Environment=FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 PYTHONUNBUFFERED=1
Restart=on-failure
RestartSec=10s
RestartPreventExitStatus=2 3
TimeoutStartSec=5min
TimeoutStopSec=30s
WatchdogSec=5min
LimitCORE=0
NoNewPrivileges=yes
UMask=0077

[Install]
WantedBy=default.target
"""


class Service(NamedTuple):
    """The result of an installation."""

    unit: Path
    is_new: bool  # else it was unchanged
    is_started: bool
    todo: tuple[str, ...]  # commands still to run


def install(site: str, home: Path) -> Service:
    """Write the unit of a site that has joined from `home`, and start it where a systemd of the user's is running.

    Done again, it changes nothing. Raises UserError.
    """
    with needs_a_home():
        unit = user_config_path("systemd", appauthor=False) / "user" / f"ynet-client-{site}.service"
    text = UNIT.format(site=site, command=" ".join(map(_quoted, _command(site, home))))
    is_new = not unit.exists() or unit.read_text("utf-8") != text
    if is_new:
        try:
            unit.parent.mkdir(parents=True, exist_ok=True)
            write_private(unit, text.encode())
        except OSError as error:
            raise UserError(f"the unit {unit} was not written", error.strerror or "", "check its folder") from None
    start = (("systemctl", "--user", "daemon-reload"), ("systemctl", "--user", "enable", "--now", unit.name))
    is_started = _is_reachable()
    if is_started:
        for command in start:
            _run(command)
    linger = () if (LINGER / user_name()).exists() else ("loginctl enable-linger",)
    return Service(unit, is_new, is_started, (*(() if is_started else map(" ".join, start)), *linger))


def _command(site: str, home: Path) -> list[str]:
    """Return the command that joins again, with the settings remembered in `home`."""
    program = Path(sys.argv[0])
    started = [str(program.resolve())] if os.access(program, os.X_OK) and program.suffix != ".py" else []
    return [*(started or [sys.executable, "-m", "ynet_client"]), "join", f"--site={site}", f"--home={home.resolve()}"]


def _quoted(word: str) -> str:
    """Quote a word for systemd: no specifier and no variable is expanded."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or " " in word or "'" in word else word


def _is_reachable() -> bool:
    """Return whether this user's systemd is running."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return bool(shutil.which("systemctl")) and (Path(runtime) / "systemd/private").exists() and bool(runtime)


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=WITHIN_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        do = "journalctl --user -e says more; to run it without a service, leave out --service"
        raise UserError("the service was not started", f"{' '.join(command)}: {said.strip()}", do) from None
