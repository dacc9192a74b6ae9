"""A run's folder: what it holds survives any death."""

from pathlib import Path

import numpy as np
import pytest
from smallest_plan import smallest_plan

from ynet import weights
from ynet.errors import UserError
from ynet.weights import LayoutEntry
from ynet_server.rounds.run_folder import EVENTS, MODEL, SEEN, STATE, RunFolder, State

LAYOUT = (LayoutEntry("z", (2, 2)), LayoutEntry("a", ()), LayoutEntry("m", (0, 3)))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run").create(smallest_plan())


def test_the_plan_comes_back(folder: RunFolder) -> None:
    assert folder.plan() == smallest_plan()


def test_where_a_run_stands_comes_back_in_the_order_of_its_layout(folder: RunFolder) -> None:
    assert folder.state() is None
    for number in (0, 3):
        folder.save_state(State(number, np.arange(5, dtype=np.float32) + number, LAYOUT, {"A": 9}))
        back = folder.state()
        assert back is not None
        assert (back.round, back.layout, back.cases) == (number, LAYOUT, {"A": 9})
        np.testing.assert_array_equal(back.flat, np.arange(5, dtype=np.float32) + number, strict=True)
    assert not list(folder.path.glob("*.partial"))


def test_a_state_that_is_no_state_is_the_users_to_mend(folder: RunFolder) -> None:
    folder.save_state(State(1, np.zeros(5, np.float32), LAYOUT, {}))
    whole = (folder.path / STATE).read_bytes()
    (folder.path / STATE).write_bytes(whole[:-1])
    with pytest.raises(UserError, match="cannot be read"):
        folder.state()


def test_events_are_read_from_any_number_on(folder: RunFolder) -> None:
    assert folder.events() == []
    for number in range(3):
        folder.event("round", number=number, reason="line\nbreak \u2028 é")
    assert [event["number"] for event in folder.events(1)] == [1, 2]
    assert folder.events(3) == []
    assert folder.events(9) == []


def test_an_event_that_is_only_half_written_is_not_there_yet(folder: RunFolder) -> None:
    folder.event("round", number=1)
    path = folder.path / EVENTS
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut])
        assert [event["number"] for event in folder.events()] == [1]
    path.write_bytes(whole + whole)
    assert len(folder.events()) == 2


def test_a_line_that_a_full_disk_cut_short_costs_that_line_and_no_other(folder: RunFolder) -> None:
    folder.event("round", number=1)
    with (folder.path / EVENTS).open("a") as file:
        file.write('{"time": 1.0, "ki')
    folder.event("round", number=2)
    folder.event("round", number=3)
    assert [event.get("number") for event in folder.events()][-2:] == [2, 3]


def test_the_model_is_named_by_its_weights_and_its_plan_and_says_so(folder: RunFolder) -> None:
    arrays = {"w": np.ones(3, np.float32)}
    model = folder.save_model(arrays, {"rounds": 1})
    assert model == weights.model_id(arrays, smallest_plan().id)
    assert folder.card() == {"model_id": model, "plan_id": smallest_plan().id, "rounds": 1}
    loaded, metadata = weights.load(folder.path / MODEL)
    assert metadata == {"plan": smallest_plan().canonical(), "model_id": model}
    np.testing.assert_array_equal(loaded["w"], arrays["w"])


@pytest.mark.parametrize("metadata", [{}, {"layout": "[]"}, {"layout": '[["x",[2]]]', "round": "1"}, {"layout": "?"}])
def test_a_state_that_is_none_is_said_to_be_and_no_fault(folder: RunFolder, metadata: dict[str, str]) -> None:
    weights.save(folder.path / STATE, {"w": np.ones(3, np.float32)}, metadata)
    with pytest.raises(UserError):
        folder.state()


def test_seen_digests_are_read_back_without_incomplete_lines(folder: RunFolder) -> None:
    assert folder.seen() == {}
    folder.add_seen({})
    assert not (folder.path / SEEN).exists()
    one, two = {b"1" * 32: 1, b"2" * 32: 1}, {b"3" * 32: 2}
    folder.add_seen(one)
    whole = (folder.path / SEEN).read_bytes()
    for cut in range(len(whole)):
        (folder.path / SEEN).write_bytes(whole + whole[:cut])
        folder.add_seen(two)
        assert folder.seen() == one | two
