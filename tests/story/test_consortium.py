"""Hospitals on loopback, from joining to queries: every part is real, every process separate."""

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from modes import open_to_others
from PIL import Image

from canaries import everything, kept, strays
from hospitals import SITES, small_plan
from ynet.data.manifest import read
from ynet.search.ranking import Hit, merge
from ynet_client import Filters, Outcome, RefusedError, Site, UserError
from ynet_client.gallery import stored_codes
from ynet_client.gallery.case_tokens import Tokens
from ynet_lab.trial import Trial, environment

ROOT = Path(__file__).parents[2]


def an_image(trial: Trial, site: str) -> Path:
    manifest = read(trial.sites[site])
    return manifest.path_of(manifest.test[0].image)


def test_query_without_a_model_is_refused(trial: Trial) -> None:
    asked = trial.site_command("A", "query", an_image(trial, "A"))
    assert asked.returncode == 3
    assert asked.stderr.splitlines()[0].startswith("error: the site cannot search yet")
    assert len(asked.stderr.splitlines()) == 3


@pytest.fixture(scope="module")
def trained(trial: Trial) -> str:
    """Train a model in a run, indexed at every site, and return its id."""
    plan = small_plan(trial.folder / "plan.yaml")
    done = trial.server_command("train", "--plan", plan)
    assert done.returncode == 0, done.stdout + done.stderr
    model = trial.server_call("GET", "/models")["in_use"]
    trial.wait_indexed(model)
    return str(model)


def test_run_shows_rounds_and_publishes_one_model(trial: Trial, trained: str) -> None:
    listed = json.loads(trial.server_command("runs", "--json").stdout)
    assert [run["status"] for run in listed["runs"]] == ["finished"]
    assert listed["runs"][0]["model"] == trained
    shown = trial.server_command("runs", "1").stdout
    assert "round 2/2" in shown
    assert "scores after round 2" in shown
    assert "macro_map10" in trial.server_call("GET", "/models")["models"][0]["card"]["scores"]["A"]


def test_query_from_each_site_is_answered_by_all_others(trial: Trial, trained: str) -> None:
    for site in trial.sites:
        found = trial.query(site, an_image(trial, site))
        assert set(found["answered"]) == set(trial.sites) - {site}
        assert found["missing"] == found["late"] == []
        assert found["model"] == trained
        assert len(found["hits"]) == 10


def test_only_own_hits_have_an_image(trial: Trial, trained: str) -> None:
    image = an_image(trial, "A")
    found = trial.query("A", image, k=100)
    assert {hit["site"] for hit in found["hits"] if "image" in hit} == {"A"}
    assert not any(hit.get("image", "").endswith(image.name) for hit in found["hits"])


def all_codes(trial: Trial, folder: Path) -> dict[bytes, bytes]:
    """Return the code of each token of every site's gallery, from copies of their files."""
    codes: dict[bytes, bytes] = {}
    for site in trial.sites:
        for part in trial.home(site).glob("gallery.sqlite*"):
            shutil.copy(part, folder / f"{site}-{part.name}")
        with contextlib.closing(sqlite3.connect(folder / f"{site}-gallery.sqlite")) as database:
            model = stored_codes.in_use(database)
            assert model is not None
            (salt,) = database.execute("SELECT salt FROM site").fetchone()
            tokens = Tokens((trial.home(site) / "gallery.secret").read_bytes(), salt, model.id)
            for held in (stored_codes.segments(database, model)[0], stored_codes.tail(database, model)[0]):
                named = (bytes(token) for token in tokens.of(held.ids))
                codes.update(zip(named, map(bytes, held.codes), strict=True))
    return codes


def test_merged_ranking_equals_pooled_index(trial: Trial, trained: str, tmp_path: Path) -> None:
    """The expectation is one ranking, made here, of the codes of every site."""
    found = trial.query("A", an_image(trial, "B"), k=40)
    code_of = all_codes(trial, tmp_path)
    assert len(code_of) == sum(SITES.values())
    code = bytes.fromhex(found["code"])
    distances = [(int.from_bytes(one) ^ int.from_bytes(code)).bit_count() for one in code_of.values()]
    pooled = merge({"": [Hit(d, token, None, 1) for d, token in zip(distances, code_of, strict=True)]}, code, 40)
    assert [(hit["distance"], hit["token"]) for hit in found["hits"]] == [
        (one.distance, one.token.hex()) for one in pooled
    ]


