"""The references of an experiment with `training.rounds: auto`, which the federation's rule ends."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.fixed_arrays import CODE, fixed_arrays
from ynet.learning.map_cache import MapCache
from ynet.learning.model import YNet, arrays_of, build
from ynet.plan import Plan
from ynet.plan_sections import Augmentation
from ynet_lab.simulate import Kind, TrainingTask, open_sites, train_reference
from ynet_server.rounds.run_end import BEST, CURVE
from ynet_server.rounds.run_folder import STATE, RunFolder

PLAN = parse(
    Plan,
    {
        "name": "auto",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"width": 4, "code_bits": 32},
        "training": {
            "rounds": "auto",
            "max_rounds": 3,
            "evaluate_every": 1,
            "learning_rate": 1e-3,
            "batch_size": 8,
        },
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    },
    "the test's plan",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_federation(folder, {"A": 16, "B": 16}, seed=1, size=32)
    return folder


def watch(_: YNet) -> Mapping[str, Any]:
    return {"macro_map10": None}


def trained(data: Path, folder: Path, kind: Kind, site: str | None) -> tuple[dict[str, np.ndarray], RunFolder]:
    task = TrainingTask(PLAN, data, folder, kind, site, None, is_validation=False)
    return arrays_of(train_reference(task, open_sites(task), watch)), RunFolder(folder)


@pytest.mark.parametrize(("kind", "site"), [("pooled", None), ("alone", "B")])
def test_reference_ends_by_itself_and_is_its_best_round(
    tmp_path: Path, data: Path, kind: Kind, site: str | None
) -> None:
    net, folder = trained(data, tmp_path / "one", kind, site)
    events = {kind: [event for event in folder.events() if event["kind"] == kind] for kind in ("curve", "round")}
    assert [event["round"] for event in events["curve"]] == [1, 2, 3]
    (stopped,) = (event for event in folder.events() if event["kind"] == "stopped")
    (called,) = (event for event in folder.events() if event["kind"] == "cooldown")
    assert (called["round"], called["rounds"], stopped["round"]) == (0, 3, 3)
    best = max(events["curve"], key=lambda event: (event["score"], event["round"]))
    assert stopped["best"] == folder.card()["best_round"] == best["round"]
    kept, _ = weights.load(folder.path / BEST)
    assert all(np.array_equal(net[name], kept[name]) for name in kept)
    assert [event["round"] for event in folder.events() if event["kind"] == "scored"] == [3]


def test_reference_that_was_stopped_resumes_in_its_cooldown(tmp_path: Path, data: Path) -> None:
    _, folder = trained(data, tmp_path / "one", "pooled", None)
    again = tmp_path / "again"
    again.mkdir()
    for name in (STATE, CURVE, BEST):  # as after the last round, before the model was saved
        shutil.copy(folder.path / name, again)
    net, resumed = trained(data, again, "pooled", None)
    assert [event["kind"] for event in resumed.events()] == ["finished"]
    assert resumed.card() == folder.card()
    kept, _ = weights.load(folder.path / BEST)
    assert all(np.array_equal(net[name], kept[name]) for name in kept)


@pytest.mark.parametrize(("kind", "site"), [("pooled", None), ("alone", "B")])
def test_reference_of_heads_leaves_the_encoder_as_it_was(
    tmp_path: Path, data: Path, kind: Kind, site: str | None
) -> None:
    plan = replace(PLAN, training=replace(PLAN.training, trained="heads"), augmentation=Augmentation(True, *[0] * 7))
    task = TrainingTask(plan, data, tmp_path / "one", kind, site, None, is_validation=False)
    sites = open_sites(task)
    net, start = arrays_of(train_reference(task, sites, watch)), arrays_of(build(plan))
    fixed = fixed_arrays(plan, list(start))
    assert fixed
    assert all(np.array_equal(net[name], start[name]) for name in fixed if not name.startswith(CODE))
    assert (net["segmentation.logit.weight"] != start["segmentation.logit.weight"]).any()
    read = [part for name, one in sites.items() for part in one.cases(plan) if site in (None, name)]
    assert all(isinstance(part, MapCache) and part.nbytes for part in read)
