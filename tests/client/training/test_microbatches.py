"""A site with little memory divides a batch into micro-batches and remembers how many."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ynet import plan as plans
from ynet.errors import UserError
from ynet.learning.device import ran_out_of_memory
from ynet.plan import Plan
from ynet_client.training.microbatches import MicroBatches, kills_for_memory


def plan_of(recipe: str = "default", name: str = "t") -> Plan:
    values = {
        "name": name,
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "recipe": recipe,
        "training": {"rounds": 1, "learning_rate": 0.1, "batch_size": 16},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    }
    return plans.from_canonical(json.dumps(values))


def fits(room: int, seen: list[int]) -> Callable[[int], str]:
    """A training of 16 images where memory holds `room` of them."""

    def train(pieces: int) -> str:
        seen.append(pieces)
        if 16 / pieces > room:
            torch.empty(1 << 62, dtype=torch.uint8)
        return f"in {pieces}"

    return train


def test_micro_batches_double_until_they_fit_and_are_remembered(
    tmp_path: Path,
) -> None:
    seen: list[int] = []
    pieces = MicroBatches(tmp_path / "training.json")
    assert pieces.run(plan_of(), fits(5, seen)) == "in 4"
    assert MicroBatches(tmp_path / "training.json").run(plan_of(), fits(5, seen)) == "in 4"
    assert seen == [1, 2, 4, 4]
    assert pieces.run(plan_of(name="another"), fits(16, seen)) == "in 1"


@pytest.mark.parametrize(("recipe", "why"), [("default", "one image at a time"), ("paper", "circle loss compares")])
def test_where_no_smaller_piece_is_left_the_admin_is_told(tmp_path: Path, recipe: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        MicroBatches(tmp_path / "training.json").run(plan_of(recipe), fits(0, []))


def test_any_other_fault_is_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    def train(pieces: int) -> str:
        raise RuntimeError("something else")

    pieces = MicroBatches(tmp_path / "training.json")
    with pytest.raises(RuntimeError, match="something else"):
        pieces.run(plan_of(), train)
    assert pieces.run(plan_of(), fits(16, [])) == "in 1"


@pytest.mark.parametrize(("kills", "expected"), [(3, "in 2"), (2, "in 1"), (0, "in 1")])
def test_process_killed_for_memory_restarts_with_more_micro_batches(tmp_path: Path, kills: int, expected: str) -> None:
    """Killed for another reason, or with a restarted machine, the number stays."""
    dies = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_microbatches import plan_of
from ynet_client.training.microbatches import MicroBatches
MicroBatches(Path(sys.argv[2]), lambda: 2).run(plan_of(), lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""
    file = tmp_path / "training.json"
    subprocess.run([sys.executable, "-c", dies, Path(__file__).parent, file], check=False)
    assert json.loads(file.read_text("utf-8"))["is_under_way"]
    assert MicroBatches(file, lambda: kills).run(plan_of(), fits(16, [])) == expected


def test_a_file_that_was_spoilt_is_as_none(tmp_path: Path) -> None:
    file = tmp_path / "training.json"
    for content in (b"", b"[]", b'{"plan": "x"}', b'{"plan": "x", "pieces": 0, "is_under_way": 1, "kills": 0}'):
        file.write_bytes(content)
        assert MicroBatches(file).run(plan_of(), fits(16, [])) == "in 1"


def test_what_fails_for_memory_is_known_by_every_name_that_it_has() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 62, dtype=torch.uint8)
    assert ran_out_of_memory(of_torch.value)
    assert ran_out_of_memory(MemoryError())
    assert ran_out_of_memory(torch.OutOfMemoryError())
    assert not ran_out_of_memory(RuntimeError("shapes do not fit"))
    assert kills_for_memory() >= 0
