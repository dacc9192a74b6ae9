"""Messages as Flower's records, for both sides. The only module of `ynet` that imports Flower."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from ynet import weights
from ynet.federation.content import Content
from ynet.weights import Flat

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"
"""The names of the records in a message."""

AWAITED = "awaited"
"""The key in a reply's config that names the person whose decision the site waits for."""

LEDGER = "ledger"
"""The key in the config of a private round's reply with the ledger's position: a number, a space, a digest."""

COOLDOWN_ROUND, COOLDOWN_ROUNDS = "cooldown-round", "cooldown-rounds"
"""The keys in a round's config of a plan with `training.rounds: auto`: the round's place in the cool-down, from 1, and
the cool-down's length. Other plans and the rounds before the cool-down have neither."""

FINAL = "final"
"""The key in an evaluation's config that says that these weights are the run's result (true); with `rounds: auto`."""

FIXED = "fixed"
"""The key in a round's config with the SHA-256 of the run's file of fixed arrays, where it has one."""

CASES = "num-examples"
"""The metric by which Flower weights a site: the cases it trained or was evaluated on."""

MOMENTS = "moments"
"""The value of OF in a secure sum of moments; a sum of updates has no such key."""
OF = "of"
"""The key in the config of a secure sum's messages that says what is summed."""

INITIAL, TRAIN, EVALUATE = "query.initial", "train", "evaluate"
FEATURES = "query.features"
KEYS, MASK, OPEN = "query.keys", "query.mask", "query.open"
"""The kinds of message of a run; the last three belong to secure aggregation."""


def weights_record(flat: Flat) -> ArrayRecord:
    """A model's values as a few large blocks, since Flower's transport has a cost for each array."""
    return ArrayRecord({f"block{i:05d}": Array(block) for i, block in enumerate(weights.blocks(flat))})


def flat_weights(record: ArrayRecord) -> Flat:
    """The values in a record that `weights_record` made."""
    return weights.join([_view(record[key]) for key in sorted(record)])


def form(record: ArrayRecord) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a record's arrays. Raises ValueError when one is not float32."""
    return {key: _view(array).shape for key, array in record.items()}


def to_records(content: Content) -> RecordDict:
    """A received content as Flower's records."""
    records = RecordDict()
    for name, arrays in content.arrays.items():
        records[name] = ArrayRecord({key: Array(array) for key, array in arrays.items()})
    for name, config in content.configs.items():
        records[name] = ConfigRecord(dict(config))
    for name, metrics in content.metrics.items():
        records[name] = MetricRecord(dict(metrics))
    return records


def to_content(records: RecordDict) -> Content:
    """Flower's records as a content; the arrays are views of the records' data."""
    arrays = {
        name: {key: _view(array) for key, array in record.items()} for name, record in records.array_records.items()
    }
    configs: Any = {name: dict(record) for name, record in records.config_records.items()}
    metrics: Any = {name: dict(record) for name, record in records.metric_records.items()}
    return Content(arrays, configs, metrics)


def _view(array: Array) -> npt.NDArray[np.float32]:
    """An Array's values without the copy that `Array.numpy` makes of its .npy data. Raises ValueError."""
    file = io.BytesIO(array.data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("not an array of numpy's format 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype != np.float32 or fortran_order:
        raise ValueError("not a float32 array in C order")
    return np.frombuffer(array.data, dtype, offset=file.tell()).reshape(shape)
