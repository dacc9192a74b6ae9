"""A hospital without training cases joins to ask; others train, it adopts the model, asks, and gets hits."""

import json
import time
from pathlib import Path

import yaml

from hospitals import small_plan
from ynet import plan as plans
from ynet.data.manifest import find_sites, read
from ynet.data.synthetic import make_federation
from ynet_lab.trial import READY_WITHIN_S, Trial, command


def join_to_ask(trial: Trial, site: str, *flags: object) -> None:
    invited = trial.server_call("POST", "/invitations", json={"site": site, "replace": False})["invitation"]
    home, config = trial.home(site), trial.config(site)
    joining = ["-m", "ynet_client", "join", "--site", site, "--home", home, "--config", config, "--asks-only", *flags]
    trial._spawn(site, *joining, "--threads", 1, "--invitation", "-", said=invited)


def test_asking_only_site_is_in_no_round_and_gets_hits(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 16, "D": 1}, seed=1, size=32)
    manifests = find_sites(tmp_path / "data")
    cohort = {"min_sites": 1, "quorum": 1, "round_deadline_s": 300}
    plan = small_plan(tmp_path / "plan.yaml", rounds=1, cohort=cohort)
    with Trial(tmp_path / "trial", manifests) as trial:
        trial.start_server()
        trial.join("A")
        join_to_ask(trial, "D")
        trial.wait_connected("A", "D")
        assert "it only asks, and trains nothing; 0 cases of its own are searched" in trial.log("D")
        run = {"plan": json.loads(plans.read(plan).canonical()), "init": None}
        number = trial.server_call("POST", "/runs", json=run)["run"]
        for kind in ("started", "round", "finished"):  # each within its own time
            trial.wait_for_event(number, kind, 1)
        events = trial.server_call("GET", f"/runs/{number}/events")["events"]
        assert all(set(event["sites"]) == {"A"} for event in events if event["kind"] in ("round", "evaluated"))
        assert not {event["kind"] for event in events} & {"site_failed", "awaited", "under_quorum"}
        listed = {one["site"]: one for one in trial.server_call("GET", "/sites")["sites"]}
        assert {name: one["asks_only"] for name, one in listed.items()} == {"A": False, "D": True}
        assert "asks only" in trial.server_command("sites").stdout
        model = trial.server_call("GET", "/models")["models"][0]["id"]
        wait_for_model_offered(trial, "D", model)
        assert trial.site_command("D", "plan", "accept", model[:16]).returncode == 0
        trial.wait_indexed(model)
        image = manifests["A"].parent / read(manifests["A"]).cases[0].image
        assert {hit["site"] for hit in trial.query("D", image)["hits"]} == {"A"}
        assert {hit["site"] for hit in trial.query("A", image)["hits"]} == {"A"}


def wait_for_model_offered(trial: Trial, site: str, model: str) -> None:
    until = time.monotonic() + READY_WITHIN_S
    while model not in trial.site_call(site, "GET", "/status")["waiting"]:
        assert time.monotonic() < until, trial.log(site)
        time.sleep(0.1)


def test_server_can_refuse_asking_only_sites(tmp_path: Path) -> None:
    with Trial(tmp_path / "trial", {}) as trial:
        trial.server_home.mkdir(parents=True)
        settings = {"asking_sites": "refuse", "listen": {"host": "127.0.0.1", "hub_port": 0, "enrolment_port": 0}}
        (trial.server_home / "server.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        trial.start_server()
        invited = trial.server_call("POST", "/invitations", json={"site": "D", "replace": False})["invitation"]
        done = command(
            "ynet_client", "join", "--site", "D", "--asks-only", "--invitation", invited, home=tmp_path / "D"
        )
        assert done.returncode == 3
        assert done.stderr.splitlines()[-3:] == [
            "error: the server does not let this site in",
            "  why: this consortium takes no site that only asks, and this one has no training cases",
            "   do: join with training cases (--trains --data MANIFEST.csv), or talk to the coordinator",
        ]


def test_join_without_data_names_asks_only(tmp_path: Path) -> None:
    done = command("ynet_client", "join", "--site", "D", "--invitation", "x", home=tmp_path / "D")
    assert done.returncode == 2
    assert "a site that only asks others joins with --asks-only" in done.stderr
