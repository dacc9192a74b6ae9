"""A dossier says what the settings and the files of a home say, and tells no secret and no patient."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from dossier_home import AT, INVITATION, MODEL, OPEN, PATIENT, PRIVATE, WORD, enrolled, full, plan, settings

from ynet.errors import UserError
from ynet.runtime.home import Lock
from ynet.trust.journal import AuditError
from ynet.trust.ledger import LedgerError
from ynet_client import egress, restored
from ynet_client.dossier import facts, flows, kept, written
from ynet_client.dossier.facts import HomeFacts
from ynet_client.dossier.open_points import open_points
from ynet_client.gallery import indexer
from ynet_client.membership.peers import Peers
from ynet_client.restored import Restored
from ynet_client.retrieval.stores import open_stores
from ynet_client.settings import Policy
from ynet_client.training import fixed_files
from ynet_client.training.consent import Consent

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full(tmp_path_factory.mktemp("site") / "home")


@pytest.fixture
def spent(template: Path, tmp_path: Path) -> Path:
    """A home whose ledger has an entry: composing it takes a second."""
    return shutil.copytree(template, tmp_path / "home")


@pytest.fixture
def home(spent: Path) -> Path:
    for name in ("ledger.jsonl", "ledger.head", "ledger.open"):
        (spent / name).unlink()
    return spent


def dossier(home: Path, now: float = AT + 3600) -> HomeFacts:
    return facts.gather(home, now)


def text(home: Path) -> str:
    return written.to_markdown(dossier(home))


def flow(found: HomeFacts, name: str) -> flows.DataFlow:
    (one,) = (one for one in flows.flows(found) if one.name == name)
    return one


def points(found: HomeFacts) -> set[str]:
    return {one.what for one in open_points(found)}


# --- what leaves


def test_every_class_of_egress_is_in_one_flow(home: Path) -> None:
    classes = [name for one in flows.flows(dossier(home)) for name in one.classes]
    assert sorted(classes) == sorted(get_args(egress.Class))


def test_totals_of_flows_are_those_of_the_egress_list(home: Path) -> None:
    shown = written.to_json(dossier(home))
    total = egress.to_json(egress.read(home))
    assert sum(one["messages"] for one in shown["leaves"]) == total["messages"] == 4
    assert sum(one["bytes"] for one in shown["leaves"]) == total["bytes"] == 11_000
    assert "| weights | yes | the server | 2 messages, 10,000 bytes | 2026-03-01 00:00 UTC |" in text(home)


CHANGES: dict[str, tuple[str, dict[str, Any], str]] = {
    "asks only": ("weights", {"trains": False}, "it refuses every plan, and no weights leave"),
    "accepts": ("weights", {"policy": {"new_plans": "accept"}}, "no person is asked"),
    "private only": ("weights", {"policy": {"privacy": "required"}}, "Only plans with differential privacy"),
    "secure only": ("weights", {"policy": {"aggregation": "secure"}}, "Only plans with secure aggregation"),
    "budget": ("weights", {"privacy": {"max_epsilon": 2.5}}, "may spend epsilon 2.5 for each patient"),
    "sites": ("weights", {"policy": {"min_sites": 4}}, "at least 4 sites"),
    "epochs": ("weights", {"policy": {"max_epochs": 77}}, "at most 77 epochs"),
    "recipes": ("weights", {"policy": {"recipes": ["plain"]}}, "Only the recipes plain are allowed"),
    "no sums": ("sums over training cases", {"policy": {"privacy": "required"}}, "no other plan is allowed"),
    "masked sums": ("sums over training cases", {"policy": {"aggregation": "secure"}}, "`policy.aggregation`"),
    "sums tell no class": ("sums over training cases", {"disclosure": {"labels": False}}, "`disclosure.labels`"),
    "scores by class": ("scores", {"disclosure": {"labels": False}}, "No number of cases by class leaves"),
    "no scores": ("scores", {"trains": False}, "evaluates nothing for others"),
    "no answers": ("answers to other sites", {"disclosure": {"answers": False}}, "No other site is answered"),
    "no archive": ("answers to other sites", {"trains": False, "data": ""}, "no archive"),
    "allowed": ("answers to other sites", {"disclosure": {"allow": ["C"]}}, "Only these sites may be answered: C"),
    "denied": ("answers to other sites", {"disclosure": {"deny": ["B"]}}, "Never answered: B"),
    "quota": ("answers to other sites", {"disclosure": {"queries_per_day_and_site": 51}}, "about 51 codes a day"),
    "user quota": ("answers to other sites", {"disclosure": {"queries_per_day_and_user": 52}}, "its users about 52"),
    "hits": ("answers to other sites", {"disclosure": {"max_k": 9}}, "at most 9 hits"),
    "steps": ("answers to other sites", {"disclosure": {"distance_step": 8}}, "multiples of 8"),
    "labels": ("answers to other sites", {"disclosure": {"labels": False}}, "Hits carry no label"),
    "columns": ("answers to other sites", {"disclosure": {"attributes": ["sex"]}}, "by these columns: sex"),
    "groups": ("answers to other sites", {"disclosure": {"minimum_group": 12}}, "at least 12 patients"),
    "no group": ("answers to other sites", {"disclosure": {"minimum_group": 0}}, "a single patient"),
    "no consults": ("requests for a consult", {"disclosure": {"consults": False}}, "are refused"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_sentence_follows_the_setting(change: tuple[str, dict[str, Any], str], home: Path) -> None:
    name, values, sentence = change
    assert not any(sentence in limit for limit in flow(dossier(home), name).limits)
    settings(home, **values)
    assert any(sentence in limit for limit in flow(dossier(home), name).limits)
    assert sentence in text(home)


def test_every_limiting_setting_is_quoted_with_its_value(home: Path) -> None:
    settings(home, disclosure={"max_k": 9}, policy={"new_plans": "accept"})
    shown = {one["key"]: one["value"] for one in written.to_json(dossier(home))["settings"]}
    assert shown["disclosure.max_k"] == 9
    assert shown["policy.new_plans"] == "accept"
    assert "| `disclosure.max_k` | 9 |" in text(home)


NOTHING_LEAVES: dict[str, dict[str, Any]] = {
    "weights": {"trains": False},
    "sums over training cases": {"policy": {"privacy": "required"}},
    "scores": {"trains": False},
    "answers to other sites": {"disclosure": {"answers": False}},
}


@pytest.mark.parametrize("name", NOTHING_LEAVES)
def test_flow_that_the_settings_stop_goes_to_nobody(name: str, home: Path) -> None:
    assert flow(dossier(home), name).leaves
    settings(home, **NOTHING_LEAVES[name])
    stopped = flow(dossier(home), name)
    assert (stopped.leaves, stopped.receivers) == (False, "nobody")


def test_receivers_are_the_confirmed_sites_that_may_be_answered(home: Path) -> None:
    assert dossier(home).answered_sites == ["B", "C"]  # D showed itself, and nobody has confirmed it
    settings(home, disclosure={"deny": ["B"]})
    assert dossier(home).answered_sites == ["C"]
    Peers(home).trust("D")
    Peers(home).distrust("C")
    assert dossier(home).answered_sites == ["D"]
    assert dossier(home).asked_sites == ["B", "D"]
    assert flow(dossier(home), "answers to other sites").receivers == "D; sealed, through the server"


def test_pages_and_metrics_of_the_machine_are_named_beside_the_flows(home: Path) -> None:
    assert "the workbench (off) and the metrics (off)" in text(home)
    settings(home, workbench={"enabled": True, "port": 8451}, metrics={"port": 9100})
    assert "the workbench (127.0.0.1:8451) and the metrics (127.0.0.1:9100)" in text(home)


# --- plans, ledger, model, log


def test_plans_have_decision_effect_terms_and_rounds(home: Path) -> None:
    taken, waiting = dossier(home).plans
    assert (taken.id, taken.decision, taken.effect) == (OPEN.id, "accepted", "trained when the server asks")
    assert taken.trained
    assert (taken.trained.rounds, taken.trained.first, taken.trained.last) == (2, AT + 60, AT + 120)
    assert (waiting.id, waiting.decision) == (PRIVATE.id, None)
    assert waiting.effect == "waits for the admin's decision"
    assert "epsilon 3 at delta 0.001" in text(home)


EFFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "policy": ({"policy": {"privacy": "required"}}, "refused: the site's policy does not allow a plan without"),
    "labels": ({"disclosure": {"labels": False}}, "refused: its sums would tell the cases by class"),
    "asks only": ({"trains": False}, "refused: this site only asks"),
}


@pytest.mark.parametrize("change", EFFECTS.values(), ids=list(EFFECTS))
def test_effect_of_accepted_plan_follows_the_settings(change: tuple[dict[str, Any], str], home: Path) -> None:
    settings(home, **change[0])
    assert dossier(home).plans[0].effect.startswith(change[1])


def test_declined_and_automatically_accepted_plans_have_their_effect(home: Path) -> None:
    settings(home, policy={"new_plans": "accept"})
    assert [one.effect for one in dossier(home).plans] == ["trained when the server asks"] * 2
    Consent(home, Policy()).say(PRIVATE.id, "declined")
    assert dossier(home).plans[1].effect == "refused: this site's admin declined it"


def test_plan_without_content_is_listed_as_unknown(home: Path) -> None:
    other = plan(name="other")
    Consent(home, Policy()).say(other.id, "accepted")
    (one,) = (one for one in dossier(home).plans if one.id == other.id)
    assert (one.plan, one.effect) == (None, "trained if the policy allows it")


def test_ledger_log_and_model_are_those_of_the_home(spent: Path) -> None:
    found, home = dossier(spent), spent
    shown = written.to_json(found)
    assert shown["ledger"]["entries"] == 1
    assert shown["ledger"]["spent"] > 0
    assert shown["ledger"]["runs"][0]["plan"] == PRIVATE.id
    assert f"spent so far: {shown['ledger']['spent']:g} at delta 0.001" in written.to_markdown(found)
    assert (shown["audit"]["entries"], shown["audit"]["signed"], shown["audit"]["signed_number"]) == (8, 1, 8)
    assert shown["audit"]["head"] == json.loads((home / "audit.head").read_text())["digest"]
    assert shown["model"] == {"id": MODEL, "since": AT + 180, "plan": OPEN.id, "gallery": True}
    assert shown["since"] == AT


def test_questions_are_counted_by_site_and_direction(home: Path) -> None:
    shown = written.to_json(dossier(home))
    assert (shown["answered"]["B"]["queries"], shown["answered"]["B"]["hits"]) == (2, 7)
    assert shown["answered"]["B"]["without_answer"] == 1
    assert (shown["asked"]["C"]["queries"], shown["asked"]["C"]["without_answer"]) == (1, 1)


# --- open points


POINTS: dict[str, tuple[dict[str, Any], str]] = {
    "accepts": ({"policy": {"new_plans": "accept"}}, "plans are accepted automatically"),
    "group": ({"disclosure": {"minimum_group": 2}}, "filters may select few patients"),
    "metrics": ({"metrics": {"host": "0.0.0.0", "port": 9100}}, "metrics are served without a login"),
    "page": ({"workbench": {"enabled": True, "host": "0.0.0.0"}}, "the workbench is open to the network"),
}


@pytest.mark.parametrize("change", POINTS.values(), ids=list(POINTS))
def test_open_point_appears_with_its_setting(change: tuple[dict[str, Any], str], home: Path) -> None:
    assert change[1] not in points(dossier(home))
    settings(home, **change[0])
    assert change[1] in points(dossier(home))


def test_strict_settings_close_the_points_about_training_and_answers(home: Path) -> None:
    strict = {
        "policy": {"privacy": "required", "aggregation": "secure"},
        "disclosure": {"queries_per_day_and_site": 100},
    }
    before = {
        "plans without differential privacy are allowed",
        "plans without secure aggregation are allowed",
        "the quota of other sites is large",
    }
    assert before <= points(dossier(home))
    settings(home, **strict)
    assert not before & points(dossier(home))


def test_weights_that_left_without_privacy_stay_an_open_point(home: Path) -> None:
    settings(home, policy={"privacy": "required"})
    assert "weights without differential privacy have left" in points(dossier(home))


def test_state_of_the_records_is_an_open_point(home: Path) -> None:
    usual = points(dossier(home))
    assert "a plan waits for a decision" in usual
    late = points(dossier(home, AT + 100 * 86_400)) - usual
    assert late == {"the audit log's head is not signed within a day", "the site's certificate has ended"}
    (home / egress.FILE).unlink()
    restored.write(home, Restored(AT, AT))
    assert points(dossier(home)) - usual == {"what has left is not counted", "the home folder came from a backup"}


def test_settings_edited_while_the_client_runs_are_an_open_point(home: Path) -> None:
    what = "the settings were edited while the client runs"
    with Lock(home, "the site"):
        (home / "control.sock").touch()
        assert what not in points(dossier(home))
        settings(home, disclosure={"answers": False})
        assert what in points(dossier(home))
    assert what not in points(dossier(home))


# --- what it does not tell


def test_no_secret_patient_or_person_is_in_a_dossier(spent: Path) -> None:
    home = spent
    secrets = [PATIENT, WORD, INVITATION, "canary", "CANARY", "PRIVATE KEY", "cough", "/data/"]
    secrets += [path.read_text()[40:100] for path in sorted(home.glob("*.key"))]
    settings(home, workbench={"certificate": f"/etc/{PATIENT}.pem", "key": f"/etc/{WORD}"}, data=f"/data/{PATIENT}")
    found = dossier(home)
    for shown in (written.to_markdown(found), json.dumps(written.to_json(found))):
        assert "lesions" in shown
        assert not [secret for secret in secrets if secret in shown]


def test_name_from_the_server_breaks_no_table(home: Path) -> None:
    found = dossier(home)
    row = written.to_markdown(replace(found, plans=(replace(found.plans[0], effect="a | b\n| c <script>"),)))
    assert "a \\| b \\| c &lt;script>" in row


def test_dossier_changes_no_file_of_the_home(home: Path) -> None:
    dossier(home)  # SQLite may create its -wal and -shm beside egress.sqlite
    before = {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}
    text(home)
    assert before == {path: path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


# --- what is kept


def test_every_file_of_the_reference_is_among_the_kept_kinds() -> None:
    page = (ROOT / "docs/reference/files.md").read_text("utf-8")
    part = page.split("## Files of a site")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    names = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell) if not name.startswith((".", "-"))}
    assert names - {name for name in names if any(_holds(one.pattern, name) for one in kept.EVERY)} == {
        "control.sock",
        "lock",
    }


def _holds(pattern: str, name: str) -> bool:
    first = name.split("/")[0]
    return Path(first).match(pattern)


def test_kept_for_has_the_limits_of_the_code() -> None:
    by_name = {one.pattern: one.kept_for for one in kept.EVERY}
    assert by_name["models"].startswith(f"the newest {indexer.MOST_MODELS},")
    assert by_name["fixed"] == f"the {fixed_files.MOST_KEPT} that were used last"


def test_kept_files_have_their_sizes(home: Path) -> None:
    shown = {one["file"]: one["bytes"] for one in written.to_json(dossier(home))["kept"]}
    assert shown["gallery.sqlite*"] == (home / "gallery.sqlite").stat().st_size
    assert shown["models"] == (home / "models" / f"{MODEL}.safetensors").stat().st_size
    assert "quarantine.csv" not in shown


# --- the command


def command(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "ynet_client", "dossier", "--home", str(home), *words]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_command_works_while_the_client_holds_its_files(home: Path) -> None:
    (home / "gallery.sqlite").unlink()
    with Lock(home, "the site"), closing(egress.Egress(home)), closing(open_stores(home)):
        done = command(home, "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["running"]
    assert shown["model"]["gallery"] is False


def test_command_writes_a_private_file(home: Path, tmp_path: Path) -> None:
    done = command(home, "--out", str(tmp_path / "dossier.md"))
    assert (done.returncode, done.stdout) == (0, f"the dossier of site A is in {tmp_path / 'dossier.md'}\n")
    assert (tmp_path / "dossier.md").stat().st_mode & 0o777 == 0o600
    assert "## What leaves this hospital" in (tmp_path / "dossier.md").read_text("utf-8")
    assert command(home, "--out", str(tmp_path)).returncode == 2


def test_json_page_has_the_keys_of_a_dossier(home: Path) -> None:
    page = (ROOT / "docs/reference/json.md").read_text("utf-8")
    part = page.split("### ynet-client dossier\n")[1].split("\n### ")[0]
    named = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]+)`", part))))
    shown = written.to_json(dossier(home))
    inner = ("server", "model", "audit", *("leaves", "kept", "plans", "open_points", "sites", "settings"))
    keys = {
        *shown,
        *(key for name in inner for key in (shown[name] if isinstance(shown[name], dict) else shown[name][0])),
    }
    assert keys <= named


# --- homes that are not complete


def lost(name: str) -> Callable[[Path], object]:
    return lambda home: (home / name).unlink()


def changed(name: str) -> Callable[[Path], object]:
    return lambda home: (home / name).write_bytes((home / name).read_bytes().replace(b":1", b":2", 1))


BROKEN: dict[str, tuple[Callable[[Path], object], type[UserError], str]] = {
    "not enrolled": (lost("membership.json"), UserError, "no site has enrolled"),
    "no key": (lost("site.key"), UserError, "membership"),
    "a log that was changed": (changed("audit.jsonl"), AuditError, "cannot be trusted"),
    "a log without its head": (lost("audit.head"), AuditError, "is missing"),
    "a ledger that was changed": (changed("ledger.jsonl"), LedgerError, "cannot be trusted"),
    "unknown setting": (lambda home: (home / "client.yaml").write_text("polcy: 1"), UserError, "policy"),
    "no manifest": (lambda home: (home / "client.yaml").write_text("device: cpu"), UserError, "no data"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_incomplete_home_is_an_error_that_says_what_to_do(
    broken: tuple[Callable[[Path], object], type[UserError], str], spent: Path
) -> None:
    spoil, kind, says = broken
    spoil(spent)
    with pytest.raises(kind) as caught:
        dossier(spent)
    assert says in str(caught.value)
    assert caught.value.do


def test_no_folder_is_an_error_of_three_lines(tmp_path: Path) -> None:
    done = command(tmp_path / "nowhere")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 3)


def test_site_that_has_just_enrolled_has_a_dossier(tmp_path: Path) -> None:
    enrolled(tmp_path / "home")
    settings(tmp_path / "home")
    shown = written.to_json(dossier(tmp_path / "home"))
    assert (shown["plans"], shown["model"], shown["audit"]["entries"]) == ([], None, 0)
    assert "No model is in use" in text(tmp_path / "home")
