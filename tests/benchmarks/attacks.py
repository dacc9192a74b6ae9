"""Measure what attacks find without privacy, and at epsilon 8 and 1: the table of docs/explanation/privacy.md.

python tests/benchmarks/attacks.py --data DIR --work DIR [--out FILE.json] [--doc FILE.md] [--steps 100]

Three pooled models of the default plan, the private ones of fewer rounds. An interrupted run resumes: models and
reports in the work folder are kept.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ynet import plan as plans
from ynet import weights
from ynet.learning.evaluate import evaluate
from ynet.learning.model import build, load_arrays
from ynet.plan import Plan
from ynet.plan_sections import Privacy
from ynet_lab.attack_figures import ATTACKS
from ynet_lab.attack_run import attack
from ynet_lab.attack_target import Effort
from ynet_lab.concat import Concat
from ynet_lab.simulate import TrainingTask, open_sites, train_reference
from ynet_server.rounds.run_folder import MODEL, RunFolder

DEFAULT = Path(__file__).parents[2] / "configs/plans/default.yaml"
DELTA = 0.005
MODELS = {"without": None, "epsilon 8": 8.0, "epsilon 1": 1.0}
SHADOW_ROUNDS = 10  # and the audit's
BEGIN, END = "<!-- attacks -->", "<!-- end of attacks -->"
Found = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--doc", type=Path)
    options = parser.parse_args()
    found = {name: measured(name, options) for name in MODELS}
    text = "\n".join(table(found))
    print(text)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if options.doc:
        before, _, rest = options.doc.read_text("utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        options.doc.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def measured(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one model's scores and the attacks on it; each attack is saved separately."""
    folder = options.work / name.replace(" ", "-")
    task = TrainingTask(plan_of(name), options.data, folder / "model", "pooled", None, None, is_validation=False)
    if not (task.folder / MODEL).exists():
        say(f"{name}: training")
        train_reference(task, open_sites(task), lambda _: {})
    effort, parts = Effort(shadow_rounds=SHADOW_ROUNDS, steps=options.steps), {}
    for one in ATTACKS:
        kept = folder / one / "report.json"
        if not kept.exists():
            say(f"{name}: {one}")
            attack(task.folder, options.data, folder / one, attacks=[one], seed=1, effort=effort, say=say)
        parts |= json.loads(kept.read_text("utf-8"))["attacks"]
    return {"scores": scores(task), "rounds": RunFolder(task.folder).plan().training.rounds, "attacks": parts}


def plan_of(name: str) -> Plan:
    """Return the default plan; private, with fewer rounds of larger batches, which need less noise."""
    plan, epsilon = plans.read(DEFAULT), MODELS[name]
    if epsilon is None:
        return plan
    training = replace(plan.training, rounds=20, batch_size=32, learning_rate=1e-3)
    return replace(plan, training=training, privacy=Privacy("patient", epsilon, DELTA))


def scores(task: TrainingTask) -> dict[str, float]:
    """Score the model: all sites' test images against all sites' galleries."""
    sites = open_sites(task)
    net = build(task.plan)
    load_arrays(net, weights.load(task.folder / MODEL)[0])
    parts = [site.cases(task.plan) for site in sites.values()]
    galleries, queries = (Concat(part) for part in zip(*parts, strict=True))
    device = next(iter(sites.values())).device
    found = evaluate(net.to(device), galleries, queries, task.plan, device).to_metrics()
    return {metric: found[metric] for metric in ("macro_map10", "macro_map10_random", "dice")}


def table(found: Mapping[str, Found]) -> Iterator[str]:
    """Yield Markdown: a row for each figure, a column for each model."""
    yield "| | " + " | ".join(name if name == "without" else f"DP, {name}" for name in found) + " |"
    yield "|---|" + "---|" * len(found)
    rows: dict[str, list[str]] = {}
    for number, one in enumerate(found.values()):
        for title, cell in cells(one):
            rows.setdefault(title, [""] * len(found))[number] = cell
    for title, row in rows.items():
        yield f"| {title} | " + " | ".join(row) + " |"


def cells(found: Found) -> Iterator[tuple[str, str]]:
    """Yield one model's figures with their titles."""
    attacks, of_model = found["attacks"], found["scores"]
    yield "rounds", str(found["rounds"])
    yield "macro mAP@10 (a random ranking: 0.18); Dice", f"{of_model['macro_map10']:.3f}; {of_model['dice']:.3f}"
    yield "shadow models' and audit's rounds", str(attacks["membership"]["shadow_rounds"])
    for score, name in (("loss", "loss"), ("likelihood_ratio", "likelihood ratio")):
        for unit in ("image", "patient"):
            one = attacks["membership"][score][unit]
            yield f"membership by {unit}, {name}: AUC", f"{one['auc']:.3f} ± {one['auc_std']:.3f}"
            rates = f"{one['tpr_at_1_percent']:.3f}, {one['tpr_at_0_1_percent']:.3f}"
            yield f"membership by {unit}, {name}: TPR at 1 %, 0.1 % FPR ({one['non_members']} others)", rates
    for one in attacks["gradient"]["updates"]:
        floor = max(one["floor_mean_image"], one["floor_other_image"])
        protection = "DP" + ", secure sum" * ("sum" in one["protection"]) if "DP" in one["protection"] else None
        title = f"gradient of {one['batch']}, {protection or one['protection']}: best SSIM (floor)"
        note = ", at epsilon 8" if protection and not_private(found) else ""
        yield title, f"{one['best_ssim']:.3f} ({floor:.3f}){note}"
    for what, name in (
        ("label", "the label alone"),
        ("code", "code"),
        ("feature", "the feature behind the code"),
    ):
        one = attacks["code"][what]
        label = "" if what == "label" else f"; {one['accuracy']:.3f}"
        yield f"from {name}: pixel R²" + ("; label accuracy" if label else ""), f"{one['pixel_r2']:.3f}{label}"
    yield "most frequent class: label accuracy", f"{attacks['code']['majority_accuracy']:.3f}"
    audit = attacks["audit"]
    bound, claimed = audit["epsilon_at_least"], audit["epsilon_claimed"]
    yield f"audit, delta {audit['delta']:g}: epsilon is at least", f"{bound:.2f}"
    shown = f"{audit['highest_possible']:.1f}"
    yield "what is claimed; what it could show", f"{claimed:.1f}; {shown}" if claimed else f"nothing; {shown}"


def not_private(found: Found) -> bool:
    return found["attacks"]["audit"]["epsilon_claimed"] is None


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
