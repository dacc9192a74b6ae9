"""Takes the pictures of the workbench, with head phantoms: python tests/workbench_pictures.py [--work DIR].

Three synthetic hospitals train the demonstration's plan on `ynet.data.phantom` (no patient's data), which takes about
four minutes on two cores. With `--work` the trained consortium stays there, and a second run only takes the picture.
"""

import argparse
import base64
import io
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "story"))

from browser import DROP, PASSWORD, chromium, sign_in, window
from ynet.data.manifest import Case, Manifest, find_sites, read
from ynet.data.phantom import BRAIN
from ynet.data.synthetic import make_federation
from ynet.web.accounts import Accounts
from ynet_lab.demo import measure, shipped_plan, write_plan
from ynet_lab.trial import Trial

IMAGES = Path(__file__).parents[1] / "docs/images"
SITES = {"Northside": 180, "Lakeview": 120, "Harbour": 90}
ASKING, LABEL, USER = "Northside", "glioma", "weber"
ROUNDS = 8
PICTURES: dict[str, tuple[int, int, Literal["light", "dark"]]] = {
    "first-screen.png": (1440, 900, "light"),
    "workbench-1280.png": (1280, 800, "light"),
    "workbench-1920.png": (1920, 1080, "light"),
    "workbench-dark.png": (1440, 900, "dark"),
}
THIN_MASK = """() => {
  const opacity = document.querySelector("#opacity");
  opacity.value = 20;
  opacity.dispatchEvent(new Event("input", { bubbles: true }));
}"""
"""So that the tumour's wall is seen under its mask."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--work", type=Path, help="keep the consortium in this folder")
    arguments.add_argument("--case", type=int, default=0, help="which of the asking site's test cases of the class")
    arguments.add_argument("--out", type=Path, default=IMAGES, help="the folder for the pictures")
    asked = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        data = work / "data"
        if not data.exists():
            make_federation(data, SITES, seed=1, size=256, appearance=BRAIN)
        with Trial(work, find_sites(data), workbench={"enabled": True, "port": 0}) as trial:
            ready(trial, work)
            for name, (width, height, scheme) in PICTURES.items():
                take(trial, asked.case, asked.out / name, width, height, scheme)


def ready(trial: Trial, work: Path) -> None:
    """Start every process; train and say what the network has learnt, where there is no model yet."""
    manifests = {site: read(path) for site, path in trial.sites.items()}
    trial.start_server()
    trial.join_all()
    if trial.server_call("GET", "/models")["in_use"] is None:
        Accounts(trial.home(ASKING)).add(USER, "radiologist", PASSWORD, time.time())
        done = trial.server_command("train", "--plan", plan(work, manifests))
        done.check_returncode()
        trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])
        measure(trial, manifests)
    trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])


def plan(work: Path, manifests: Mapping[str, Manifest]) -> Path:
    """The demonstration's plan, ended early: codes of one class still differ, as those of a hard task would."""
    path = write_plan(shipped_plan("demo"), manifests, work / "plan.yaml")
    values = yaml.safe_load(path.read_text("utf-8"))
    values["training"].update(rounds=ROUNDS, cooldown=0.0)
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def take(trial: Trial, number: int, out: Path, width: int, height: int, scheme: Literal["light", "dark"]) -> None:
    """Drop a test case on the asking site's page, and keep what the page then shows."""
    image = chosen(read(trial.sites[ASKING]), number)
    address = trial.site_call(ASKING, "GET", "/workbench")["address"]
    with chromium() as browser, window(browser, width, height, color_scheme=scheme) as opened:
        page = opened.new_page()
        sign_in(page, address, USER)
        page.wait_for_selector("#link.good")
        page.evaluate(DROP, ["slice-071.png", base64.b64encode(image.read_bytes()).decode()])
        page.wait_for_selector("#film[data-shown]")
        page.wait_for_selector(".other-card")
        page.wait_for_load_state("networkidle")
        page.evaluate(THIN_MASK)
        page.wait_for_timeout(500)  # the last small pictures are drawn
        Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(out, optimize=True)
    print(f"{out}: {image.name}")


def chosen(manifest: Manifest, number: int) -> Path:
    """The file of one of the test cases that have the picture's class."""
    cases: list[Case] = [case for case in manifest.test if case.label == LABEL]
    return manifest.path_of(cases[number % len(cases)].image)


if __name__ == "__main__":
    main()
