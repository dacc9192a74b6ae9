"""Our messages in Flower's records: the same values, and no form but ours."""

import io
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ynet import weights
from ynet.federation import records
from ynet.federation.content import Content


@pytest.mark.parametrize("size", [0, 1, weights.BLOCK_VALUES, 11 * weights.BLOCK_VALUES + 3])
def test_weights_come_back_from_their_record_in_order(size: int) -> None:
    flat = np.arange(size, dtype=np.float32)
    np.testing.assert_array_equal(records.flat_weights(records.weights_record(flat)), flat, strict=True)


def test_the_order_in_which_the_blocks_stand_does_not_matter() -> None:
    flat = np.arange(2 * weights.BLOCK_VALUES + 1, dtype=np.float32)
    record = records.weights_record(flat)
    turned = ArrayRecord({key: record[key] for key in reversed(list(record))})
    np.testing.assert_array_equal(records.flat_weights(turned), flat)


@given(
    st.dictionaries(st.text(min_size=1), hnp.arrays(np.float32, hnp.array_shapes(max_side=3)), min_size=1, max_size=3),
    st.dictionaries(st.text(min_size=1), st.text() | st.integers(-(2**63), 2**63 - 1) | st.booleans(), max_size=3),
    st.dictionaries(st.text(min_size=1), st.floats(allow_nan=False), max_size=3),
)
def test_a_content_comes_back_from_flowers_records(arrays: Any, config: Any, metrics: Any) -> None:
    sent = Content({"arrays": arrays}, {"config": config}, {"metrics": metrics})
    back = records.to_content(records.to_records(sent))
    assert (back.configs, back.metrics) == (sent.configs, sent.metrics)
    assert list(back.arrays["arrays"]) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back.arrays["arrays"][key], array, strict=True)


def test_the_content_holds_views_of_flowers_arrays_and_no_copies() -> None:
    record = records.weights_record(np.ones(1000, np.float32))
    view = records.to_content(RecordDict({"arrays": record})).arrays["arrays"]["block00000"]
    assert not view.flags.owndata
    assert not view.flags.writeable


def saved(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        saved(np.ones(3, np.float64)),
        saved(np.ones(3, ">f4")),
        saved(np.asfortranarray(np.ones((2, 3), np.float32))),
        saved(np.ones(3, np.float32), (2, 0)),
        saved(np.ones(3, np.float32))[:-1],
        saved(np.ones(3, np.float32)) + b"\0",
        b"",
        b"garbage",
    ],
    ids=["float64", "big-endian", "columns first", "format 2", "cut", "too long", "empty", "garbage"],
)
def test_an_array_in_any_other_form_is_a_value_error(data: bytes) -> None:
    array = Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=data)
    with pytest.raises(ValueError):  # noqa: PT011 (whichever of numpy's)
        records.flat_weights(ArrayRecord({"block00000": array}))


def test_flowers_records_are_told_apart_by_kind() -> None:
    mixed = RecordDict({"a": ArrayRecord(), "c": ConfigRecord({"k": "v"}), "m": MetricRecord({"n": 1})})
    sent = records.to_content(mixed)
    assert (list(sent.arrays), list(sent.configs), list(sent.metrics)) == (["a"], ["c"], ["m"])
