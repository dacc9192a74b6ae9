"""What a site keeps of its cases between messages, plans and changes of its files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ynet.config import parse
from ynet.data.cases import CaseCache
from ynet.learning.evaluate import encode
from ynet.learning.map_cache import MapCache
from ynet.plan import Plan
from ynet_client.training.site_data import LocalSite


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A hospital of eight images: six to train on, two for tests."""
    random, rows = np.random.default_rng(1), ["image,mask,label,patient,split"]
    for number in range(8):
        Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,,{'ab'[number % 2]},p{number},{'test' if number < 2 else 'train'}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows), "utf-8")
    return tmp_path / "manifest.csv"


def plan_of(trained: str = "heads", rate: float = 1e-3, size: int = 32, **augmentation: Any) -> Plan:
    values = {
        "name": "t",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": size},
        "network": {"width": 4},
        "training": {"rounds": 1, "learning_rate": rate, "trained": trained},
        "augmentation": augmentation,
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    }
    return parse(Plan, values, "test plan")


def test_site_keeps_maps_for_a_plan_of_heads_alone(data: Path) -> None:
    site = LocalSite(data, "cpu", 1 << 24)
    assert [type(one) for one in site.cases(plan_of())] == [MapCache, MapCache]
    assert [type(one) for one in site.cases(plan_of("all"))] == [CaseCache, CaseCache]
    assert [type(one) for one in site.cases(plan_of("last-stages"))] == [CaseCache, CaseCache]


def test_next_plan_of_the_same_images_keeps_them(data: Path) -> None:
    site = LocalSite(data, "cpu", 1 << 24)
    before = site.cases(plan_of())
    assert site.cases(plan_of(rate=1e-2)) == before
    assert site.cases(plan_of(size=64)) != before
    assert site.cases(plan_of()) != before


@pytest.mark.parametrize("change", ["an image", "the manifest", "a forgotten patient"])
def test_changed_files_are_prepared_again_by_the_next_plan(data: Path, change: str) -> None:
    site = LocalSite(data, "cpu", 1 << 24)
    before = site.cases(plan_of())
    if change == "an image":
        Image.new("L", (40, 40)).save(data.parent / "3.png")
    elif change == "the manifest":
        data.write_text(data.read_text("utf-8").replace("7.png,,b", "7.png,,a"), "utf-8")
    else:
        site.drop_cases()
    assert site.cases(plan_of(rate=1e-2)) != before


def test_maps_stay_within_the_sites_memory(data: Path) -> None:
    plan, limit = plan_of(), 100_000
    site = LocalSite(data, "cpu", limit)
    net, kept = site.network(plan), []
    for part in site.cases(plan):
        assert isinstance(part, MapCache)
        encode(net, part, torch.device("cpu"))
        kept.append(part.nbytes)
    assert all(kept)
    assert sum(kept) <= limit
