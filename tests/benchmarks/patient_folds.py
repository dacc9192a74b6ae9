"""Federated, pooled and alone, by folds of patients: each site keeps its patients, and each patient is tested once.

python tests/benchmarks/patient_folds.py --data DIR [DIR ...] --work DIR [--folds 3] [--only-folds 1,2] [--seeds 1]
    [--skew "--missing 2 --alone 1 --sizes 40:1"] [--plan PLAN.yaml] [--set training.rounds=40 ...]
    [--models federated,pooled,alone] [--name NAME] [--out FILE.json]

Without `--plan`, the plan is the one that `ynet-lab plan` writes for the set; `--set` changes values of it. `--skew`
cuts the set into unlike sites with `ynet-lab skew`. Encoders are those of YNET_HOME. An interrupted run resumes in the
work folder. Intervals (95 %) are by a bootstrap over the patients of all folds; seeds are averaged beforehand. The
results are added to FILE.json under NAME, by default the set's name.
"""

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from ynet_lab.figures.by_query import ByQuery, drawn, weighted

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, Floats]
"""The figures of queries, one value each, as `by_query.columns` names them."""
FIGURES = {"macro_map10": "class", "case_hit10": "case@10", "dice": "Dice"}
DRAWS = 2000


def main() -> None:
    given = read_arguments()
    found = {given.name or data.name: of_set(data, given) for data in given.data}
    print(table(found))
    if given.out:
        before = json.loads(given.out.read_text("utf-8")) if given.out.exists() else {}
        given.out.write_text(json.dumps({**before, **found}, indent=1) + "\n", "utf-8")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--only-folds", default="")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--skew", default="")
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--models", default="federated,pooled")
    parser.add_argument("--name")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def of_set(data: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train and score every fold of a set; return its figures."""
    name = given.name or data.name
    folds = [int(one) for one in given.only_folds.split(",") if one] or list(range(1, given.folds + 1))
    reports = [trained(data, name, fold, given) for fold in folds]
    models = list(dict.fromkeys(model["name"] for model in reports[0]["models"]))
    queries = {model: joined([of_model(given.work, name, fold, model, given) for fold in folds]) for model in models}
    classes = reports[0]["plan"]["classes"]
    return {
        "plan": reports[0]["plan"],
        "folds": folds,
        "seeds": given.seeds,
        "skew": given.skew,
        "sites": [report["sites"] for report in reports],
        "models": {model: figures(found, classes) for model, found in queries.items()},
        "ties": {model: spread(reports, model, "median_tie10") for model in models},
        "distinct": {model: spread(reports, model, "distinct_share") for model in models},
        "likeness": {model: spread(reports, model, "likeness") for model in models},
        "seconds": {m["name"]: m["seconds"]["mean"] for m in reports[0]["models"]},
        "ends": {m["name"]: m["ends"] for m in reports[0]["models"]},
        "ceiling": {
            model["name"]: {key: model["ceiling"][key] and model["ceiling"][key]["mean"] for key in model["ceiling"]}
            for model in reports[0]["models"]
        },
        "floors": {
            kind: {f: mean(r["floors"][kind].get(f) for r in reports) for f in FIGURES if f != "dice"}
            for kind in reports[0]["floors"]
        },
        "over_pooled": over_pooled(queries, classes, reports),
        "over_alone": over_alone(queries, reports[0]),
    }


# --- training


def trained(data: Path, name: str, fold: int, given: argparse.Namespace) -> dict[str, Any]:
    """Simulate one fold, where not all its models are there; return its report."""
    cut, out = given.work / f"{data.name}{given.skew.replace(' ', '')}-{fold}", report_folder(given.work, name, fold)
    if not (out / "report.json").exists() or not (out / f"seed-{given.seeds}").exists():
        if not cut.exists() and given.skew:
            lab("skew", data, cut, *given.skew.split(), "--fold", f"{fold}/{given.folds}")
        elif not cut.exists():
            cut_fold(data, cut, fold - 1, given.folds)
        plan = planned(given.work / f"{name}.yaml", cut, given)
        lab(
            "simulate", "--plan", plan, "--data", cut, "--report", out, "--models", given.models, "--seeds", given.seeds
        )
    return dict(json.loads((out / "report.json").read_text("utf-8")))


def report_folder(work: Path, name: str, fold: int) -> Path:
    return work / f"{name}-{fold}-report"


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


def planned(path: Path, cut: Path, given: argparse.Namespace) -> Path:
    """Write the plan: that of the first fold for all."""
    if path.exists():
        return path
    if given.plan is None:
        lab("plan", cut, "--out", path)
    values = yaml.safe_load((given.plan or path).read_text("utf-8"))
    for one in given.set:
        key, value = one.split("=", 1)
        section, _, name = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[name] = yaml.safe_load(value)
    if values["training"]["rounds"] != "auto":
        values["training"].pop("max_rounds", None)
    path.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    return path


def lab(*arguments: object) -> None:
    """Run a command of ynet-lab."""
    subprocess.run([Path(sys.executable).with_name("ynet-lab"), *map(str, arguments)], check=True)


# --- figures of queries


def of_model(work: Path, name: str, fold: int, model: str, given: argparse.Namespace) -> Columns:
    """Return the figures of a fold's queries, means over the seeds; `patient` is a number of this fold."""
    folder = model.replace(": ", "-")
    seeds = []
    for seed in range(1, given.seeds + 1):
        path = report_folder(work, name, fold) / f"seed-{seed}" / folder / "scores.json"
        seeds.append(json.loads(path.read_text("utf-8"))["queries"])
    return {key: np.mean([np.array(one[key], np.float64) for one in seeds], axis=0) for key in seeds[0]}


def joined(folds: Sequence[Columns]) -> Columns:
    """Join the folds' queries; patients of two folds are different people."""
    apart = [{**one, "patient": one["patient"] + place * 1e7} for place, one in enumerate(folds)]
    return {key: np.concatenate([one[key] for one in apart]) for key in apart[0]}


def part(found: Columns, chosen: npt.NDArray[np.bool_]) -> Columns:
    return {key: column[chosen] for key, column in found.items()}


def drawn_figures(found: Columns, weights: Floats, precision: str = "macro_map10") -> dict[str, Floats]:
    """Return each figure for each row of weights; `macro_map10` is the mean over classes of the column `precision`."""
    label, patient = found["label"].astype(np.int64), found["patient"].astype(np.int64)
    shares = {name: found[name] for name in FIGURES if name != "macro_map10"}
    return weighted(ByQuery(label, patient, found[precision], found["median_tie10"], shares, {}), weights)


def weights_of(found: Columns) -> Floats:
    """Return the weights of the queries: all alike in the first row, then in each draw of patients."""
    return np.vstack([np.ones(len(found["patient"])), drawn(found["patient"].astype(np.int64), DRAWS)])


def interval(values: Floats) -> list[float] | None:
    """Return the first value and the ends of the others' interval; None where there is none."""
    if not np.isfinite(values[0]):
        return None
    low, high = np.nanpercentile(values[1:], (2.5, 97.5))
    return [round(float(one), 4) for one in (values[0], low, high)]


def class_figure(found: Columns, chosen: npt.NDArray[np.bool_], weights: Floats) -> Floats:
    """Return the class figure of some queries for each row of weights; NaN without any."""
    if not chosen.any():
        return np.full(len(weights), np.nan)
    return drawn_figures(part(found, chosen), weights[:, chosen])["macro_map10"]


def likeness_of(found: Columns, attribute: str, weights: Floats) -> Floats:
    """Return the likeness of an attribute over chance for each row of weights."""
    above, below = found[f"above {attribute}"], found[f"below {attribute}"]
    known = np.isfinite(above) & np.isfinite(below)
    return (weights[:, known] @ above[known]) / (weights[:, known] @ below[known])


def figures(found: Columns, classes: Sequence[str]) -> dict[str, Any]:
    """Return each figure of a model with its interval, and the class figure of each class and each site."""
    weights = weights_of(found)
    of_all = drawn_figures(found, weights)
    return {
        **{name: interval(of_all[name]) for name in FIGURES},
        "likeness_by_attribute": {
            name: interval(likeness_of(found, name, weights))
            for name in sorted(key.removeprefix("above ") for key in found if key.startswith("above "))
        },
        "per_class": {
            name: interval(class_figure(found, found["label"] == place, weights)) for place, name in enumerate(classes)
        },
        "class_by_site": {
            str(int(site)): interval(class_figure(found, found["site"] == site, weights))
            for site in np.unique(found["site"])
        },
    }


def over_pooled(
    queries: Mapping[str, Columns], classes: Sequence[str], reports: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Compare federated with pooled: ratios of the figures, difference of Dice, and each class that one site has."""
    if not {"federated", "pooled"} <= queries.keys():
        return None
    pair = queries["federated"], queries["pooled"]
    weights = weights_of(pair[0])
    ours, theirs = (drawn_figures(one, weights) for one in pair)
    told: dict[str, Any] = {name: interval(ours[name] / theirs[name]) for name in FIGURES}
    told["dice_difference"] = interval(ours["dice"] - theirs["dice"])
    told["lone_classes"] = {}
    for name in lone_classes(reports):
        own, pooled = (class_figure(one, one["label"] == classes.index(name), weights) for one in pair)
        told["lone_classes"][name] = interval(own / pooled)
    return told


def lone_classes(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the classes that one site alone trains on, in every fold."""
    names = reports[0]["plan"]["classes"]
    return [
        name for name in names if all(sum(s["classes"][name] > 0 for s in report["sites"]) == 1 for report in reports)
    ]


def over_alone(queries: Mapping[str, Columns], report: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the federated model with each site's own on its queries to the others: differences."""
    found = {}
    for place, site in enumerate(one["site"] for one in report["sites"]):
        if "federated" in queries and f"alone: {site}" in queries:
            pair = [part(one, one["site"] == place) for one in (queries["federated"], queries[f"alone: {site}"])]
            weights = weights_of(pair[0])
            ours, own = (drawn_figures(one, weights, "cross")["macro_map10"] for one in pair)
            found[site] = interval(ours - own)
    return found


# --- the table


def mean(values: Any) -> float | None:
    known = [one for one in values if one is not None]
    return round(float(np.mean(known)), 4) if known else None


def spread(reports: Sequence[Mapping[str, Any]], name: str, figure: str) -> list[float | None]:
    """Return a figure of each fold."""
    models = [next(model for model in report["models"] if model["name"] == name) for report in reports]
    return [one["overall"][figure] and one["overall"][figure]["mean"] for one in models]


def table(found: Mapping[str, Any]) -> str:
    """Return a Markdown table of all models, and of federated over pooled."""
    heads = [*FIGURES.values(), "tie", "distinct", "likeness"]
    lines = ["| set | model | " + " | ".join(heads) + " |", "|---|---|" + "---|" * len(heads)]
    for name, one in found.items():
        for model, told in one["models"].items():
            rest = [f"{mean(one[key][model])}" for key in ("ties", "distinct", "likeness")]
            lines.append(f"| {name} | {model} | " + " | ".join([*(shown(told[f]) for f in FIGURES), *rest]) + " |")
        for kind, floors in one["floors"].items():
            lines.append(f"| {name} | floor: {kind} | " + " | ".join(f"{floors.get(f)}" for f in FIGURES) + " | | | |")
        if ratios := one["over_pooled"]:
            lines.append(
                f"| {name} | federated / pooled | " + " | ".join(shown(ratios[f]) for f in FIGURES) + " | | | |"
            )
            lines.append(f"| {name} | Dice, federated less pooled | | | {shown(ratios['dice_difference'])} | | | |")
            lines += [
                f"| {name} | class of one site, federated / pooled: {lone} | {shown(ratio)} | | | | | |"
                for lone, ratio in ratios["lone_classes"].items()
            ]
        lines += [
            f"| {name} | cross-site class, federated less alone: {site} | {shown(margin)} | | | | | |"
            for site, margin in one["over_alone"].items()
        ]
    return "\n".join(lines)


def shown(told: Sequence[float] | None) -> str:
    """Format a figure and its interval."""
    return "none" if told is None else f"{told[0]:.3f} ({told[1]:.3f} to {told[2]:.3f})"


if __name__ == "__main__":
    main()
