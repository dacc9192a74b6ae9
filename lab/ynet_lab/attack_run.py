"""Attack a finished model before it is given away (extra `simulation`).

The consortium's own people run it. The model's training patients are the members, its test patients the others. The
results go into `report.json`, `report.html` and the model's card.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ynet import __version__
from ynet.errors import UserError
from ynet.runtime import private_files
from ynet_lab.attack_figures import ATTACKS
from ynet_lab.attack_page import render
from ynet_lab.attack_target import Effort, Say, load_target, model_folder


def attack(
    model: Path, data: Path, out: Path, *, attacks: Sequence[str], seed: int, effort: Effort, say: Say
) -> dict[str, Any]:
    """Run the attacks, write the report and add the results to the model's card; return the content of `report.json`.

    Raises:
        UserError: The folders cannot be used, or the data are not the model's.
    """
    folder = model_folder(model)
    _claim(out)
    target = load_target(folder, data, seed, effort, say)
    found, seconds = {}, {}
    for name in attacks:
        say(f"{name}: started")
        start = time.perf_counter()
        found[name] = ATTACKS[name](target)
        seconds[name] = round(time.perf_counter() - start, 1)
        say(f"{name}: done in {seconds[name]:.0f} s")
    figures = {name: one.figures for name, one in found.items()}
    made = {
        "format": 1,
        "ynet": __version__,
        "model": folder.card()["model_id"],
        "plan_id": target.plan.id,
        "plan": asdict(target.plan),
        "seed": seed,
        "sites": target.census(),
        "attacks": figures,
        "seconds": seconds,
    }
    private_files.write(out / "report.json", json.dumps(made, indent=1))
    private_files.write(out / "report.html", render(made, {name: one.strips for name, one in found.items()}))
    folder.add_attacks(figures)
    return made


def _claim(out: Path) -> None:
    """Make the report's folder.

    Raises:
        UserError: It holds anything but an older report of attacks.
    """
    private_files.make_folder(out)
    report = out / "report.json"
    if any(out.iterdir()) and not (report.is_file() and '"attacks"' in report.read_text("utf-8")):
        raise UserError(f"{out} cannot take the report", "it holds other files", "name a new folder")
