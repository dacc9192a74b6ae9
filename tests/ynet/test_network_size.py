"""The size of a plan's network, told without torch, and the layout, told without its weights."""

import dataclasses
import hashlib
import itertools
import json

import psutil
import pytest
import torch
from smallest_plan import smallest_plan

from ynet import plan as plans
from ynet import weights
from ynet.errors import UserError
from ynet.learning.hashing import codebook
from ynet.learning.model import arrays_of, build, layout_of_plan
from ynet.network_size import MOST_VALUES, batch_values, network_values
from ynet.plan import Plan
from ynet.plan_sections import Image, Network

SHAPES = list(
    itertools.product(
        ("basic", "bottleneck"), (4, 12, 16), ((1, 1, 1, 1), (3, 1, 2, 4)), ("default", "paper", "plain"), (1, 3)
    )
)


def planned(block: str, width: int, depth: tuple[int, ...], recipe: str, channels: int) -> Plan:
    network = Network(width=width, depth=depth, block=block)  # type: ignore[arg-type]
    image = Image(channels=channels, size=32)  # type: ignore[arg-type]
    return dataclasses.replace(smallest_plan(), network=network, recipe=recipe, image=image)


def test_the_number_of_values_is_that_of_the_network_which_is_built() -> None:
    for shape in SHAPES:
        plan = planned(*shape)
        layout = layout_of_plan(plan)
        assert network_values(plan) == sum(entry.size for entry in layout), shape
        if shape[1] == 4:
            assert set(layout) == set(weights.layout_of(arrays_of(build(plan))))


@pytest.mark.parametrize("without", ["segmentation", "rmac", "circle"])
def test_network_size_of_an_ablation_is_that_of_the_built_network(without: str) -> None:
    plan = planned("bottleneck", 4, (1, 1, 1, 1), "paper", 1)
    left = dataclasses.replace(plan, training=dataclasses.replace(plan.training, without=without))
    assert network_values(left) == sum(entry.size for entry in layout_of_plan(left))


def test_a_plan_of_a_network_or_a_batch_too_large_is_refused_before_anything_is_built() -> None:
    before = psutil.Process().memory_info().rss
    text = smallest_plan().canonical()
    values = plans.from_canonical(text)
    huge = dataclasses.asdict(values)
    huge["network"] |= {"width": 256, "depth": (64, 64, 64, 64), "block": "bottleneck"}
    with pytest.raises(UserError, match="a smaller one"):
        plans.from_canonical(json.dumps(huge))
    wide = dataclasses.asdict(values)
    wide["image"] |= {"size": 1024}
    wide["training"] |= {"batch_size": 4096}
    with pytest.raises(UserError, match="batch_size"):
        plans.from_canonical(json.dumps(wide))
    assert psutil.Process().memory_info().rss - before < 200 << 20


def test_a_layout_takes_no_memory_for_weights() -> None:
    plan = planned("bottleneck", 192, (2, 2, 2, 2), "default", 3)
    assert network_values(plan) > MOST_VALUES / 4
    before = psutil.Process().memory_info().rss
    assert sum(entry.size for entry in layout_of_plan(plan)) == network_values(plan)
    assert psutil.Process().memory_info().rss - before < 300 << 20


def test_the_views_of_private_training_count() -> None:
    plan = smallest_plan()
    assert batch_values(plan) == plan.training.batch_size * plan.image.channels * plan.image.size**2


def test_a_codebook_is_the_rows_and_columns_of_sylvesters_matrix() -> None:
    matrix = torch.ones(1, 1)
    while len(matrix) < 64:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    made = codebook(20, 64, 7)
    assert torch.equal(made @ made.T, 64 * torch.eye(20))
    assert all(
        any(torch.equal(torch.sort(row).values, torch.sort(other).values) for other in matrix[1:]) for row in made
    )
    rows = sorted(range(1, 64), key=lambda row: hashlib.sha256(f"7:row:{row}".encode()).digest())
    columns = sorted(range(64), key=lambda column: hashlib.sha256(f"7:column:{column}".encode()).digest())
    assert torch.equal(made, matrix[rows[:20]][:, columns])
