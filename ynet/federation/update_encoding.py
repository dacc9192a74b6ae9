"""Encodes a site's update in fewer bytes: its difference to the weights that were sent, in 16 or 8 bits per value.

Only arrays of two dimensions or more are encoded, which hold nearly all values of a network. Vectors are sent
unencoded: biases and norms.

With 8 bits, each run of up to RUN values of one array has its own scale: its largest value becomes 127. A site adds the
rounding error to its next update (error feedback; Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019), so
that the error is delayed, and not lost.
"""

from typing import Literal

import numpy as np
import numpy.typing as npt

from ynet.weights import Flat, Layout

Encoding = Literal["float32", "float16", "int8"]
RUN = 1024
LARGEST = 127

_Places = npt.NDArray[np.int64]


def encode(difference: Flat, layout: Layout, encoding: Encoding) -> Flat:
    """Encode an update as float32 bit patterns, in fewer values than `difference` has."""
    whole = _is_whole(layout)
    matrices = difference[~whole]
    if encoding == "float16":
        with np.errstate(over="ignore"):  # what is beyond it is no weight, and refused as infinite
            packed = [matrices.astype("<f2").view(np.uint8)]
    else:
        starts, lengths = _runs(layout)
        scales = _largest(matrices, starts) / np.float32(LARGEST)
        divisors = np.where(np.isfinite(scales) & (scales > 0), scales, np.float32(1))
        with np.errstate(invalid="ignore"):
            steps = np.rint(matrices / np.repeat(divisors, lengths))
        steps = np.nan_to_num(steps, nan=0, posinf=0, neginf=0).clip(-LARGEST, LARGEST)
        packed = [scales.astype("<f4").view(np.uint8), steps.astype(np.int8).view(np.uint8)]
    values = np.concatenate([difference[whole].astype("<f4").view(np.uint8), *packed])
    return np.pad(values, (0, -len(values) % 4)).view(np.float32)


def decode(encoded: Flat, layout: Layout, encoding: Encoding) -> Flat:
    """Decode a difference, up to rounding. Raises ValueError when it does not fit the layout."""
    if encoded.size != encoded_size(layout, encoding):
        raise ValueError("not as many values as the encoding has")
    whole, values = _is_whole(layout), np.ascontiguousarray(encoded).view(np.uint8)
    count, vectors = int((~whole).sum()), int(whole.sum())
    rest = values[4 * vectors :]
    difference = np.empty(len(whole), np.float32)
    difference[whole] = values[: 4 * vectors].view("<f4")
    if encoding == "float16":
        difference[~whole] = rest[: 2 * count].view("<f2")
    else:
        _, lengths = _runs(layout)
        scales, steps = rest[: 4 * len(lengths)].view("<f4"), rest[4 * len(lengths) :][:count].view(np.int8)
        with np.errstate(invalid="ignore", over="ignore"):  # not finite: refused by whoever decodes
            difference[~whole] = steps * np.repeat(scales, lengths)
    return difference


def encoded_size(layout: Layout, encoding: Encoding) -> int:
    """The number of 4-byte values of an encoded update."""
    matrices = sum(entry.size for entry in layout if len(entry.shape) > 1)
    vectors = sum(entry.size for entry in layout) - matrices
    size = 2 * matrices if encoding == "float16" else matrices + 4 * len(_runs(layout)[1])
    return vectors + -(-size // 4)


def _is_whole(layout: Layout) -> npt.NDArray[np.bool_]:
    """Whether each value travels unencoded."""
    return np.repeat([len(entry.shape) < 2 for entry in layout], [entry.size for entry in layout])


def _runs(layout: Layout) -> tuple[_Places, _Places]:
    """Starts and lengths of the runs of encoded arrays."""
    sizes = [entry.size for entry in layout if len(entry.shape) > 1]
    lengths = [min(RUN, size - start) for size in sizes for start in range(0, size, RUN)]
    ends = np.cumsum([0, *lengths], dtype=np.int64)
    return ends[:-1], np.asarray(lengths, np.int64)


def _largest(values: Flat, starts: _Places) -> Flat:
    return np.maximum.reduceat(np.abs(values), starts) if len(starts) else np.zeros(0, np.float32)