def test_picture_of_a_query_is_saved(trial: Trial, trained: str, tmp_path: Path) -> None:
    path = tmp_path / "query.png"
    asked = trial.site_command("A", "query", an_image(trial, "A"), "--picture", path)
    assert asked.returncode == 0, asked.stderr
    with Image.open(path) as picture:
        assert picture.width > 500
    assert not open_to_others(path)


def test_gallery_is_verified_on_demand(trial: Trial, trained: str) -> None:
    found = trial.site_command("A", "index", "--verify", "--json")
    held = {"cases": SITES["A"], "codes": SITES["A"], "segments": 1, "damaged": [], "encoded": 0}
    assert json.loads(found.stdout) == held


def test_verify_finds_flipped_bit_and_encodes_its_cases_again(trial: Trial, trained: str, tmp_path: Path) -> None:
    code_of = all_codes(trial, tmp_path)
    found = trial.query("A", an_image(trial, "A"))
    with contextlib.closing(sqlite3.connect(tmp_path / "A-gallery.sqlite")) as database:
        ((codes,),) = database.execute("SELECT codes FROM segments").fetchall()
    for file in trial.home("A").glob("gallery.sqlite*"):
        with file.open("r+b") as opened:
            if (place := opened.read().find(codes)) >= 0:
                opened.seek(place)
                opened.write(bytes([codes[0] ^ 1]))
    verified = trial.site_command("A", "index", "--verify")
    assert f"damaged: segment 0 ({SITES['A']} cases); {SITES['A']} cases encoded again" in " ".join(
        verified.stdout.split()
    )
    assert all_codes(trial, tmp_path) == code_of
    assert trial.query("A", an_image(trial, "A"))["hits"] == found["hits"]


def test_forgotten_patient_is_found_nowhere_and_stays_out(trial: Trial, trained: str) -> None:
    """The patient is of site C; later tests run without it."""
    gone = read(trial.sites["C"]).train[0]
    receipt = json.loads(trial.site_command("C", "forget", "--patient", gone.patient, "--json").stdout)
    assert gone.image in receipt["images"]
    counts = json.loads(trial.site_command("C", "index", "--json").stdout)
    assert counts == {"cases": SITES["C"] - receipt["removed"], "encoded": 0}
    hits = trial.query("C", read(trial.sites["C"]).path_of(gone.image), k=100)["hits"]
    assert not {hit.get("image") for hit in hits} & set(receipt["images"])
    assert len(hits) == sum(SITES.values()) - receipt["removed"]
    assert "0 cases" in trial.site_command("C", "forget", "--patient", gone.patient).stdout


def test_batch_of_images_is_one_audit_entry(trial: Trial, trained: str) -> None:
    manifest = read(trial.sites["A"])
    images = [manifest.path_of(case.image) for case in manifest.test[:3]]
    asked = trial.site_command("A", "query", *images, "-k", 4, "--one-per-patient", "--sites", "B", "--json")
    assert asked.returncode == 0, asked.stderr
    found = json.loads(asked.stdout)["queries"]
    assert [one["name"] for one in found] == [image.name for image in images]
    assert all(one["outcomes"] == {"B": "found"} and len(one["hits"]) == 4 for one in found)
    for site, direction, other in (("A", "asked", "B"), ("B", "answered", "A")):
        whole = trial.site_command(site, "audit", "verify")
        assert whole.returncode == 0, whole.stderr
        entry = json.loads(trial.site_command(site, "audit", "show", "--json").stdout)["entries"][-1]
        assert (entry["direction"], entry["codes"], entry["outcomes"]) == (direction, 3, {other: "found"})


