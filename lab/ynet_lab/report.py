"""Aggregate an experiment's figures over its seeds: the content of `report.json` (docs/how-to/experiments.md)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import ynet
from ynet.learning.metrics import per_class
from ynet.plan import Plan

FORMAT = 2
CURVES = ("macro_map10", "case_hit10", "dice")
"""The scores that are drawn over the rounds, next to the loss."""
Figure = dict[str, Any]
"""A figure over the seeds: `mean`, `std` (of the population), and `values` in the order of the seeds.

A value is None where a seed has none. Mean and deviation are over the other values; without any, the figure is None.
"""


class SiteLabels(NamedTuple):
    """The labels of a site's gallery and of its queries, as indices of the plan's classes or UNLABELLED."""

    name: str
    gallery: npt.NDArray[np.int64]
    queries: npt.NDArray[np.int64]


class ModelResult(NamedTuple):
    """The scores of a trained model."""

    name: str
    kind: str
    site: str | None
    seed: int
    found: Mapping[str, Any]  # overall, intervals, within, cross, matrix, radius, curve, end, seconds


def compose(
    plan: Plan,
    seeds: int,
    sites: Sequence[SiteLabels],
    floors: Mapping[str, Mapping[str, float | None]],
    results: Sequence[ModelResult],
    is_validation: bool,
) -> dict[str, Any]:
    """Build the report of `results`, which have each model once for every seed from 1 to `seeds`."""
    by_name: dict[str, list[ModelResult]] = {}
    for result in sorted(results, key=lambda result: result.seed):
        by_name.setdefault(result.name, []).append(result)
    names = [site.name for site in sites]
    return {
        "format": FORMAT,
        "ynet": ynet.__version__,
        "plan": json.loads(plan.canonical()),
        "plan_id": plan.id,
        "split": "validation" if is_validation else "test",
        "seeds": list(range(1, seeds + 1)),
        "sites": [_site(site, plan.classes) for site in sites],
        "floors": {name: dict(values) for name, values in floors.items()},
        "models": [_model(of_seeds, names) for of_seeds in by_name.values()],
        "comparison": {
            "federated_over_pooled": _over_pooled(by_name),
            "federated_over_alone": _over_alone(by_name, names),
        },
    }


def _site(site: SiteLabels, classes: Sequence[str]) -> dict[str, Any]:
    gallery, queries = (
        dict(zip(classes, per_class(label, len(classes)).tolist(), strict=True))
        for label in (site.gallery, site.queries)
    )
    return {
        "site": site.name,
        "gallery": len(site.gallery),
        "queries": len(site.queries),
        "classes": gallery,
        "queries_per_class": queries,
    }


def _model(of_seeds: Sequence[ModelResult], sites: Sequence[str]) -> dict[str, Any]:
    first, found = of_seeds[0], [result.found for result in of_seeds]
    return {
        "name": first.name,
        "kind": first.kind,
        "site": first.site,
        "overall": _metrics([one["overall"] for one in found]),
        "sites": [
            {
                "site": site,
                "within": _metrics([one["within"].get(site) for one in found]),
                "cross": _metrics([one["cross"].get(site) for one in found]),
            }
            for site in sites
        ],
        "intervals": _metrics([one.get("intervals") for one in found]),
        "likeness_by_attribute": _metrics([one.get("likeness_by_attribute") for one in found]),
        "ceiling": _metrics([one.get("ceiling") for one in found]),
        "map10_per_class": _metrics([one.get("map10_per_class") for one in found]),
        "matrix": [[_mean(one["matrix"].get(a, {}).get(b) for one in found) for b in sites] for a in sites],
        "curve": _curve([one["curve"] for one in found]),
        "ends": [one["end"] for one in found if one.get("end")],
        "radius": _radius([one["radius"] for one in found]),
        "seconds": _figure([one["seconds"] for one in found]),
    }


def _over_pooled(by_name: Mapping[str, Sequence[ModelResult]]) -> dict[str, Figure | None] | None:
    if not {"federated", "pooled"} <= by_name.keys():
        return None
    pairs = list(zip(by_name["federated"], by_name["pooled"], strict=True))
    return {metric: _ratio(pairs, metric) for metric in CURVES}


def _ratio(pairs: Iterable[tuple[ModelResult, ModelResult]], metric: str) -> Figure | None:
    values = [(a.found["overall"].get(metric), b.found["overall"].get(metric)) for a, b in pairs]
    return _figure([None if above is None or not below else above / below for above, below in values])


def _over_alone(by_name: Mapping[str, Sequence[ModelResult]], sites: Sequence[str]) -> list[dict[str, Any]]:
    """Compare the federated model with each site's own model, on the site's queries to the other sites."""
    rows = []
    for site in sites:
        alone = [one.found["cross"].get(site) for one in by_name.get(f"alone: {site}", ())]
        federated = [one.found["cross"].get(site) for one in by_name.get("federated", ())]
        if not alone or not federated or None in (*alone, *federated):
            continue
        a, f = ([one["macro_map10"] for one in part] for part in (alone, federated))
        margin = [None if None in pair else pair[0] - pair[1] for pair in zip(f, a, strict=True)]
        rows.append({"site": site, "alone": _figure(a), "federated": _figure(f), "margin": _figure(margin)})
    return rows


def _metrics(of_seeds: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Return a figure for each metric; for counts by class, one for each class."""
    known = [one for one in of_seeds if one is not None]
    if not known:
        return None
    return {
        metric: _metrics([one.get(metric) for one in known])
        if isinstance(value, Mapping)
        else _figure([one.get(metric) for one in known])
        for metric, value in known[0].items()
    }


def _curve(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    points = []
    for of_round in zip(*curves, strict=False):
        point: dict[str, Any] = {"round": of_round[0]["round"]}
        for key in ("loss", *CURVES):
            point[key] = _figure([one.get(key) for one in of_round])
        points.append(point)
    return points


def _radius(of_seeds: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {
            "radius": points[0]["radius"],
            "precision": _mean(point["precision"] for point in points),
            "recall": _mean(point["recall"] for point in points),
        }
        for points in zip(*of_seeds, strict=True)
    ]


def _figure(values: Sequence[float | None]) -> Figure | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    each = [None if value is None else float(value) for value in values]
    return {"mean": float(np.mean(known)), "std": float(np.std(known)), "values": each}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
