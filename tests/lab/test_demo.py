"""The demonstration's plan for data of one's own."""

from pathlib import Path

import pytest

from ynet import plan as plans
from ynet.data.manifest import Case, Manifest
from ynet_lab.demo import shipped_plan, write_plan


@pytest.mark.parametrize("classes", [("frontal", "no_lesion", "temporal"), ("a", "b"), ("a", "b", "c")])
def test_the_class_weights_of_the_default_plan_go_to_its_own_classes_alone(
    classes: tuple[str, ...], tmp_path: Path
) -> None:
    cases = tuple(Case(row, "i.png", "", label, "p", "train") for row, label in enumerate(classes, start=2))
    manifests = {site: Manifest(tmp_path, cases) for site in ("A", "B")}
    plan = plans.read(write_plan(shipped_plan("default"), manifests, tmp_path / "plan.yaml"))
    assert plan.classes == classes
    assert bool(plan.training.class_weights) is (classes[0] == "frontal")
    assert plan.cohort.min_sites == 2
