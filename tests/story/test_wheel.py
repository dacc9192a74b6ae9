"""The wheel installed in an empty environment, away from the repository: the commands run, and so does the demo."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from ynet.data.synthetic import make_federation
from ynet_lab.demo import shipped_plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new environment that shares this one's dependencies; return its programs."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("ynet-*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    install = ["--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, capture_output=True)
    (packages,) = (folder / "venv/lib").glob("python*/site-packages")
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "lent.pth").write_text("\n".join(lent) + "\n")
    return folder / "venv/bin"


def run(program: Path, *arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "YNET"))}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", ["ynet-server", "ynet-client", "ynet-lab"])
def test_wheel_brings_each_command(program: str, installed: Path, tmp_path: Path) -> None:
    done = run(installed / program, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert program in done.stdout


def test_wheel_holds_what_it_runs(installed: Path, tmp_path: Path) -> None:
    where = "import ynet, ynet_client, ynet_server, ynet_lab; print(ynet.__file__, ynet_lab.__file__, ynet.__version__)"
    shown = run(installed / "python", "-c", where, cwd=tmp_path).stdout.split()
    assert all(str(installed.parent) in path for path in shown[:2])
    assert shown[2] == "0.2.0"


def test_wheel_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 24, "B": 24}, seed=1, size=32)
    plan = yaml.safe_load(shipped_plan("demo").read_text("utf-8"))
    plan["training"].update(rounds=1)
    plan["image"].update(size=32)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    given = ["--data", tmp_path / "data", "--plan", tmp_path / "plan.yaml", "--out", tmp_path / "out"]
    done = run(installed / "ynet-lab", "demo", *given, "--report", tmp_path / "figures.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "figures.json").read_text())["sites"] == 2
    assert (tmp_path / "out/query.png").exists()
