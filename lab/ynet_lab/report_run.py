"""Reports of finished experiments, `ynet-lab report`: one made again, or several compared."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.table

from ynet.errors import UserError
from ynet.runtime import private_files
from ynet_lab import comparison, comparison_page, finished, report_page
from ynet_lab.tables import model_table


def report(folders: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write `report.json` and `report.html` of some experiments to `out`; return what the former holds.

    Raises UserError when a folder holds no finished experiment, they cannot be compared, or `out` is one of them.
    """
    if out.resolve() in {folder.resolve() for folder in folders}:
        why = "it holds an experiment, whose report has example images that would be lost"
        raise UserError(f"{out} cannot take the report", why, "name another folder with --out")
    experiments = [finished.read(folder) for folder in folders]
    if len(experiments) == 1:
        made = finished.recomposed(experiments[0])
        page = report_page.render(made, [])
    else:
        made = comparison.compare(experiments)
        page = comparison_page.render(made)
    private_files.make_folder(out)
    private_files.write(out / "report.json", json.dumps(made, indent=1))
    private_files.write(out / "report.html", page)
    return made


def table(made: Mapping[str, Any]) -> rich.table.Table:
    """Return a report as a table for the terminal."""
    return comparison_page.terminal_table(made) if "experiments" in made else model_table(made["models"])
