"""A private round is recorded before it is trained, stored before it is sent, and refused beyond the budget."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import RefusedError
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, CASES, CONFIG, LEDGER, METRICS, TRAIN, weights_record
from ynet.learning import accountant
from ynet.learning.model import arrays_of, build
from ynet.plan import Plan
from ynet.runtime import backup_files
from ynet.trust import ledger
from ynet.trust.ledger import BudgetExhaustedError, ChainHead, Ledger, LedgerError, Reservation
from ynet_client import restored
from ynet_client.restored import Restored
from ynet_client.settings import PrivacySettings
from ynet_client.training import app_call, client_app
from ynet_client.training.ledger_report import spent, summary
from ynet_client.training.privacy_budget import UPDATE, PrivateRound, Recorded
from ynet_client.training.site_data import LocalSite

VALUES: dict[str, Any] = {
    "name": "private",
    "classes": list(CLASSES),
    "image": {"channels": 1, "size": 32},
    "network": {"width": 4, "code_bits": 32},
    "training": {"rounds": 3, "learning_rate": 1e-3, "batch_size": 4},
    "cohort": {"min_sites": 1, "quorum": 1},
    "privacy": {"mode": "patient", "epsilon": 4.0, "delta": 1e-2},
}
PLAN = parse(Plan, VALUES, "the test's plan")


def site(folder: Path, **settings: Any) -> LocalSite:
    if not (folder / "data").exists():
        make_federation(folder / "data", {"A": 24}, seed=1, size=32)
        (folder / "home").mkdir()
    budget = Recorded(folder / "home", PrivacySettings(**settings))
    return LocalSite(folder / "data/A/manifest.csv", "cpu", 1 << 24, budget=budget)


def round_of(at: LocalSite, number: int, plan: Plan = PLAN, context: Context | None = None) -> Content:
    """A round that begins with the plan's initial weights and its number."""
    flat = weights.flatten(arrays_of(build(plan))) + np.float32(number)
    config = ConfigRecord({"plan": plan.canonical(), "server-round": number})
    received = RecordDict({ARRAYS: weights_record(flat), CONFIG: config})
    return app_call.call(client_app.build(lambda _: at), context or app_call.new_context(), TRAIN, received)


def values(reply: Content) -> np.ndarray:
    return np.concatenate([reply.arrays[ARRAYS][key] for key in sorted(reply.arrays[ARRAYS])])


def rounds_in(folder: Path) -> list[int]:
    return [entry.round for entry in ledger.read(folder / "home")]


def test_a_run_spends_what_the_plan_says_and_no_more(tmp_path: Path) -> None:
    at = site(tmp_path)
    for number in (1, 2, 3):
        round_of(at, number)
    entries = ledger.read(tmp_path / "home")
    assert [entry.round for entry in entries] == [1, 2, 3]
    assert len({entry.noise_multiplier for entry in entries}) == 1
    assert 3.9 < accountant.epsilon(spent(entries), 1e-2) <= 4.0


def test_private_round_sends_weights_and_case_count_and_no_loss(tmp_path: Path) -> None:
    reply = round_of(site(tmp_path), 1)
    assert set(reply.metrics[METRICS]) == {CASES, "seconds"}
    assert np.isfinite(values(reply)).all()


def test_repeated_round_is_resent_and_spends_nothing(tmp_path: Path) -> None:
    first = values(round_of(site(tmp_path), 1))
    np.testing.assert_array_equal(values(round_of(site(tmp_path), 1)), first)
    assert rounds_in(tmp_path) == [1]


def test_an_earlier_round_that_is_asked_for_again_spends_again(tmp_path: Path) -> None:
    at = site(tmp_path, max_epsilon=50)
    first = values(round_of(at, 1))
    round_of(at, 2)
    assert (values(round_of(at, 1)) != first).any()
    assert rounds_in(tmp_path) == [1, 2, 1]


