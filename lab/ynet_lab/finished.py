"""Read what `ynet-lab simulate` left in its folder: the models' scores, and the report that they were put into."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ynet import plan as plans
from ynet.errors import UserError
from ynet.plan import Plan
from ynet_lab import report
from ynet_lab.report import ModelResult, SiteLabels

REPORT, SCORES = "report.json", "scores.json"


class Experiment(NamedTuple):
    """A finished experiment, without its images."""

    name: str  # of its folder
    plan: Plan
    seeds: list[int]
    split: str  # test or validation
    sites: list[SiteLabels]
    floors: Mapping[str, Mapping[str, float | None]]
    results: list[ModelResult]


def read(folder: Path) -> Experiment:
    """Read an experiment's folder. Raises UserError when it holds none that is finished."""
    told = _json(folder / REPORT, folder)
    try:
        plan = plans.from_canonical(json.dumps(told["plan"]))
        seeds, classes = [int(seed) for seed in told["seeds"]], plan.classes
        sites = [_site(site, classes) for site in told["sites"]]
        results = [_result(folder, model, seed) for model in told["models"] for seed in seeds]
        return Experiment(folder.resolve().name, plan, seeds, told["split"], sites, told["floors"], results)
    except (KeyError, TypeError, ValueError):
        raise _unfinished(folder, f"{REPORT} is of another version, or was changed") from None


def recomposed(found: Experiment) -> dict[str, Any]:
    """Return the content of `report.json`, made of the models' scores."""
    is_validation = found.split == "validation"
    return report.compose(found.plan, len(found.seeds), found.sites, found.floors, found.results, is_validation)


def _site(told: Mapping[str, Any], classes: Sequence[str]) -> SiteLabels:
    return SiteLabels(told["site"], _labels(told["classes"], classes), _labels(told["queries_per_class"], classes))


def _labels(counts: Mapping[str, int], classes: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(len(classes)), [int(counts[name]) for name in classes])


def _result(folder: Path, model: Mapping[str, Any], seed: int) -> ModelResult:
    name = f"alone-{model['site']}" if model["site"] else str(model["kind"])
    found = _json(folder / f"seed-{seed}" / name / SCORES, folder)
    return ModelResult(model["name"], model["kind"], model["site"], seed, found)


def _json(path: Path, folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except OSError as error:
        raise _unfinished(folder, f"{path.relative_to(folder)}: {error.strerror}") from None
    except ValueError:
        raise _unfinished(folder, f"{path.relative_to(folder)} is no JSON object") from None


def _unfinished(folder: Path, why: str) -> UserError:
    do = "run its ynet-lab simulate command again: it resumes, and writes the report"
    return UserError(f"{folder} holds no finished experiment", why, do)
