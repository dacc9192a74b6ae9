"""Attacks on a finished model: the command, its report, the model's card, and refusals."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet_lab.attack_figures import ATTACKS
from ynet_lab.attack_page import tables
from ynet_lab.attack_run import attack
from ynet_lab.attack_target import Effort
from ynet_lab.simulate import TrainingTask, open_sites, train_reference
from ynet_lab.tables import attack_table
from ynet_lab.trial import command
from ynet_server.rounds.run_folder import RunFolder

SITES = {"A": 24, "B": 20, "C": 20}
LITTLE = Effort(shadow_rounds=1, steps=2)


def model(folder: Path, **privacy: Any) -> Path:
    """Train a pooled model of small hospitals in `folder`, and return its folder."""
    make_federation(folder / "data", SITES, seed=1, size=32)
    plan = plans.read(small_plan(folder / "plan.yaml", rounds=2, batch_size=64, privacy=privacy or None))
    task = TrainingTask(plan, folder / "data", folder / "model", "pooled", None, None, is_validation=False)
    train_reference(task, open_sites(task), lambda _: {})
    return task.folder


def run(
    folder: Path, attacks: Sequence[str] = tuple(ATTACKS), out: str = "report", data: str = "data"
) -> dict[str, Any]:
    where = (folder / "model", folder / data, folder / out)
    return attack(*where, attacks=attacks, seed=1, effort=LITTLE, say=lambda _: None)


def test_command_reports_every_attack_and_updates_the_card(tmp_path: Path) -> None:
    model(tmp_path)
    before = RunFolder(tmp_path / "model").card()
    where = ("--model", tmp_path / "model", "--data", tmp_path / "data", "--report", tmp_path / "report")
    done = command("ynet_lab", "attack", *where, "--shadow-rounds", 1, "--steps", 2, "--epsilon", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert "shadow model 4 of 4: round 1/1" in done.stderr
    made = json.loads(done.stdout)
    assert made == json.loads((tmp_path / "report/report.json").read_text("utf-8"))
    assert (made["format"], made["model"], made["seed"]) == (1, before["model_id"], 1)
    assert sum(site["members"] + site["non_members"] for site in made["sites"]) == sum(SITES.values())
    found = made["attacks"]
    assert set(found) == set(made["seconds"]) == set(ATTACKS)
    for score in ("loss", "likelihood_ratio"):
        for unit in ("image", "patient"):
            one = found["membership"][score][unit]
            assert 0 <= one["tpr_at_0_1_percent"] <= one["tpr_at_1_percent"] <= 1
            assert one["smallest_fpr"] == 1 / one["non_members"]
    updates = found["gradient"]["updates"]
    protections = ["none", "secure sum", "DP, epsilon 1", "DP, epsilon 1, secure sum"]
    assert [one["protection"] for one in updates] == 2 * protections
    assert [one["images"] for one in updates] == [1, 3, 1, 3, 7, 21, 7, 21]  # 8 a site need 24 training patients
    assert [one["sites"] for one in updates] == [1, 3, 1, 3] * 2
    assert found["code"]["code"]["pixel_r2"] <= 1
    plan = RunFolder(tmp_path / "model").plan()
    form = (plan.code_form, plan.network.code_bits, plan.class_bits if plan.code_form == "moments" else None)
    assert tuple(found["code"][key] for key in ("form", "bits", "class_bits")) == form
    assert found["audit"]["epsilon_claimed"] is None
    assert RunFolder(tmp_path / "model").card() == {**before, "attacks": found}
    page = (tmp_path / "report/report.html").read_text("utf-8")
    assert "lower bound" in page
    assert f"a code of {form[1]} bits from moments, {form[2]} of them for the class" in page
    assert page.count("data:image/png;base64,") > 20
    assert len(ElementTree.fromstring(page).findall(".//section[@id]")) == 6
    assert not any(name in page for name in ("A-P0", '.png"', str(tmp_path)))


def test_private_model_is_attacked_under_its_plan(tmp_path: Path) -> None:
    model(tmp_path, mode="patient", epsilon=1.0, delta=0.01)
    found = run(tmp_path, ["membership", "audit"])["attacks"]
    assert found["audit"]["delta"] < 0.01
    assert found["audit"]["epsilon_claimed"] > 1  # at that smaller delta
    assert found["audit"]["epsilon_at_least"] <= found["audit"]["highest_possible"]
    again = run(tmp_path, ["code"])  # into the same folder and card
    assert set(again["attacks"]) == {"code"}
    card = RunFolder(tmp_path / "model").card()
    assert set(card["attacks"]) == set(tables(card["attacks"])) == {"membership", "code", "audit"}
    assert attack_table(card["attacks"]).row_count == 4 + 2 + 1


def test_invalid_target_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = model(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/report.json").write_text('{"models": []}', "utf-8")
    with pytest.raises(UserError, match="holds other files"):
        run(tmp_path, out="other")
    with pytest.raises(UserError, match="holds no sites"):
        run(tmp_path, data="other")
    RunFolder(folder).create(replace(RunFolder(folder).plan(), classes=("ring", "smooth", "round")))
    with pytest.raises(UserError, match="cannot be used"):
        run(tmp_path)
    manifest = tmp_path / "data/B/manifest.csv"
    manifest.write_text(manifest.read_text("utf-8").replace(",test,", ",train,"), "utf-8")
    plan = plans.read(tmp_path / "plan.yaml")
    RunFolder(folder).create(plan)
    with pytest.raises(UserError, match="site B cannot be attacked"):
        run(tmp_path)
    arrays, _ = weights.load(folder / "model.safetensors")
    for card, what in (({"kind": "alone"}, "one site alone"), ({"sites": {"A": 1}}, "trained on other data")):
        RunFolder(folder).save_model(arrays, card)
        with pytest.raises(UserError, match=what):
            run(tmp_path)
    where = ("--data", tmp_path / "data", "--report", tmp_path / "new", "--model")
    for arguments, what in (
        ((tmp_path / "data",), "holds no model"),
        ((folder, "--attacks", "code,guess"), "no attack 'guess'"),
    ):
        done = command("ynet_lab", "attack", *where, *arguments)
        assert done.returncode == 2, done.stderr
        assert what in done.stderr
        assert "Traceback" not in done.stderr
