"""A plan that no admin has accepted trains nowhere; the run waits, and names the sites."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hospitals import SITES, small_plan
from ynet import plan as plans
from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet_lab.trial import Trial


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    with Trial(tmp_path, find_sites(tmp_path / "data"), policy={"new_plans": "ask", "max_epochs": 50}) as running:
        running.start_server()
        running.join_all()
        yield running


def test_run_waits_for_each_admins_acceptance(trial: Trial, tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan.yaml", rounds=1)
    plan.write_text(plan.read_text("utf-8") + "aggregation: secure\n", "utf-8")
    plan_id = plans.read(plan).id
    begun = json.loads(trial.server_command("train", "--plan", plan, "--detach", "--json").stdout)
    run = begun["run"]
    trial.wait_for_event(run, "awaited", 3)
    assert f"plan story, {plan_id}" in trial.log("A")
    assert "the sum of the sites' weights, and not this site's" in trial.log("A")
    (waiting,) = json.loads(trial.site_command("A", "plan", "list", "--json").stdout)["plans"]
    assert (waiting["id"], waiting["decision"]) == (plan_id, None)
    for site in SITES:
        done = trial.site_command(site, "plan", "accept", plan_id[:16])
        assert (done.returncode, done.stdout) == (0, f"plan {plan_id[:16]} is accepted\n")
    trial.wait_for_event(run, "finished", 1)
    assert (trial.home("A") / "summed.json").exists()


def test_declined_or_forbidden_plan_ends_run_with_reason(trial: Trial, tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan.yaml", rounds=51)
    done = trial.server_command("train", "--plan", plan)
    assert done.returncode != 0
    assert "policy does not allow more than 50 epochs" in done.stdout + done.stderr
    plan = small_plan(tmp_path / "plan.yaml", rounds=1)
    plan_id = plans.read(plan).id
    for site in SITES:
        assert trial.site_command(site, "plan", "decline", plan_id).returncode == 0
    done = trial.server_command("train", "--plan", plan)
    assert done.returncode != 0
    assert "declined this plan" in done.stdout + done.stderr


def test_site_joins_unattended_with_accepted_plan(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    plan = small_plan(tmp_path / "plan.yaml", rounds=1)
    plan_id = plans.read(plan).id
    with Trial(tmp_path, find_sites(tmp_path / "data"), policy={}) as trial:
        trial.start_server()
        for site in SITES:
            trial.join(site, "--accept", plan_id)
        trial.wait_connected(*SITES)
        done = trial.server_command("train", "--plan", plan)
        assert done.returncode == 0, done.stdout + done.stderr


def test_site_stopped_during_noise_calibration_exits_at_once(
    tmp_path: Path,
) -> None:
    make_federation(tmp_path / "data", {"A": 24}, seed=1, size=32)
    private = {"mode": "patient", "epsilon": 4.0, "delta": 5e-3}
    cohort = {"min_sites": 1, "quorum": 1}
    plan = small_plan(tmp_path / "plan.yaml", rounds=900, privacy=private, cohort=cohort)
    with Trial(tmp_path, find_sites(tmp_path / "data")) as trial:
        trial.start_server()
        trial.join_all()
        assert trial.server_command("train", "--plan", plan, "--detach").returncode == 0
        until = time.monotonic() + 60
        while not trial.site_call("A", "GET", "/status")["doing"].startswith("train"):
            assert time.monotonic() < until
            time.sleep(0.01)
        begun = time.monotonic()
        assert trial.stop("A") == 0
        assert time.monotonic() - begun < 15
