"""Flower's simulation engine with the apps of the deployment, and the two references."""

import json
from pathlib import Path

from hospitals import small_plan
from trial import command
from ynet.data.synthetic import make_federation
from ynet_server.run_folder import RunFolder


def test_a_simulation_scores_the_federated_model_beside_pooled_data_and_each_site_alone(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 16, "B": 12, "C": 12}, seed=1, size=32)
    plan = small_plan(tmp_path / "plan.yaml", rounds=1)
    where = ("--plan", plan, "--data", tmp_path / "data", "--out", tmp_path / "run")
    done = command("ynet_server", "simulate", *where, "--pooled", "--local", "--json")
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)["outcomes"]
    assert [outcome["name"] for outcome in outcomes] == ["federated", "pooled", "A", "B", "C"]
    for outcome in outcomes:
        assert 0 <= outcome["all_sites"]["macro_map10"] <= 1
        assert set(outcome["own"]) == {"A", "B", "C"}
    assert RunFolder(tmp_path / "run").events()[-1]["kind"] == "finished"


def test_a_folder_without_sites_is_refused(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan.yaml")
    done = command("ynet_server", "simulate", "--plan", plan, "--data", tmp_path, "--out", tmp_path / "run")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "holds no sites" in done.stderr
