"""An experiment: Flower's simulation engine with the deployed apps, the references, and the report."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from modes import open_to_others, umask

from hospitals import small_plan
from ynet import weights
from ynet.data.manifest import find_sites, read
from ynet.data.synthetic import make_federation
from ynet.fixed_arrays import CODE
from ynet_lab.trial import command, environment
from ynet_server.rounds.run_folder import MODEL, RunFolder

SITES = {"A": 16, "B": 12, "C": 12}


def simulate(folder: Path, *more: object) -> dict:
    where = ("--plan", folder / "plan.yaml", "--data", folder / "data", "--report", folder / "report")
    done = command("ynet_lab", "simulate", *where, *more, "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_experiment_reports_every_model_and_resumes(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    small_plan(tmp_path / "plan.yaml", rounds=2, evaluate_every=1)
    with umask():
        made = simulate(tmp_path, "--seeds", 2)
    assert not open_to_others(tmp_path / "report")
    assert [model["name"] for model in made["models"]] == ["federated", "pooled", "alone: A", "alone: B", "alone: C"]
    for model in made["models"]:
        assert len(model["overall"]["macro_map10"]["values"]) == 2
        assert [point["round"] for point in model["curve"]] == [1, 2]
        assert all(point["macro_map10"] is not None for point in model["curve"])
        assert len(model["matrix"]) == len(model["sites"]) == 3
        assert model["radius"][-1]["recall"] == 1
    assert [row["site"] for row in made["comparison"]["federated_over_alone"]] == ["A", "B", "C"]
    assert len(made["comparison"]["federated_over_pooled"]["macro_map10"]["values"]) == 2
    page = (tmp_path / "report/report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") >= 9
    assert json.loads((tmp_path / "report/report.json").read_text("utf-8")) == made

    # Simulate an interruption: one model lost its scores, another stopped after its first round.
    pooled = tmp_path / "report/seed-2/pooled"
    expected, _ = weights.load(pooled / MODEL)
    (pooled / "scores.json").unlink()
    (tmp_path / "report/seed-1/alone-A/scores.json").unlink()
    again = simulate(tmp_path, "--seeds", 2)
    assert again["models"][0] == made["models"][0]
    assert again["comparison"] == made["comparison"]
    arrays, _ = weights.load(pooled / MODEL)
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    assert [event["round"] for event in RunFolder(pooled).events() if event["kind"] == "round"] == [1, 2]


def test_validation_never_uses_the_test_split(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    small_plan(tmp_path / "plan.yaml", rounds=1)
    for picture in (tmp_path / "data").glob("*/images/*"):
        manifest = (picture.parents[1] / "manifest.csv").read_text("utf-8")
        row = next(line for line in manifest.splitlines() if picture.name in line)
        if ",test," in row:
            picture.unlink()
    made = simulate(tmp_path, "--validation", "--models", "pooled")
    assert made["split"] == "validation"
    held_back = {name: len(read(path).for_validation().test) for name, path in find_sites(tmp_path / "data").items()}
    assert {site["site"]: site["queries"] for site in made["sites"]} == held_back
    assert (
        0 in held_back.values()
    )  # the split is not balanced: a small site may have none, and is reported nevertheless
    assert any(held_back.values())


def test_experiment_trains_private_plan_and_writes_no_ledger(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    private = {"mode": "patient", "epsilon": 8.0, "delta": 0.01}
    small_plan(tmp_path / "plan.yaml", rounds=2, batch_size=4, privacy=private)
    made = simulate(tmp_path, "--models", "federated,pooled")
    assert made["plan"]["privacy"]["epsilon"] == 8
    assert [model["name"] for model in made["models"]] == ["federated", "pooled"]
    events = RunFolder(tmp_path / "report/seed-1/federated").events()
    sites = [site for event in events if event["kind"] == "round" for site in event["sites"].values()]
    assert len(sites) == 2 * 3
    assert not any("loss" in site for site in sites)
    assert not list(tmp_path.rglob("ledger*"))


def test_experiment_with_secure_sum_gives_the_same_model(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    plan, models = small_plan(tmp_path / "plan.yaml", rounds=2), []
    for line in ("", "aggregation: secure\n"):
        plan.write_text(plan.read_text("utf-8") + line, "utf-8")
        out = tmp_path / (line.split() or ["plain"])[-1]
        done = command(
            "ynet_lab",
            "simulate",
            "--plan",
            plan,
            "--data",
            tmp_path / "data",
            "--report",
            out,
            "--models",
            "federated",
        )
        assert done.returncode == 0, done.stderr
        models.append(weights.load(out / "seed-1/federated" / MODEL)[0])
    plain, secure = models
    for name, values in plain.items():
        if not name.startswith(CODE):  # the signs of its directions are arbitrary
            np.testing.assert_allclose(secure[name], values, atol=1e-4, err_msg=name)


def test_every_model_starts_from_the_plans_init(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    plan = small_plan(tmp_path / "plan.yaml", rounds=1, learning_rate=1e-9)
    simulate(tmp_path, "--models", "pooled")
    arrays, _ = weights.load(tmp_path / "report/seed-1/pooled" / MODEL)
    given = {"hash.weight": np.full_like(arrays["hash.weight"], 0.25)}
    weights.save(tmp_path / "given.safetensors", given, {})
    plan.write_text(plan.read_text("utf-8") + "init: given.safetensors\n", "utf-8")
    begun = ("--report", tmp_path / "begun", "--models", "federated,pooled")
    done = command("ynet_lab", "simulate", "--plan", plan, "--data", tmp_path / "data", *begun)
    assert done.returncode == 0, done.stderr
    for kind in ("federated", "pooled"):
        found, _ = weights.load(tmp_path / "begun/seed-1" / kind / MODEL)
        np.testing.assert_allclose(found["hash.weight"], 0.25, atol=1e-6)
        np.testing.assert_allclose(found["stem.conv.weight"], arrays["stem.conv.weight"], atol=1e-6)


def test_invalid_experiment_is_refused_with_what_to_do(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan.yaml")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine", "utf-8")
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    for data, report, models, what in (
        ("empty", "report", "pooled", "holds no sites"),
        ("data", "other", "pooled", "holds other files"),
        ("data", "report", "pooled,mine", "no model 'mine'"),
    ):
        where = ("--plan", plan, "--data", tmp_path / data, "--report", tmp_path / report, "--models", models)
        done = command("ynet_lab", "simulate", *where)
        assert done.returncode == 2, done.stderr
        assert what in done.stderr
        assert "Traceback" not in done.stderr
    assert (tmp_path / "other/notes.txt").read_text("utf-8") == "mine"


def test_refusing_site_reports_why_in_three_lines(tmp_path: Path) -> None:
    plan = small_plan(tmp_path / "plan.yaml", rounds=1, cohort={"min_sites": 3, "quorum": 3, "round_deadline_s": 120})
    make_federation(tmp_path / "data", {"A": 8, "B": 8, "C": 8}, seed=1, size=32)
    manifest = tmp_path / "data" / "B" / "manifest.csv"
    manifest.write_text(manifest.read_text("utf-8").replace("label", "finding", 1), "utf-8")
    where = ("--plan", plan, "--data", tmp_path / "data", "--report", tmp_path / "report", "--models", "federated")
    done = command("ynet_lab", "simulate", *where)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-3].startswith(f"error: site B: manifest {manifest} has no column 'label'")
    for text in ("Traceback", "ray", "ip=", "127.0.0.1"):
        assert text not in done.stderr.replace(str(tmp_path), "")


def test_federated_model_beats_each_hospitals_own_on_cross_site_queries(tmp_path: Path) -> None:
    """The main claim, in small: a hospital learns from the others what it has not seen.

    C trains on some 20 cases, none of one class; A on ten times as many, none of another.
    """
    make_federation(tmp_path / "data", {"A": 280, "B": 100, "C": 40}, seed=3, size=64)
    for site, unseen in (("A", "smooth"), ("C", "ring")):
        manifest = tmp_path / "data" / site / "manifest.csv"
        rows = manifest.read_text("utf-8").splitlines()
        manifest.write_text("\n".join(row for row in rows if f",{unseen}," not in row or ",test," in row), "utf-8")
    changes = {"local_epochs": 4, "learning_rate": 4e-3, "batch_size": 16, "cooldown": 0.25, "evaluate_every": 6}
    small_plan(tmp_path / "plan.yaml", image=64, width=8, rounds=12, **changes)
    made = simulate(tmp_path)
    models = {model["name"]: model["overall"]["macro_map10"]["mean"] for model in made["models"]}
    floor = made["floors"]["random"]["macro_map10"]
    assert models["federated"] > 2 * floor
    for site in ("A", "B", "C"):
        assert models["federated"] > models[f"alone: {site}"]
    gains = made["comparison"]["federated_over_alone"]
    assert [gain["site"] for gain in gains] == ["A", "B", "C"]
    assert all(gain["margin"]["mean"] > 0 for gain in gains)


def test_killed_experiment_leaves_no_process(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    plan = small_plan(tmp_path / "plan.yaml", rounds=10_000, evaluate_every=10_000)
    where = ["--plan", plan, "--data", tmp_path / "data", "--report", tmp_path / "report", "--models", "pooled"]
    arguments = [sys.executable, "-m", "ynet_lab", "simulate", *map(str, where)]
    begun = subprocess.Popen(arguments, env=environment(), stderr=subprocess.DEVNULL)
    events = tmp_path / "report/seed-1/pooled/events.jsonl"
    deadline = time.monotonic() + 60
    while not events.exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    workers = psutil.Process(begun.pid).children(recursive=True)
    assert workers
    begun.kill()
    begun.wait()
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert gone
    assert not alive


STRANGER = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
    print(ray.get(ray.remote(lambda: "ran").remote()))
except ConnectionError as error:
    print("refused")
"""