def test_a_run_that_does_not_fit_is_refused_before_its_first_step(tmp_path: Path) -> None:
    with pytest.raises(BudgetExhaustedError, match="privacy budget") as caught:
        round_of(site(tmp_path, max_epsilon=3.9), 1)
    assert "0.00 of 3.9 is spent" in caught.value.why
    assert isinstance(caught.value, RefusedError)
    assert rounds_in(tmp_path) == []


def test_runs_share_the_budget_of_the_same_patients(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        round_of(site(tmp_path, max_epsilon=5), number)
    another = replace(PLAN, name="another")
    with pytest.raises(BudgetExhaustedError, match="privacy budget"):
        round_of(site(tmp_path, max_epsilon=5), 1, another)
    round_of(site(tmp_path, max_epsilon=5, data="new patients"), 1, another)
    assert rounds_in(tmp_path) == [1, 2, 3, 1]


def test_a_delta_above_one_over_the_patients_is_refused(tmp_path: Path) -> None:
    loose = replace(PLAN, privacy=replace(PLAN.privacy, delta=0.4))
    with pytest.raises(RefusedError, match="private training was refused") as caught:
        round_of(site(tmp_path), 1, loose)
    assert "1 / " in caught.value.why
    assert rounds_in(tmp_path) == []


def test_a_site_without_a_ledger_trains_no_private_plan(tmp_path: Path) -> None:
    site(tmp_path)
    bare = LocalSite(tmp_path / "data/A/manifest.csv", "cpu", 1 << 24)
    with pytest.raises(RefusedError, match="private training was refused"):
        round_of(bare, 1)


def test_a_node_of_flowers_own_keeps_its_ledger_in_the_home_that_its_config_names(tmp_path: Path) -> None:
    site(tmp_path)
    config = {"manifest": str(tmp_path / "data/A/manifest.csv"), "home": str(tmp_path / "home"), "max-epsilon": 4.5}
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "home/client.yaml").write_text("policy: {new_plans: accept}")
    context = Context(run_id=0, node_id=0, node_config=config, state=RecordDict(), run_config={})
    at = client_app.from_node_config(context)
    assert client_app.from_node_config(context) is at
    round_of(at, 1)
    assert rounds_in(tmp_path) == [1]
    with pytest.raises(BudgetExhaustedError, match="privacy budget"):
        round_of(at, 1, replace(PLAN, name="another"))


def test_a_ledger_that_was_rolled_back_stops_private_training_and_no_other(tmp_path: Path) -> None:
    round_of(site(tmp_path), 1)
    (tmp_path / "home" / ledger.LEDGER).write_bytes(b"")
    with pytest.raises(LedgerError):
        round_of(site(tmp_path), 2)
    open_plan = parse(Plan, {**VALUES, "privacy": {"mode": "off"}}, "the test's plan")
    assert "loss" in round_of(site(tmp_path), 1, open_plan).metrics[METRICS]


