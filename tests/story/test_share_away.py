"""A hospital whose data are on a network share that is away when a run begins."""

import json
import threading
from pathlib import Path

from hospitals import small_plan
from ynet import plan as plans
from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet_lab.trial import Trial

AWAY_S = 12.0


def test_share_away_for_12_s_does_not_lose_the_update(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 12, "B": 12}, seed=1, size=32)
    plan = small_plan(tmp_path / "plan.yaml", rounds=1, cohort={"min_sites": 2, "quorum": 2, "round_deadline_s": 100})
    with Trial(tmp_path / "trial", find_sites(tmp_path / "data")) as trial:
        trial.start_server()
        trial.join_all()
        data, away = tmp_path / "data" / "A", tmp_path / "away"
        data.rename(away)
        threading.Timer(AWAY_S, away.rename, [data]).start()
        asked = {"plan": json.loads(plans.read(plan).canonical()), "init": None}
        number = trial.server_call("POST", "/runs", json=asked)["run"]
        trial.wait_for_event(number, "finished", 1)
        events = trial.server_call("GET", f"/runs/{number}/events")["events"]
        assert not {event["kind"] for event in events} & {"site_failed", "under_quorum", "failed"}
        assert [sorted(event["sites"]) for event in events if event["kind"] == "round"] == [["A", "B"]]
        assert "there is no such file; tried again for 90 s" in trial.log("A")
