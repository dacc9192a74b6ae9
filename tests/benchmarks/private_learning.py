"""Measure the accuracy of federated models at epsilon 1, 3, 8 and without privacy, for docs/results.md.

python tests/benchmarks/private_learning.py --data LGG --work DIR [--seeds 3] [--synthetic-seeds 1]
    [--rows scratch pretrained synthetic] [--out FILE.json] [--doc FILE.md] [--no-training]

On LGG the plan `private`, from scratch and begun with weights trained on synthetic images, which show no patient; and
`private-synthetic` on a federation of 2,000 synthetic patients a site, begun with weights trained on images of random
processes. An interrupted run resumes. Rows that are not named keep the figures of FILE.json.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from learning import PLANS, head, row, shown, write_between
from random_processes import PROCESSES, make_processes
from ynet import weights
from ynet.data.synthetic import CLASSES, make_federation
from ynet_server.rounds.run_folder import MODEL

EPSILONS = (1.0, 3.0, 8.0, None)
SITES = {"north": 4600, "south": 4600, "west": 4600}  # images: some 2,000 patients each; 1,500 of them train
FIGURES = ("macro_map10", "dice", "distinct_codes")
PLAIN = {"rounds": 8, "batch_size": 32, "learning_rate": 2e-3, "weight_decay": 0.02, "segmentation_weight": 4}
"""Without privacy the federation needs no pretraining."""

THEIRS = ("hash.", "place.")
BEGIN, END = "<!-- private figures -->", "<!-- end of private figures -->"
ROWS = {
    "scratch": "lgg_mri4, from scratch",
    "pretrained": "lgg_mri4, begun with synthetic images' weights",
    "synthetic": "synthetic, 2,000 patients a site, begun with random processes' weights",
}


def main() -> None:
    arguments = read_arguments()
    kept = json.loads(arguments.out.read_text("utf-8")) if arguments.out and arguments.out.exists() else {}
    found = {
        name: {label(e): one(name, e, arguments) for e in EPSILONS} if name in arguments.rows else kept.get(name, {})
        for name in ROWS
    }
    text = "\n".join(page(found))
    print(text)
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if arguments.doc:
        write_between(arguments.doc, BEGIN, END, text)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--synthetic-seeds", type=int, default=1)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    return parser.parse_args()


def one(name: str, epsilon: float | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the federated model's figures at an epsilon; empty with --no-training and no model."""
    if name == "scratch" and epsilon is None:
        return default_plan()
    folder = arguments.work / f"{name}-{label(epsilon)}"
    if not arguments.no_training:
        simulate(name, epsilon, folder, arguments)
    report = folder / "report.json"
    if not report.exists():
        return {}
    made = json.loads(report.read_text("utf-8"))
    (model,) = made["models"]
    figures = {metric: model["overall"][metric] for metric in FIGURES}
    return {"plan_id": made["plan_id"], "seeds": made["seeds"], "floors": made["floors"], **figures}


def default_plan() -> dict[str, Any]:
    """Return the report of plan `default`, which learning.py trained: without privacy nobody would train so little."""
    made = json.loads((Path(__file__).parent / "results/learning.json").read_text("utf-8"))["default"]
    figures = {metric: made["models"]["federated"]["overall"][metric] for metric in FIGURES}
    return {"plan_id": made["plan_id"], "seeds": made["seeds"], "floors": made["floors"], **figures}


def simulate(name: str, epsilon: float | None, folder: Path, arguments: argparse.Namespace) -> None:
    is_synthetic = name == "synthetic"
    values = read("private-synthetic" if is_synthetic else "private")
    values["privacy"] = {**values["privacy"], "epsilon": epsilon} if epsilon else {"mode": "off"}
    if is_synthetic and epsilon:
        values["init"] = str(primed(arguments.work).resolve())
    if is_synthetic and not epsilon:
        values["training"] = {**values["training"], **PLAIN}
    if name == "pretrained":
        values["init"] = str(pretrained(arguments.work).resolve())
        values["training"] = {**values["training"], "learning_rate": 1e-2}
        values["privacy"] = {**values["privacy"], **({"trained": "biases"} if epsilon else {})}
    seeds = arguments.synthetic_seeds if is_synthetic else arguments.seeds
    data = synthetic(arguments.work / "synthetic", SITES, 64) if is_synthetic else arguments.data
    run(values, data, folder, seeds, "federated")


