"""The units, checked by systemd's own tools, which need no running systemd."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from needs import needed

from ynet_client.commands.user_service import install

UNITS = Path(__file__).parents[2] / "deploy/systemd"
MOST_EXPOSED = {"ynet-server.service": 1.2, "ynet-client@.service": 1.4}
DEPLOYING = UNITS.parents[1] / "docs/how-to/deploying.md"


def installed(name: str, folder: Path) -> Path:
    """Write a unit as installed, for site A if it is a template, with a program that exists here."""
    unit = folder / name.replace("@", "@A")
    unit.write_text((UNITS / name).read_text().replace("ExecStart=/opt/ynet/bin/", f"ExecStart={sys.executable} "))
    return unit


def systemd(*arguments: object) -> str:
    command = [needed("systemd-analyze"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", MOST_EXPOSED)
def test_systemd_finds_no_fault_in_a_unit(name: str, tmp_path: Path) -> None:
    assert not systemd("verify", "--man=no", installed(name, tmp_path))


@pytest.mark.parametrize(("name", "most"), MOST_EXPOSED.items())
def test_unit_exposure_is_as_documented(name: str, most: float, tmp_path: Path) -> None:
    """The exposure level ranges from 0 (none) to 10; systemd calls levels below 2 OK."""
    shown = systemd("security", "--offline=true", f"--threshold={most * 10:.0f}", installed(name, tmp_path))
    assert re.search(rf"Overall exposure level for .*: {most:.1f} OK", shown), shown
    assert f"`{name}` {most:.1f}" in DEPLOYING.read_text("utf-8")


def test_user_unit_is_written_once_and_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No user systemd runs here, so the command prints what to do."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    home = tmp_path / "100% of $HOME"
    first, second = (install("A", home) for _ in range(2))
    assert (first.is_new, second.is_new, first.is_started) == (True, False, False)
    assert first.todo[:2] == ("systemctl --user daemon-reload", "systemctl --user enable --now ynet-client-A.service")
    assert f'"--home={tmp_path}/100%% of $$HOME"' in first.unit.read_text()
    assert not systemd("--user", "verify", "--man=no", first.unit)


def test_a_units_command_is_one_that_ynet_has() -> None:
    for name in MOST_EXPOSED:
        (program, rest) = re.findall(r"^ExecStart=/opt/ynet/bin/(ynet-\w+) (.*)$", (UNITS / name).read_text(), re.M)[0]
        module = program.replace("-", "_")
        command = [sys.executable, "-m", module, *rest.replace("%i", "A").replace("%E", "/etc").split(), "--help"]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
