"""A whole run by a user unknown to the system, without HOME: it writes only under its own folder.

python homeless.py FOLDER     # a server, two sites, a round, a query; prints what the query found
"""

import json
import os
import sys
from pathlib import Path

from hospitals import small_plan
from ynet import plan as plans
from ynet.data.manifest import find_sites, read
from ynet.data.synthetic import make_federation
from ynet_lab.trial import Trial


def main(folder: Path) -> None:
    assert "HOME" not in os.environ
    make_federation(folder / "data", {"A": 12, "B": 12}, seed=1, size=32)
    cohort = {"min_sites": 2, "quorum": 2, "round_deadline_s": 60}
    plan = small_plan(folder / "plan.yaml", rounds=1, cohort=cohort)
    manifests = find_sites(folder / "data")
    with Trial(folder / "trial", manifests) as trial:
        trial.start_server()
        trial.join_all()
        run = {"plan": json.loads(plans.read(plan).canonical()), "init": None}
        number = trial.server_call("POST", "/runs", json=run)["run"]
        trial.wait_for_event(number, "finished", 1)
        trial.wait_indexed(trial.server_call("GET", "/models")["models"][0]["id"])
        manifest = manifests["A"]
        print("hits", len(trial.query("A", manifest.parent / read(manifest).cases[0].image)["hits"]))


main(Path(sys.argv[1]))