def test_caller_without_token_cannot_use_an_experiments_ray(tmp_path: Path) -> None:
    """Ray listens on every interface of the machine and runs code that it receives."""
    make_federation(tmp_path / "data", SITES, seed=1, size=32)
    small_plan(tmp_path / "plan.yaml", rounds=30, local_epochs=4)
    where = ["--plan", tmp_path / "plan.yaml", "--data", tmp_path / "data", "--report", tmp_path / "report"]
    asked = [sys.executable, "-m", "ynet_lab", "simulate", *map(str, where), "--models", "federated"]
    running = subprocess.Popen(asked, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        gcs = _listening(running.pid, "gcs_server")
        (token,) = re.findall(r"RAY_AUTH_TOKEN=([\w-]{43})\0", Path(f"/proc/{gcs.pid}/environ").read_text())
        port = next(one.laddr.port for one in gcs.net_connections("tcp") if one.status == psutil.CONN_LISTEN)
        environments = ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "x" * 43})
        for more in environments:
            done = subprocess.run(
                [sys.executable, "-c", STRANGER, f"127.0.0.1:{port}"],
                env={**os.environ, **more},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout == "refused\n", done.stderr
        assert token not in " ".join(word for one in psutil.process_iter() for word in _command(one))
        (session,) = re.findall(r"(/tmp/ynet-[^/]+)/ray", " ".join(_command(gcs)))[:1]
        assert Path(session).stat().st_mode & 0o777 == 0o700
    finally:
        running.terminate()
        running.wait()


def _listening(root: int, name: str) -> psutil.Process:
    until = time.monotonic() + 200
    while time.monotonic() < until:
        for one in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if one.name() == name and any(c.status == psutil.CONN_LISTEN for c in one.net_connections("tcp")):
                    return one
        time.sleep(0.2)
    raise TimeoutError(name)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
