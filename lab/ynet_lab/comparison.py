"""Compare finished experiments: means over the seeds with 95 % intervals, in all, for each class and for each site."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

import ynet
from ynet.errors import UserError
from ynet.learning.metrics import per_class
from ynet_lab.finished import Experiment
from ynet_lab.report import ModelResult

FORMAT = 1
CONFIDENCE = 0.95
METRICS = ("macro_map10", "case_hit1", "case_hit10", "likeness", "median_tie10", "dice", "balanced_accuracy")
WITHIN, CROSS = "within", "cross"
Value = Callable[[ModelResult], float | None]


def compare(experiments: Sequence[Experiment]) -> dict[str, Any]:
    """Compare experiments with the first of them.

    Returns:
        What `report.json` holds: for each model that all experiments have, rows of one estimate per experiment.

    Raises:
        UserError: when their classes, sites, cases or splits differ, or they have no model in common.
    """
    _check(experiments)
    first = experiments[0]
    names = [one.name for one in first.results]
    common = [name for name in dict.fromkeys(names) if all(_of(other, name) for other in experiments)]
    if not common:
        raise UserError("the experiments cannot be compared", "they have no model in common", "see simulate --models")
    return {
        "format": FORMAT,
        "ynet": ynet.__version__,
        "split": first.split,
        "confidence": CONFIDENCE,
        "classes": list(first.plan.classes),
        "sites": [site.name for site in first.sites],
        "experiments": [
            {"name": name, "plan": one.plan.name, "plan_id": one.plan.id, "seeds": one.seeds}
            for name, one in zip(_names(experiments), experiments, strict=True)
        ],
        "models": [_model(experiments, name) for name in common],
    }


def _check(experiments: Sequence[Experiment]) -> None:
    """Raise UserError when two experiments did not score the same cases."""
    what, do = "the experiments cannot be compared", "simulate the plans on the same data, with the same split"
    for one, other in combinations(experiments, 2):
        if one.split != other.split:
            raise UserError(what, f"{one.name} scores the {one.split} split, {other.name} the {other.split} split", do)
        if one.plan.classes != other.plan.classes:
            raise UserError(what, f"the plans of {one.name} and {other.name} have other classes", do)
        if _cases(one) != _cases(other):
            raise UserError(what, f"{one.name} and {other.name} have other sites or other numbers of cases", do)


def _cases(one: Experiment) -> dict[str, tuple[list[int], list[int]]]:
    size = len(one.plan.classes)
    return {
        site.name: (
            [len(site.gallery), *per_class(site.gallery, size).tolist()],
            [len(site.queries), *per_class(site.queries, size).tolist()],
        )
        for site in one.sites
    }


def _names(experiments: Sequence[Experiment]) -> list[str]:
    """The folders' names, with a number where two are alike."""
    names = [one.name for one in experiments]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, start=1)]


def _of(one: Experiment, name: str) -> list[ModelResult]:
    return [result for result in one.results if result.name == name]


def _model(experiments: Sequence[Experiment], name: str) -> dict[str, Any]:
    results = [_of(one, name) for one in experiments]
    first = experiments[0]

    def row(value: Value) -> list[dict[str, Any] | None]:
        return _estimates([{one.seed: value(one) for one in of_experiment} for of_experiment in results])

    return {
        "name": name,
        "overall": {metric: row(_overall(metric)) for metric in METRICS},
        "classes": {label: row(_class(label)) for label in first.plan.classes},
        "sites": {site.name: {part: row(_site(site.name, part)) for part in (WITHIN, CROSS)} for site in first.sites},
    }


def _overall(metric: str) -> Value:
    return lambda result: result.found["overall"].get(metric)


def _class(label: str) -> Value:
    """mAP@10 of a class's queries. An experiment of an older version kept none."""
    return lambda result: result.found.get("map10_per_class", {}).get(label)


def _site(site: str, part: str) -> Value:
    return lambda result: (result.found[part].get(site) or {}).get("macro_map10")


def _estimates(by_seed: Sequence[Mapping[int, float | None]]) -> list[dict[str, Any] | None]:
    """One estimate for each experiment; `over_first` is the difference seed by seed, of the seeds that both have."""
    first, found = by_seed[0], list[dict[str, Any] | None]()
    for place, values in enumerate(by_seed):
        made = estimate(list(values.values()))
        if made is not None and place:
            pairs = [(value, first.get(seed)) for seed, value in values.items()]
            made["over_first"] = estimate([None if a is None or b is None else a - b for a, b in pairs])
        found.append(made)
    return found


def estimate(values: Sequence[float | None]) -> dict[str, Any] | None:
    """Return the mean of the values that are there and its 95 % interval by Student's t; None where none is.

    The interval is of the mean over seeds. Below two values there is none.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    mean, low, high = float(np.mean(known)), None, None
    if len(known) > 1:
        half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * np.std(known, ddof=1) / math.sqrt(len(known)))
        low, high = mean - half, mean + half
    return {"mean": mean, "low": low, "high": high, "values": list(values)}
