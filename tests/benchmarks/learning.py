"""Train every plan with several seeds, and write the tables of docs/results.md.

python tests/benchmarks/learning.py --data DIR --work DIR [--seeds 5] [--plans default paper ...] [--validation]
    [--out FILE.json] [--doc FILE.md] [--no-training]

An interrupted run resumes: models in the work folder are not trained again. `default` is trained federated, pooled
and at each site alone; the plans compared with it are trained pooled.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ynet_lab import report_page

PLANS = Path(__file__).parents[2] / "configs/plans"
COMPARED = (
    "paper",
    "without-segmentation",
    "without-codebook",
    "bits-32",
    "bits-128",
    "circle",
    "csq",
    "dpsh",
)
BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"
METRICS = ("macro_map10", "map10", "macro_hr10", "macro_rr10", "dice", "iou", "balanced_accuracy", "distinct_codes")
HEADS = ("macro mAP@10", "mAP@10", "mHR@10", "mRR@10", "Dice", "IoU", "balanced accuracy", "distinct codes")


def main() -> None:
    arguments = read_arguments()
    found = {name: simulate(name, arguments) for name in arguments.plans}
    reports = {name: report for name, report in found.items() if report}
    kept = {name: summary(report) for name, report in reports.items()}
    text = "\n".join(page(reports))
    print(text)
    if arguments.out:
        arguments.out.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
    if arguments.doc:
        write_between(arguments.doc, BEGIN, END, text)


def write_between(doc: Path, begin: str, end: str, text: str) -> None:
    """Replace the text between two markers of a page."""
    before, _, rest = doc.read_text("utf-8").partition(begin)
    doc.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}", "utf-8")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plans", nargs="+", default=["default", *COMPARED])
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--no-training", action="store_true", help="use the reports in the work folder")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    return parser.parse_args()


def simulate(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return one plan's report; empty with --no-training and no report."""
    kept = arguments.work / name / "report.json"
    if arguments.no_training:
        return dict(json.loads(kept.read_text("utf-8"))) if kept.exists() else {}
    command = [sys.executable, "-m", "ynet_lab", "simulate", "--plan", PLANS / f"{name}.yaml"]
    command += ["--data", arguments.data, "--report", arguments.work / name, "--seeds", arguments.seeds]
    command += [] if name == "default" else ["--models", "pooled"]
    command += ["--validation"] if arguments.validation else []
    print(f"plan {name}", file=sys.stderr, flush=True)
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads(kept.read_text("utf-8")))


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Return the kept part of a report: overall figures, those of the sites, the comparison."""
    models = {
        model["name"]: {
            "overall": {metric: model["overall"][metric] for metric in METRICS},
            "cross": {site["site"]: site["cross"]["macro_map10"] for site in model["sites"] if site["cross"]},
            "within": {site["site"]: site["within"]["macro_map10"] for site in model["sites"] if site["within"]},
            "seconds": model["seconds"],
        }
        for model in report["models"]
    }
    same = ("ynet", "plan_id", "split", "seeds", "floors", "comparison")
    return {**{key: report[key] for key in same}, "models": models}


def page(reports: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield the tables in Markdown."""
    yield "Mean ± standard deviation over the seeds."
    if "default" in reports:
        yield from main_tables(reports["default"])
    yield from plan_table(reports)


def main_tables(report: dict[str, Any]) -> Iterator[str]:
    """Yield the default plan's tables: its models, and the gain of each site."""
    yield ""
    yield f"`default`, {len(report['seeds'])} seeds:"
    yield ""
    yield from head("model", *HEADS)
    for name, floor in report["floors"].items():
        yield row(f"floor: {name}", *(f"{floor[metric]:.3f}" if metric in floor else "" for metric in METRICS))
    for model in report["models"]:
        yield row(model["name"], *(shown(model["overall"][metric]) for metric in METRICS))
    gains = report["comparison"]["federated_over_alone"]
    if gains:
        yield ""
        yield from head("cross-site queries of", "alone", "federated", "margin")
        for gain in gains:
            yield row(gain["site"], *(shown(gain[key]) for key in ("alone", "federated", "margin")))
    ratio = report["comparison"]["federated_over_pooled"]
    if ratio:
        yield ""
        yield f"Federated over pooled: macro mAP@10 {shown(ratio['macro_map10'])}, Dice {shown(ratio['dice'])}."


def plan_table(reports: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield every plan's pooled model, and the default's as a multiple of it."""
    yield ""
    yield from head("plan, pooled", "macro mAP@10", "`default` over it", "Dice", "distinct codes", "seconds", "seeds")
    models = {name: pooled(report) for name, report in reports.items() if pooled(report)}
    best = models.get("default")
    for name, model in models.items():
        overall = model["overall"]
        over = best["overall"]["macro_map10"]["mean"] / overall["macro_map10"]["mean"] if best else float("nan")
        cells = (shown(overall[metric]) for metric in ("dice", "distinct_codes"))
        cost = (f"{model['seconds']['mean']:.0f}", str(len(reports[name]["seeds"])))
        yield row(f"`{name}`", shown(overall["macro_map10"]), f"{over:.2f}", *cells, *cost)


def pooled(report: dict[str, Any]) -> dict[str, Any] | None:
    return next((model for model in report["models"] if model["name"] == "pooled"), None)


def head(*cells: str) -> Iterator[str]:
    yield row(*cells)
    yield "|" + "---|" * len(cells)


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def shown(figure: dict[str, Any]) -> str:
    return report_page.figure(figure, 3 if abs(figure["mean"]) < 10 else 0)


if __name__ == "__main__":
    main()
