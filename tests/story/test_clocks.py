"""Sites with wrong clocks: certificates tolerate 15 minutes."""

import subprocess
from pathlib import Path

import pytest
from needs import needed

from hospitals import small_plan
from ynet.data.manifest import find_sites, read
from ynet.data.synthetic import make_federation
from ynet_lab.trial import Trial

MINUTES = {"fast": 10, "slow": -10}


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a library that shifts the clock of a process."""
    compiler, made = needed("cc"), tmp_path_factory.mktemp("clock") / "clock_off.so"
    source = Path(__file__).with_name("clock_off.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made


def join(trial: Trial, site: str, clock: Path, minutes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as moved:
        moved.setenv("LD_PRELOAD", str(clock))
        moved.setenv("CLOCK_OFF_S", str(60 * minutes))
        trial.join(site)


def test_sites_with_clocks_10_minutes_off_work(tmp_path: Path, clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is right; the two sites differ by 20 minutes."""
    make_federation(tmp_path / "data", dict.fromkeys(MINUTES, 24), seed=1, size=32)
    sites = find_sites(tmp_path / "data")
    plan = small_plan(tmp_path / "plan.yaml")
    plan.write_text(plan.read_text("utf-8").replace("min_sites: 3", "min_sites: 2").replace("quorum: 3", "quorum: 2"))
    with Trial(tmp_path, sites) as trial:
        trial.start_server()
        for site, minutes in MINUTES.items():
            join(trial, site, clock, minutes, monkeypatch)
        trial.wait_connected(*sites)
        done = trial.server_command("train", "--plan", plan)
        assert done.returncode == 0, done.stdout + done.stderr
        trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])
        for site, other in (("fast", "slow"), ("slow", "fast")):
            manifest = read(sites[site])
            found = trial.query(site, manifest.path_of(manifest.test[0].image))
            assert set(found["answered"]) == {other}
            assert found["missing"] == found["late"] == []


def test_clock_20_minutes_slow_is_refused(tmp_path: Path, clock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the shifted clock, which TLS uses, the new server's certificates are not valid yet."""
    make_federation(tmp_path / "data", {"A": 12}, seed=1, size=32)
    with Trial(tmp_path, find_sites(tmp_path / "data")) as trial:
        trial.start_server()
        join(trial, "A", clock, -20, monkeypatch)
        with pytest.raises(RuntimeError, match="A has ended"):
            trial.wait_connected("A")
        assert "enrolment refused" in trial.log("A")
