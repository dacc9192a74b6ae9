"""Named arrays: the same values in every form they take."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from ynet import weights
from ynet.errors import UserError

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
values = hnp.arrays(np.float32, shapes, elements=st.floats(width=32))
named = st.dictionaries(st.text(min_size=1, max_size=8), values, min_size=1, max_size=5)
Named = dict[str, np.ndarray]
in_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def assert_same(one: Named, other: Named) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], strict=True)


@given(named)
def test_flat_form_and_layout_give_the_arrays_back(arrays: Named) -> None:
    layout = weights.layout_from_json(weights.layout_to_json(weights.layout_of(arrays)))
    assert_same(arrays, weights.unflatten(weights.flatten(arrays), layout))


@pytest.mark.parametrize("size", [0, 1, weights.BLOCK_VALUES - 1, weights.BLOCK_VALUES, 2 * weights.BLOCK_VALUES + 1])
def test_blocks_joined_are_the_flat_form(size: int) -> None:
    flat = np.arange(size, dtype=np.float32)
    pieces = weights.blocks(flat)
    np.testing.assert_array_equal(weights.join(pieces), flat, strict=True)
    assert all(piece.size <= weights.BLOCK_VALUES for piece in pieces)
    assert len(pieces) == max(1, -(-size // weights.BLOCK_VALUES))


@given(named, st.randoms(use_true_random=False))
def test_the_digest_is_independent_of_order_and_of_memory_layout(arrays: Named, random: object) -> None:
    names = list(arrays)
    random.shuffle(names)  # type: ignore[attr-defined]
    assert weights.digest({name: np.asarray(arrays[name], order="F") for name in names}) == weights.digest(arrays)


@given(named, st.data())
def test_the_digest_changes_with_any_name_shape_or_bit(arrays: Named, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(arrays)))
    array = arrays[name]
    assert weights.digest({**arrays, name: array[None]}) != weights.digest(arrays)
    without = {key: value for key, value in arrays.items() if key != name}
    assert weights.digest(without) != weights.digest(arrays)
    assert weights.digest({**without, name + "x": array}) != weights.digest(arrays)
    if array.size:
        bits = array.copy().reshape(-1).view(np.uint32)
        bits[data.draw(st.integers(0, array.size - 1))] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
        assert weights.digest({**arrays, name: bits.view(np.float32).reshape(array.shape)}) != weights.digest(arrays)


def test_a_models_id_names_its_weights_and_its_plan() -> None:
    one, other = {"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)}
    assert len({weights.model_id(arrays, plan) for arrays in (one, other) for plan in ("p", "q")}) == 4


@given(named)
@in_tmp_path
def test_a_file_gives_back_what_was_saved(tmp_path: Path, arrays: Named) -> None:
    weights.save(tmp_path / "w", arrays, {"k": "v"})
    loaded, metadata = weights.load(tmp_path / "w")
    assert_same(dict(sorted(arrays.items())), dict(sorted(loaded.items())))
    assert metadata == {"k": "v"}
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_the_values_do_not_depend_on_how_the_arrays_lie_in_memory(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    weights.save(tmp_path / "w", {"t": array.T, "s": array[:, ::2]}, {})
    loaded, _ = weights.load(tmp_path / "w")
    assert_same({"s": array[:, ::2], "t": array.T}, dict(sorted(loaded.items())))


@pytest.mark.parametrize("difference", [-1, 1])
def test_another_number_of_values_does_not_fit_a_layout(difference: int) -> None:
    layout = (weights.LayoutEntry("w", (2, 3)),)
    with pytest.raises(UserError, match="do not fit"):
        weights.unflatten(np.zeros(6 + difference, np.float32), layout)


@pytest.mark.parametrize(
    "text",
    ["", "7", "{}x", '["a"]', '[["a"]]', '[["a", 3]]', '[["a", [-1]]]', '[["a", ["x"]]]', '[["a", [Infinity]]]',
     '[["a", [NaN]]]', "[" * 100_000, "null", '[["a", [2]], ["a", [3]]]'],
    ids=range(13),
)  # fmt: skip
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="layout"):
        weights.layout_from_json(text)


@given(st.data())
@in_tmp_path
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    weights.save(tmp_path / "whole", {"w": np.ones((3, 4), np.float32)}, {"plan": "p"})
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(UserError, match="cannot be read"):
        weights.load(tmp_path / "cut")


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32, np.uint8, np.bool_])
def test_values_of_another_kind_are_refused(tmp_path: Path, kind: type[np.generic]) -> None:
    save_file({"w": np.ones(3, kind)}, tmp_path / "w")
    with pytest.raises(UserError, match="not float32"):
        weights.load(tmp_path / "w")


def test_a_kind_that_numpy_does_not_know_is_refused(tmp_path: Path) -> None:
    header = b'{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    (tmp_path / "w").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UserError):
        weights.load(tmp_path / "w")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        weights.load(tmp_path / "none")


def test_put_back_takes_the_named_arrays_from_what_was_sent() -> None:
    layout = (weights.LayoutEntry("a", (2,)), weights.LayoutEntry("b", (1, 2)), weights.LayoutEntry("c", ()))
    sent, flat = np.zeros(5, np.float32), np.arange(1, 6, dtype=np.float32)
    assert weights.put_back(flat, sent, layout, {"b"}).tolist() == [1, 2, 0, 0, 5]
    assert weights.put_back(flat, sent, layout, frozenset()) is flat
    assert flat.tolist() == [1, 2, 3, 4, 5]


def test_init_leaves_out_arrays_of_the_former_detail_code() -> None:
    own = {"w": np.zeros(2, np.float32), "b": np.zeros(1, np.float32)}
    former = {"detail.centre": np.ones(3, np.float32), "detail.spread": np.ones(3, np.float32)}
    begun = weights.begun_with(own, {"w": np.ones(2, np.float32), **former})
    assert_same(begun, {"w": np.ones(2, np.float32), "b": np.zeros(1, np.float32)})
    with pytest.raises(UserError, match="the file holds no array"):
        weights.begun_with(own, former)
