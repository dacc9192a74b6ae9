"""Federated against pooled training, by folds of patients: each site keeps its patients, each patient is tested once.

python tests/benchmarks/patient_folds.py --data DIR [DIR ...] --work DIR [--folds 3] [--plan PLAN.yaml]
    [--rounds N] [--models federated,pooled,alone] [--out FILE.json]

Without `--plan`, the plan is the one that `ynet-lab plan` writes for the set; `--rounds` shortens it to a fixed number.
Encoders are those of YNET_HOME. An interrupted run resumes in the work folder. Figures are means over the folds, with
the standard deviation between them.
"""

import argparse
import csv
import json
import random
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

FIGURES = ("macro_map10", "case_hit10", "dice", "median_tie10", "distinct_share")
HEADS = ("class", "case@10", "Dice", "tie", "distinct")
FLOORS = ("macro_map10", "case_hit10")


def main() -> None:
    arguments = read_arguments()
    found = {data.name: of_set(data, arguments) for data in arguments.data}
    print(table(found))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--models", default="federated,pooled")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def of_set(data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score every fold of a set; return each model's figures, by fold."""
    reports = [trained(data, fold, arguments) for fold in range(arguments.folds)]
    models: dict[str, dict[str, list[float | None]]] = {}
    for report in reports:
        for model in report["models"]:
            figures = models.setdefault(model["name"], {})
            values = {name: model["overall"][name] for name in FIGURES}
            values |= {f"ceiling_{name}": model["ceiling"][name] for name in FLOORS}
            values |= {f"class_{name}": value for name, value in model["map10_per_class"].items()}
            for name, value in values.items():
                figures.setdefault(name, []).append(None if value is None else value["mean"])
    floors = {
        kind: {name: [report["floors"][kind][name] for report in reports] for name in FLOORS}
        for kind in ("random", "majority", "hog", "hog_mask")
    }
    return {"plan": reports[0]["plan"], "models": models, "floors": floors}


def trained(data: Path, fold: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Simulate one fold, where it was not before; return its report."""
    cut, out = arguments.work / f"{data.name}-{fold}", arguments.work / f"{data.name}-{fold}-report"
    if not (out / "report.json").exists():
        cut_fold(data, cut, fold, arguments.folds)
        plan = planned(data, cut, arguments)
        command = ("simulate", "--plan", plan, "--data", cut, "--report", out, "--models", arguments.models)
        lab(*command)
    return dict(json.loads((out / "report.json").read_text("utf-8")))


def cut_fold(data: Path, out: Path, fold: int, folds: int, seed: int = 7) -> None:
    """Copy the sites of a set; the test cases are those of one fold of each site's patients, class by class."""
    for manifest in sorted(data.glob("*/manifest.csv")):
        site = out / manifest.parent.name
        shutil.copytree(manifest.parent, site, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.csv"))
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        first: dict[str, str] = {}
        for row in rows:
            first.setdefault(row["patient"], row["label"])
        test, shuffled = set[str](), random.Random(seed)
        for label in sorted(set(first.values())):
            patients = sorted(patient for patient, own in first.items() if own == label)
            shuffled.shuffle(patients)
            test |= {patient for place, patient in enumerate(patients) if place % folds == fold}
        with (site / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*{**rows[0], "split": ""}])
            writer.writeheader()
            writer.writerows({**row, "split": "test" if row["patient"] in test else "train"} for row in rows)


def planned(data: Path, cut: Path, arguments: argparse.Namespace) -> Path:
    """Write the plan of a fold. The default plan is made for the first fold, and the same for all."""
    path: Path = arguments.work / f"{data.name}.yaml"
    if arguments.plan is None and not path.exists():
        lab("plan", cut, "--out", path)
    values = yaml.safe_load((arguments.plan or path).read_text("utf-8"))
    if arguments.rounds:
        values["training"] |= {"rounds": arguments.rounds, "schedule": "trapezoid", "cooldown": 0.2}
        values["training"].pop("max_rounds", None)
        values["training"]["evaluate_every"] = arguments.rounds
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def lab(*arguments: object) -> None:
    """Run a command of ynet-lab."""
    subprocess.run([Path(sys.executable).with_name("ynet-lab"), *map(str, arguments)], check=True)


def table(found: dict[str, Any]) -> str:
    """Return a Markdown table of all models, and of federated over pooled."""
    lines = ["| set | model | " + " | ".join(HEADS) + " |", "|---|---|" + "---|" * len(HEADS)]
    for name, one in found.items():
        for model, figures in one["models"].items():
            lines.append(f"| {name} | {model} | " + " | ".join(shown(figures[figure]) for figure in FIGURES) + " |")
        for kind, floors in one["floors"].items():
            lines.append(
                f"| {name} | floor: {kind} | " + " | ".join(shown(floors[figure]) for figure in FLOORS) + " | | | |"
            )
        if {"federated", "pooled"} <= one["models"].keys():
            ratios = [ratio(one["models"], figure) for figure in FIGURES[:3]]
            lines.append(f"| {name} | federated / pooled | " + " | ".join(ratios) + " | | |")
    return "\n".join(lines)


def shown(values: list[float | None]) -> str:
    """Format a figure over the folds."""
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    return f"{statistics.fmean(known):.3f} ± {statistics.stdev(known) if len(known) > 1 else 0:.3f}"


def ratio(models: dict[str, Any], figure: str) -> str:
    """Format the ratio of the means over the folds."""
    means = []
    for name in ("federated", "pooled"):
        known = [value for value in models[name][figure] if value is not None]
        if not known:
            return "none"
        means.append(statistics.fmean(known))
    return f"{means[0] / means[1]:.3f}"


if __name__ == "__main__":
    main()
