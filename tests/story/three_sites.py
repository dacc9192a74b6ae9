"""A server and the sites of a folder train and answer a query: a script for an environment without tests or pytest.

python three_sites.py FOLDER   # with data/ and plan.yaml in it; prints the answer as JSON
"""

import json
import sys
from pathlib import Path

from ynet.data.manifest import find_sites, read
from ynet_lab.trial import Trial

folder = Path(sys.argv[1])
sites = find_sites(folder / "data")
with Trial(folder / "trial", sites) as trial:
    trial.start_server()
    trial.join_all()
    trial.server_command("train", "--plan", folder / "plan.yaml").check_returncode()
    trial.wait_indexed(str(trial.server_call("GET", "/models")["in_use"]), 600)
    manifest = read(sites["A"])
    print(json.dumps(trial.query("A", manifest.path_of(manifest.test[0].image))))