def pretrained(work: Path) -> Path:
    """Return the weights of the plan's network after training on synthetic images."""
    values = {**read("private"), "classes": list(CLASSES), "privacy": {"mode": "off"}}
    values["training"] = {
        "rounds": 10,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "weight_decay": 0.02,
        "segmentation_weight": 1,
    }
    data = synthetic(work / "pretraining", {"one": 1600}, 96)
    run(values, data, work / "pretraining-model", 1, "pooled")
    arrays, _ = weights.load(work / "pretraining-model/seed-1/pooled" / MODEL)
    path: Path = work / "pretrained.safetensors"
    if not path.exists():
        weights.save(path, arrays, {})
    return path


def primed(work: Path) -> Path:
    """Return the weights of the plan's network after training on random processes, without the heads."""
    plan = read("private-synthetic")
    values = {**plan, "classes": list(PROCESSES), "privacy": {"mode": "off"}}
    values["network"] = {**plan["network"], "code_bits": 32}
    values["augmentation"] = {"rotate_deg": 0, "scale": 0, "shift": 0}
    values["training"] = {
        "rounds": 10,
        "batch_size": 32,
        "learning_rate": 4e-3,
        "weight_decay": 0.02,
        "segmentation_weight": 1,
    }
    data = work / "processes"
    if not data.exists():
        partial = data.with_name("processes.partial")
        make_processes(partial, 4400, plan["image"]["size"])
        partial.rename(data)
    run(values, data, work / "processes-model", 1, "pooled")
    arrays, _ = weights.load(work / "processes-model/seed-1/pooled" / MODEL)
    path: Path = work / "primed.safetensors"
    if not path.exists():
        weights.save(path, {name: one for name, one in arrays.items() if not name.startswith(THEIRS)}, {})
    return path


def synthetic(folder: Path, sites: dict[str, int], size: int) -> Path:
    if not folder.exists():
        partial = folder.with_name(folder.name + ".partial")
        make_federation(partial, sites, seed=1, size=size)
        partial.rename(folder)
    return folder


def run(values: dict[str, Any], data: Path, folder: Path, seeds: int, models: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    plan = folder.with_suffix(".yaml")
    plan.write_text(yaml.safe_dump(values, sort_keys=False), "utf-8")
    command = [sys.executable, "-m", "ynet_lab", "simulate", "--plan", plan, "--data", data]
    command += ["--report", folder, "--seeds", seeds, "--models", models]
    print(folder.name, file=sys.stderr, flush=True)
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)


def read(plan: str) -> dict[str, Any]:
    return dict(yaml.safe_load((PLANS / f"{plan}.yaml").read_text("utf-8")))


def label(epsilon: float | None) -> str:
    return f"{epsilon:g}" if epsilon else "none"


def page(found: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Return the table in Markdown."""
    yield "Federated, macro mAP@10 and Dice; mean ± standard deviation over the seeds."
    yield ""
    yield from head("data", "seeds", "random", *(f"epsilon {label(e)}" if e else "without" for e in EPSILONS))
    for name, figures in found.items():
        if not any(figures.values()):
            continue
        some = next(one for one in figures.values() if one)
        cells = [f"{shown(one['macro_map10'])}; {shown(one['dice'])}" if one else "" for one in figures.values()]
        yield row(ROWS[name], str(len(some["seeds"])), f"{some['floors']['random']['macro_map10']:.3f}", *cells)


if __name__ == "__main__":
    main()