def test_suppressed_and_refused_are_shown_and_exit_0(trial: Trial, trained: str) -> None:
    image = an_image(trial, "A")
    suppressed = trial.site_command("A", "query", image, "--label", "nobody has this")
    assert "suppressed: B" in suppressed.stdout
    assert "nothing found" not in suppressed.stdout
    refused = trial.site_command("A", "query", image, "--attribute", "background=dark")
    assert "refused: B (the site answers no such question)" in refused.stdout
    assert suppressed.returncode == refused.returncode == 0


@pytest.mark.parametrize(
    "flags",
    [("--split", "bogus"), ("--since", "May"), ("--attribute", "grade"), ("--epsilon", "0"), ("--sites", "../B")],
)
def test_invalid_query_is_refused_in_three_lines(flags: tuple[str, ...], trial: Trial, trained: str) -> None:
    asked = trial.site_command("A", "query", an_image(trial, "A"), *flags)
    assert asked.returncode == 2
    assert len(asked.stderr.splitlines()) == 3


def test_query_with_noise_keeps_own_cases_apart(trial: Trial, trained: str, tmp_path: Path) -> None:
    path = tmp_path / "noised.png"
    noised = trial.site_command("A", "query", an_image(trial, "A"), "--epsilon", "6", "--picture", path)
    assert noised.returncode == 0, noised.stderr
    assert "noised with epsilon 6" in noised.stdout
    assert path.exists()


def test_consult_is_sent_listed_and_answered_by_commands(trial: Trial, trained: str) -> None:
    found = trial.query("A", an_image(trial, "A"), k=100)
    hit = next(hit for hit in found["hits"] if hit["site"] == "B")
    sent = trial.site_command("A", "consult", "send", hit["token"][:12], "--note", "How did it go on?", "--json")
    assert sent.returncode == 0, sent.stderr
    received = json.loads(trial.site_command("B", "consult", "list", "--json").stdout)["consults"]
    assert [(one["site"], one["note"], one["decision"]) for one in received] == [("A", "How did it go on?", "open")]
    assert received[0]["image"] in {case.image for case in read(trial.sites["B"]).cases}
    answered = trial.site_command("B", "consult", "answer", received[0]["id"], "yes", "--text", "Call me")
    assert answered.returncode == 0, answered.stderr
    (listed,) = json.loads(trial.site_command("A", "consult", "list", "--json").stdout)["consults"]
    assert (listed["decision"], listed["text"]) == ("yes", "Call me")
    assert "image" not in listed
    assert "Call me" in trial.site_command("A", "consult", "list").stdout


def test_python_api_returns_what_the_command_prints(trial: Trial, trained: str) -> None:
    site, image = Site(home=trial.home("A")), an_image(trial, "A")
    assert site.name == "A"
    answer, found = site.query(image), trial.query("A", image)
    assert (answer.site, answer.model, answer.code, answer.name) == ("A", trained, found["code"], image.name)
    assert [hit.to_json() for hit in answer.hits] == found["hits"]
    assert answer.outcomes == found["outcomes"] == {"B": "found", "C": "found"}
    assert site.query([image, image.read_bytes()]) == [answer, replace(answer, name="")]
    assert site.query([]) == []
    with pytest.raises(UserError, match="it is site A's"):
        Site("B", home=trial.home("A"))


def test_python_api_names_every_outcome_and_filter(trial: Trial, trained: str) -> None:
    site, image = Site(home=trial.home("A")), an_image(trial, "A")
    assert site.query(image, filters=Filters(labels=("nobody has this",))).outcomes["B"] is Outcome.SUPPRESSED
    refused = site.query(image, filters=Filters(attributes=(("background", "dark"),)), sites=["B"])
    assert refused.outcomes == {"B": Outcome.REFUSED}
    assert refused.reasons == {"B": "the site answers no such question"}
    own = [read(trial.sites["A"]).cases[place].image for place in range(SITES["A"])]
    assert {hit.image for hit in refused.hits} <= set(own)
    assert {hit.site for hit in site.query(image, sites="B", k=100).hits} == {"A", "B"}
    noised = site.query(image, epsilon=6)
    assert noised.noise is not None
    assert {hit.site for hit in noised.own} == {"A"}
    assert "A" not in {hit.site for hit in noised.hits}
    with pytest.raises(RefusedError, match="0 hits"):
        site.query(image, k=0)
    with pytest.raises(UserError, match="image"):
        site.query(b"no image")
    assert site.status()["gallery"]["indexed"] == site.index()["cases"] == SITES["A"]
    assert site.forget("nobody's")["removed"] == 0