def test_rolled_back_ledger_stops_private_training(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    first = round_of(site(tmp_path), 1)
    old = {name: (home / name).read_bytes() for name in (ledger.LEDGER, ledger.HEAD)}
    told = ChainHead.from_text(str(round_of(site(tmp_path), 2).configs[CONFIG][LEDGER]))
    site(tmp_path).budget.check_witness(told)
    for name, content in old.items():
        (home / name).write_bytes(content)
    back = site(tmp_path)
    back.budget.check_witness(ChainHead.from_text(str(first.configs[CONFIG][LEDGER])))
    with pytest.raises(LedgerError, match="it is an old copy"):
        back.budget.check_witness(told)
    with pytest.raises(LedgerError, match="it is an old copy"):
        round_of(back, 2)
    open_plan = parse(Plan, {**VALUES, "privacy": {"mode": "off"}}, "the test's plan")
    assert "loss" in round_of(back, 1, open_plan).metrics[METRICS]


def test_the_ledgers_summary_adds_up(tmp_path: Path) -> None:
    at = site(tmp_path)
    shown = summary(ledger.read(tmp_path / "home"), PrivacySettings())
    assert (shown["spent"], shown["reserved"], shown["left"], shown["runs"]) == (0, 0, 10, [])
    for number in (1, 2):
        round_of(at, number)
    shown = summary(ledger.read(tmp_path / "home"), PrivacySettings())
    assert shown["spent"] + shown["reserved"] == pytest.approx(4, abs=0.02)
    assert shown["spent"] + shown["reserved"] + shown["left"] == pytest.approx(10, abs=1e-3)
    (run,) = shown["runs"]
    assert (run["plan"], run["round"], run["rounds"], run["epsilon"]) == (PLAN.id, 2, 3, shown["spent"])


KILLED = """
import json, os, signal, sys
from pathlib import Path
import test_privacy_budget
from ynet.trust import chain
from ynet import weights
from ynet_client.training import client_app
from ynet_client.training import privacy_budget as budget
step, folder = sys.argv[1], Path(sys.argv[2])
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
where = {"before the ledger": (chain, "append"), "before the head": (chain, "write_head"),
         "before training": (client_app, "train_privately"), "before keeping": (budget.weights, "save"),
         "before sending": (client_app, "_remember")}
at = test_privacy_budget.site(folder)
at.budget.ledger
setattr(*where[step], die)
test_privacy_budget.round_of(at, 1)
"""


@pytest.mark.parametrize(
    ("step", "recorded", "is_kept"),
    [
        ("before the ledger", [], False),
        ("before the head", [1], False),
        ("before training", [1], False),
        ("before keeping", [1], False),
        ("before sending", [1], True),
    ],
)
def test_kill_at_any_step_trains_only_what_is_recorded(
    tmp_path: Path, step: str, recorded: list[int], is_kept: bool
) -> None:
    site(tmp_path)
    died = subprocess.run(
        [sys.executable, "-c", KILLED, step, tmp_path], cwd=Path(__file__).parent, capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert rounds_in(tmp_path) == recorded
    assert (tmp_path / "home" / UPDATE).exists() is is_kept
    kept = weights.load(tmp_path / "home" / UPDATE)[0]["values"] if is_kept else None
    again = values(round_of(site(tmp_path), 1))
    assert rounds_in(tmp_path) == [1]
    assert kept is None or (again == kept).all()


def test_copied_home_does_not_reuse_a_ledger_entry(tmp_path: Path) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    original.mkdir()
    site(original)
    command = [sys.executable, "-c", KILLED, "before training", original]
    subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=False)
    shutil.copytree(original, copy)  # a backup of the whole folder, made inside the round
    released = values(round_of(site(original), 1))
    assert rounds_in(original) == [1]
    again = values(round_of(site(copy), 1))
    assert rounds_in(copy) == [1, 1]
    assert (released != again).any()


def put_back(copy: Path, home: Path) -> None:
    """Do what `rsync --archive --inplace --delete` does: restore the files on the same inodes."""
    for path in home.iterdir():
        if not (copy / path.name).exists():
            path.unlink()
    for path in copy.iterdir():
        shutil.copy2(path, home / path.name)


def test_restored_copy_does_not_reuse_a_ledger_entry(tmp_path: Path) -> None:
    home = tmp_path / "home"
    site(tmp_path)
    command = [sys.executable, "-c", KILLED, "before training", tmp_path]
    subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=False)
    shutil.copytree(home, tmp_path / "copy")  # made inside the round
    inode = (home / ledger.LEDGER).stat().st_ino
    released = values(round_of(site(tmp_path), 1))
    assert rounds_in(tmp_path) == [1]
    put_back(tmp_path / "copy", home)
    assert (home / ledger.OPEN).exists()
    assert (home / ledger.LEDGER).stat().st_ino == inode
    again = values(round_of(site(tmp_path), 1))
    assert rounds_in(tmp_path) == [1, 1]
    assert (released != again).any()


