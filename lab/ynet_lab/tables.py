"""Terminal tables of an experiment's models and of attacks."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from ynet.runtime import terminal
from ynet.scores import PER_REGION


def model_table(models: Sequence[Mapping[str, Any]]) -> Table:
    """Tabulate the models' scores: all sites' queries against all sites' galleries."""
    shown = ("macro_map10", "macro_map10_random", "case_hit10", "likeness", "median_tie10", "dice", "balanced_accuracy")
    regions = list(dict.fromkeys(name for model in models for name in model["overall"].get(PER_REGION, {})))
    lines = [
        (
            model["name"],
            *(_figure(model["overall"].get(key)) for key in shown),
            *(_figure(model["overall"].get(PER_REGION, {}).get(name)) for name in regions),
            ", ".join(f"{name} {_number(count)}" for name, count in model["overall"]["queries_per_class"].items()),
            _number(model["overall"]["masks"]),
        )
        for model in models
    ]
    head = ("model", *shown, *(f"dice: {name}" for name in regions), "queries", "with a mask")
    return terminal.rows("all sites' queries, all sites' galleries", head, lines)


def attack_table(attacks: Mapping[str, Any]) -> Table:
    """Tabulate the main figures of the attacks."""
    lines: list[tuple[str, str]] = []
    if found := attacks.get("membership"):
        for score, unit in itertools.product(("loss", "likelihood_ratio"), ("image", "patient")):
            one = found[score][unit]
            lines.append((f"membership, {score}, by {unit}", f"AUC {one['auc']:.3f} ± {one['auc_std']:.3f}"))
    for one in attacks.get("gradient", {}).get("updates", ()):
        floor = max(one["floor_mean_image"], one["floor_other_image"])
        what = f"gradient of {one['batch']}, protection: {one['protection']}"
        lines.append((what, f"best SSIM {one['best_ssim']:.3f} (floor {floor:.3f})"))
    if found := attacks.get("code"):
        for what in ("label", "code"):
            one = found[what]
            lines.append((f"{what}, inverted", f"pixel R² {one['pixel_r2']:.3f}, label {one['accuracy']:.3f}"))
    if found := attacks.get("audit"):
        claimed = "none" if found["epsilon_claimed"] is None else f"{found['epsilon_claimed']:.3f}"
        lines.append(("audit", f"epsilon at least {found['epsilon_at_least']:.3f}, claimed {claimed}"))
    return terminal.rows("lower bounds, no proofs", ("attack", "found"), lines)


def skew_table(made: Mapping[str, Any]) -> Table:
    """The sites of a re-cut federation: cases to train and to test on, of each class."""
    lines = [
        (site, *(f"{counts['train'].get(name, 0)} / {counts['test'].get(name, 0)}" for name in made["classes"]))
        for site, counts in made["sites"].items()
    ]
    left_out = ", ".join(f"{name} {count}" for name, count in made["left_out"].items())
    title = "cases to train / to test on" + (f"; left out: {left_out}" if left_out else "")
    return terminal.rows(title, ("site", *made["classes"]), lines)


def _figure(figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return "none"
    return f"{figure['mean']:.3f}" + (f" ± {figure['std']:.3f}" if _several(figure) else "")


def _number(figure: Mapping[str, Any]) -> str:
    """Format a count over the seeds."""
    return f"{figure['mean']:g}"


def _several(figure: Mapping[str, Any]) -> bool:
    return sum(value is not None for value in figure["values"]) > 1