def test_the_examples_of_the_python_api_run(trial: Trial, trained: str, tmp_path: Path) -> None:
    manifest = read(trial.sites["A"])
    for case, name in zip(manifest.test, ("scan.png", "scan-2.png"), strict=False):
        shutil.copy(manifest.path_of(case.image), tmp_path / name)
    (tmp_path / "ynet").symlink_to(trial.folder)  # the folder where joined sites are searched
    examples = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "reference" / "python-api.md").read_text("utf-8"), re.DOTALL
    )
    assert len(examples) == 8
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(examples) + "\nimport sys\nassert 'torch' not in sys.modules"],
        cwd=tmp_path,
        env={key: value for key, value in environment().items() if key != "YNET_HOME"}
        | {"XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for shown in ("B answered", "A asks about", "B yes Call me", "cannot be read - No such file"):
        assert shown in done.stdout


def recorded(trial: Trial, since: int = 0) -> bytes:
    return (trial.folder / "record").read_bytes()[since:]


def messages(record: bytes) -> list[tuple[str, str, bytes]]:
    """Yield method, direction and bytes of each message of a record."""
    found, place = [], 0
    while place < len(record):
        end = record.index(b"\n", place + 1)
        method, direction, size = record[place + 1 : end].decode().split(" ")
        found.append((method.rsplit("/", 1)[1], direction, record[end + 1 : end + 1 + int(size)]))
        place = end + 1 + int(size)
    return found


def test_hub_sees_no_code_model_label_or_token_of_a_query(trial: Trial, trained: str) -> None:
    image = an_image(trial, "A")
    trial.query("A", image)  # from here on the sites know each other's sealing keys
    before = len(recorded(trial))
    found = trial.query("A", image)
    assert found["answered"]
    seen = messages(recorded(trial, before))
    questions = [data for method, direction, data in seen if (method, direction) == ("Ask", "in")]
    assert len(questions) == 1
    assert len(questions[0]) < 4096
    assert {method for method, _, _ in seen} == {"Ask", "Attach"}
    assert sum(len(data) for _, _, data in seen) < 65_536
    everything = b"".join(data for _, _, data in seen)
    for secret in (found["code"], found["model"], *(hit["token"] for hit in found["hits"])):
        assert secret.encode() not in everything
        assert bytes.fromhex(secret) not in everything
    for label in {hit["label"] for hit in found["hits"]}:
        assert label.encode() not in everything
    with Image.open(image) as opened:
        pixels = np.asarray(opened)
    for row in pixels:
        assert row[:16].tobytes() not in everything
    file = image.read_bytes()
    assert not any(file[place : place + 16] in everything for place in range(0, len(file) - 16, 16))


def test_hub_never_saw_a_patient_or_a_path(trial: Trial, trained: str) -> None:
    everything = recorded(trial)
    assert len(everything) > 100_000
    for canary in (b"CANARY", b"images/", b"masks/", str(trial.folder).encode()):
        assert canary not in everything
    for name in ("server", *trial.sites):
        assert "CANARY" not in trial.log(name)
    for log in [trial.server_home / "server.log", *(trial.home(site) / "client.log" for site in trial.sites)]:
        assert "CANARY" not in log.read_text("utf-8")


def test_egress_list_equals_what_the_hub_received(trial: Trial, trained: str) -> None:
    """Compare by class, for running sites, except enrolment, which is no call to the hub."""

    def listed() -> list[dict[str, int]]:
        shown = [json.loads(trial.site_command(site, "egress", "--json").stdout) for site in trial.sites]
        return [{one["class"]: one["bytes"] for one in site["classes"]} for site in shown]

    received = sum(len(data) for _, direction, data in messages(recorded(trial)) if direction == "in")
    until, found = time.monotonic() + 10, listed()
    while sum(sum(site.values()) - site["enrolment"] for site in found) != received:
        assert time.monotonic() < until, (found, received)
        time.sleep(0.2)
        found = listed()
    for site in found:
        assert set(site) >= {"enrolment", "greetings", "initial weights", "updates", "figures", "requests"}
    assert found[0]["updates"] > 100 * found[0]["figures"]
    text = trial.site_command("A", "egress").stdout
    assert "CANARY" not in text
    assert "in all" in text


def test_dossier_of_a_running_site_says_what_egress_ledger_and_audit_say(trial: Trial, trained: str) -> None:
    """It is written into the trial's folder, where a later test searches for secrets and patients."""
    done = trial.site_command("A", "dossier", "--out", trial.folder / "dossier.md")
    assert done.returncode == 0, done.stderr
    text = (trial.folder / "dossier.md").read_text("utf-8")
    assert "The client was running when this was written." in text
    assert f"Model in use: `{trained}`, of plan story" in text
    shown = json.loads(trial.site_command("A", "dossier", "--json").stdout)
    left = json.loads(trial.site_command("A", "egress", "--json").stdout)["classes"]
    updates = next(one["bytes"] for one in left if one["class"] == "updates")
    assert next(one["bytes"] for one in shown["leaves"] if one["name"] == "weights") >= updates > 10_000
    assert shown["model"]["id"] == trained
    assert shown["plans"][0]["rounds_trained"] >= 2
    assert {one["site"] for one in shown["sites"]} == {"B", "C"}
    assert shown["audit"]["signed"] > 0
    assert "CANARY" not in text + json.dumps(shown)


def test_absent_site_is_missing_and_answers_after_return(trial: Trial, trained: str) -> None:
    trial.stop("C")
    found = trial.query("A", an_image(trial, "A"))
    assert found["missing"] == ["C"]
    assert set(found["answered"]) == {"B"}
    trial.join("C")
    trial.wait_connected("C")
    assert set(trial.query("A", an_image(trial, "A"))["answered"]) == {"B", "C"}


def test_query_refuses_a_file_that_is_no_image(trial: Trial, trained: str, tmp_path: Path) -> None:
    no_image = tmp_path / "report.png"
    no_image.write_text("not an image")
    asked = trial.site_command("A", "query", no_image)
    assert asked.returncode == 2
    assert len(asked.stderr.splitlines()) == 3
    assert "Traceback" not in asked.stderr


def test_killed_server_keeps_state_and_sites_reconnect(trial: Trial, trained: str) -> None:
    trial.kill("server")
    trial.start_server()
    trial.wait_connected(*trial.sites)
    assert trial.server_call("GET", "/models")["in_use"] == trained
    assert set(trial.query("B", an_image(trial, "B"))["answered"]) == {"A", "C"}


@pytest.mark.parametrize("end", [Trial.kill, Trial.stop])
def test_run_resumes_after_server_stopped_in_the_middle(
    end: Callable[[Trial, str], None], trial: Trial, trained: str
) -> None:
    plan = small_plan(trial.folder / "long.yaml", rounds=12)
    assert trial.server_command("train", "--plan", plan, "--detach").returncode == 0
    number = trial.server_call("GET", "/runs")["runs"][0]["id"]
    trial.wait_for_event(number, "round", 3)
    end(trial, "server")
    trial.start_server()
    trial.wait_for_event(number, "finished", 1)
    events = trial.server_call("GET", f"/runs/{number}/events")["events"]
    rounds = [event["round"] for event in events if event["kind"] == "round"]
    assert "resumed" in [event["kind"] for event in events]
    assert sorted(set(rounds)) == list(range(1, 13))
    assert len(rounds) <= 13


def test_site_killed_in_a_round_misses_no_round(trial: Trial, trained: str) -> None:
    plan = small_plan(trial.folder / "killed.yaml", rounds=6, seed=3, update_encoding="int8")
    assert trial.server_command("train", "--plan", plan, "--detach").returncode == 0
    number = trial.server_call("GET", "/runs")["runs"][0]["id"]
    trial.wait_for_event(number, "round", 2)
    trial.kill("C")
    trial.join("C")
    trial.wait_for_event(number, "finished", 1)
    events = trial.server_call("GET", f"/runs/{number}/events")["events"]
    assert not {event["kind"] for event in events} & {"site_failed", "under_quorum", "waiting"}
    rounds = [event for event in events if event["kind"] == "round"]
    assert [event["round"] for event in rounds] == list(range(1, 7))
    assert all(set(event["sites"]) == set(trial.sites) for event in rounds)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedprox", "fedadam", "fedyogi"])
def test_each_strategy_of_the_plan_trains(strategy: str, trial: Trial, trained: str) -> None:
    plan = small_plan(trial.folder / f"{strategy}.yaml", rounds=2, strategy=strategy)
    done = trial.server_command("train", "--plan", plan)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "round 2/2" in done.stdout


def test_the_paper_recipe_trains(trial: Trial, trained: str) -> None:
    plan = small_plan(trial.folder / "paper.yaml", rounds=1)
    plan.write_text(plan.read_text("utf-8") + "recipe: paper\n", "utf-8")
    done = trial.server_command("train", "--plan", plan)
    assert done.returncode == 0, done.stdout + done.stderr


def test_model_published_during_absence_waits_for_the_admin(trial: Trial, trained: str) -> None:
    plan = small_plan(trial.folder / "two.yaml", rounds=1, seed=2)
    plan.write_text(plan.read_text("utf-8").replace("min_sites: 3", "min_sites: 2").replace("quorum: 3", "quorum: 2"))
    trial.stop("C")
    assert trial.server_command("train", "--plan", plan).returncode == 0
    model = trial.server_call("GET", "/models")["in_use"]
    trial.join("C")
    trial.wait_connected("C")
    until = time.monotonic() + 60
    while trial.site_call("C", "GET", "/status")["waiting"] != [model]:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert trial.site_command("C", "plan", "accept", model).returncode == 0
    trial.wait_indexed(model)
    assert set(trial.query("C", an_image(trial, "C"))["answered"]) == {"A", "B"}


def test_secrets_and_patients_are_only_where_they_belong(trial: Trial, trained: str) -> None:
    printed = {
        path: json.dumps(trial.server_call("GET", path)).encode()
        for path in ("/status", "/sites", "/runs", "/runs/1/events", "/models")
    }
    for site in trial.sites:
        printed[f"status of {site}"] = json.dumps(trial.site_call(site, "GET", "/status")).encode()
    commands = [
        trial.site_command("A", *name, "--json") for name in (["egress"], ["ledger"], ["doctor"], ["plan", "list"])
    ]
    commands += [trial.site_command("A", "audit", "show", "--json"), trial.server_command("audit", "show", "--json")]
    for number, done in enumerate(commands):
        assert done.returncode == 0, done.stderr
        printed[f"command {number}"] = done.stdout.encode() + done.stderr.encode()
    assert not strays(trial, printed)
    # The search itself works: it finds each value where it belongs, and all of them in one place where they do not.
    assert len(strays(trial, {"leak": b"".join(one.values[-1] for one in kept(trial))})) == len(list(kept(trial)))
    files = everything(trial)
    assert {"server/audit.jsonl", "server/registry.sqlite", "server/server.log", "sites/A/client.log"} <= set(files)
    for one in kept(trial):
        places = [data for path, data in files.items() if path.startswith(one.places or ("\0",))]
        assert not places or any(value in data for value in one.values for data in places), one.name
    assert set(trial.invitations) == set(trial.sites)
    # Only the two sites have a note between their people.
    assert not [path for path, data in files.items() if path.startswith("server/") and b"How did it go on?" in data]
    assert b"How did it go on?" not in files["record"]