def test_an_update_that_is_sent_again_leaves_no_entry_open(tmp_path: Path) -> None:
    site(tmp_path)
    died_closing = KILLED.replace('"before sending": (client_app, "_remember")', '"x": (ledger.Ledger, "close_entry")')
    command = [sys.executable, "-c", "from ynet.trust import ledger\n" + died_closing, "x", tmp_path]
    subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=False)
    assert (tmp_path / "home" / UPDATE).exists()
    round_of(site(tmp_path), 1)
    (tmp_path / "home" / UPDATE).unlink()
    round_of(site(tmp_path), 1)
    assert rounds_in(tmp_path) == [1, 1]


def test_a_backup_made_inside_a_round_does_not_carry_its_open_entry(tmp_path: Path) -> None:
    Ledger(tmp_path).reserve("default", Reservation(PLAN.id, 1, 3, "0" * 64, 2.0, 0.1, 5, 1e-2), lambda _: None)
    assert (tmp_path / ledger.OPEN).exists()
    assert Path(ledger.OPEN) not in backup_files.files(tmp_path)
    assert Path(ledger.LEDGER) in backup_files.files(tmp_path)


def test_an_entry_whose_update_was_lost_after_it_was_kept_is_not_used_again(tmp_path: Path) -> None:
    at = site(tmp_path)
    round_of(at, 1)
    (tmp_path / "home" / UPDATE).unlink()
    round_of(site(tmp_path), 1)
    assert rounds_in(tmp_path) == [1, 1]


def test_the_command_shows_the_ledger(tmp_path: Path) -> None:
    round_of(site(tmp_path), 1)
    (tmp_path / "home/client.yaml").write_text("privacy: {max_epsilon: 5, data: default}\n", "utf-8")
    command = [sys.executable, "-m", "ynet_client", "ledger", "--home", tmp_path / "home"]
    shown = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert shown["max_epsilon"] == 5
    assert [run["plan"] for run in shown["runs"]] == [PLAN.id]
    text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    assert "of 5" in text
    assert PLAN.id[:16] in text
    (tmp_path / "home" / ledger.LEDGER).write_bytes(b"{}\n")
    broken = subprocess.run(command, capture_output=True, check=False, text=True)
    assert broken.returncode == 2
    assert "cannot be trusted" in broken.stderr


BACKUP = Restored(1_700_000_000.0, 1_700_000_900.0)


def trained(home: Path, rounds: int) -> ChainHead:
    """Return the ledger head of a site after some rounds."""
    kept = Ledger(home)
    for number in range(1, rounds + 1):
        asked = Reservation(PLAN.id, number, 3, f"{number:064x}", 2.0, 0.1, 5, 1e-2)
        kept.reserve("default", asked, lambda _: None)
    return kept.head


def test_restored_site_waits_for_the_witnessed_ledger_head(tmp_path: Path) -> None:
    seen, asked = trained(tmp_path, 2), PrivateRound(PLAN, 3, np.zeros(4, np.float32), 200)
    restored.write(tmp_path, BACKUP)
    budget = Recorded(tmp_path, PrivacySettings(max_epsilon=100))
    with pytest.raises(RefusedError) as refused:
        budget.reserve(asked)
    assert "from a backup of 2023-11-1" in refused.value.why
    assert budget.head == seen
    budget.check_witness(seen)
    with pytest.raises(RefusedError) as refused:  # what every site of so many patients would be told
        budget.reserve(asked)
    assert "the plan's delta" in refused.value.why


def test_a_ledger_from_a_backup_that_is_behind_what_the_server_saw_is_not_added_to(tmp_path: Path) -> None:
    for name in ("newest", "older"):
        (tmp_path / name).mkdir()
    before, seen = trained(tmp_path / "older", 2), trained(tmp_path / "newest", 3)
    restored.write(tmp_path / "older", BACKUP)
    budget = Recorded(tmp_path / "older", PrivacySettings())
    with pytest.raises(LedgerError, match="cannot be trusted"):
        budget.check_witness(seen)
    with pytest.raises(LedgerError):
        budget.reserve(PrivateRound(PLAN, 3, np.zeros(4, np.float32), 24))
    assert Ledger(tmp_path / "older").head == before
