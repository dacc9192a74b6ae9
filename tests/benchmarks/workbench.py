"""Measure the workbench in Chromium: its size, its first paint, and the time from a drop to cases.

Three synthetic hospitals as processes on this machine, with a warm model; `--out` writes the figures as JSON.
"""

import argparse
import base64
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import BrowserContext, Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "tests" / "story")]

from browser import PASSWORD, chromium, sign_in, window  # noqa: E402
from hospitals import small_plan  # noqa: E402
from ynet.data.manifest import find_sites, read  # noqa: E402
from ynet.data.synthetic import make_federation  # noqa: E402
from ynet.web.accounts import Accounts  # noqa: E402
from ynet_lab.trial import Trial  # noqa: E402

SITES = {"A": 150, "B": 110, "C": 80}
DROP = """([data]) => {
  const bytes = Uint8Array.from(atob(data), (char) => char.charCodeAt(0)), transfer = new DataTransfer();
  transfer.items.add(new File([bytes], "image.png", { type: "image/png" }));
  document.querySelector("#film").dispatchEvent(
    new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def main() -> None:
    """Measure, print and write the figures."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--drops", type=int, default=15)
    arguments.add_argument("--out", type=Path)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), options.drops)
    for name, value in figures.items():
        print(f"{name:32} {value}")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure(folder: Path, drops: int) -> dict[str, Any]:
    """Measure everything on a new consortium."""
    make_federation(folder / "data", SITES, seed=1, size=256)
    with Trial(folder, find_sites(folder / "data"), workbench={"enabled": True, "port": 0}) as trial:
        trial.start_server()
        trial.join_all()
        Accounts(trial.home("A")).add("weber", "radiologist", PASSWORD, time.time())
        plan = small_plan(folder / "plan.yaml", image=96, width=16)  # the default network, hardly trained
        done = trial.server_command("train", "--plan", plan)
        assert done.returncode == 0, done.stdout + done.stderr
        trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])
        address = trial.site_call("A", "GET", "/workbench")["address"]
        manifest = read(trial.sites["A"])
        images = [manifest.path_of(case.image) for case in manifest.cases][:drops]
        with chromium() as browser, window(browser) as context:
            figures = first_look(context, address)
            page = context.pages[0]
            figures |= timed(page, "256 pixels", [image.read_bytes() for image in images])
            figures |= timed(page, "2048 pixels", [enlarged(image, folder) for image in images[:5]])
    return figures


def first_look(context: BrowserContext, address: str) -> dict[str, Any]:
    """Measure the bytes of a first visit, with the sign-in, and the paint of both pages in milliseconds."""
    page, weights = context.new_page(), list[int]()
    page.on("response", lambda answer: weights.append(len(answer.body()) if answer.ok else 0))
    page.goto(address)
    login = page.evaluate(PAINT)
    sign_in(page, address, "weber")
    page.wait_for_selector("#link.good")
    page.wait_for_load_state("networkidle")
    return {
        "page_weight_bytes": sum(weights),
        "requests": len(weights),
        "sign_in_first_paint_ms": round(login),
        "first_paint_ms": round(page.evaluate(PAINT)),
    }


def timed(page: Page, name: str, files: list[bytes]) -> dict[str, Any]:
    """Measure milliseconds from the drop to the hits, and to the image with its mask: median and slowest."""
    hits, shown = list[int](), list[int]()
    for data in files:
        page.evaluate(DROP, [base64.b64encode(data).decode()])
        page.wait_for_selector("#film[data-shown]")
        film = page.locator("#film")
        hits.append(int(film.get_attribute("data-took") or 0))
        shown.append(int(film.get_attribute("data-shown") or 0))
    return {
        f"drop_to_hits_ms, {name}": [round(statistics.median(hits)), max(hits)],
        f"drop_to_mask_ms, {name}": [round(statistics.median(shown)), max(shown)],
    }


def enlarged(image: Path, folder: Path) -> bytes:
    """Enlarge the picture to 2048 pixels a side."""
    with Image.open(image) as opened:
        opened.resize((2048, 2048)).save(folder / "large.png")
    return (folder / "large.png").read_bytes()


if __name__ == "__main__":
    main()
