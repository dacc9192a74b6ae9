"""The codebook of the classes' target codes, and codes as packed bits."""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def codebook(classes: int, bits: int, seed: int) -> Float[Tensor, "classes bits"]:
    """Return one target code of -1 and +1 for each class: balanced and orthogonal to the others.

    The codes are rows of Sylvester's Hadamard matrix without the constant row. SHA-256 of the seed selects the rows and
    permutes the columns: all sites must get the same codes, and a generator may change with its library's version.

    Raises:
        ValueError: There are not fewer classes than bits, or `bits` is not a power of two.
    """
    if not 0 < classes < bits or bits & (bits - 1):
        raise ValueError(f"{classes} classes have no orthogonal balanced codes of {bits} bits")
    rows = sorted(range(1, bits), key=lambda row: hashlib.sha256(f"{seed}:row:{row}".encode()).digest())
    columns = sorted(range(bits), key=lambda column: hashlib.sha256(f"{seed}:column:{column}".encode()).digest())
    # Entry (i, j) of the matrix is -1 where i and j have an odd number of common bits. The whole matrix would take
    # gigabytes for the features of a large network.
    common = np.bitwise_and.outer(np.array(rows[:classes]), np.array(columns))
    for shift in (32, 16, 8, 4, 2, 1):
        common ^= common >> shift
    return torch.from_numpy((1 - 2 * (common & 1)).astype(np.float32))


def pack(values: Float[Tensor, "n bits"]) -> UInt8[np.ndarray, "n bytes"]:
    """Pack the signs of code values: positive is 1, the first value is the highest bit of the first byte."""
    packed: npt.NDArray[np.uint8] = np.packbits((values > 0).cpu().numpy(), axis=1)
    return packed


def hamming(a: UInt8[np.ndarray, "a bytes"], b: UInt8[np.ndarray, "b bytes"]) -> npt.NDArray[np.int64]:
    """Return the Hamming distance of each code of `a` to each of `b`, shape (a, b)."""
    distances = np.zeros((len(a), len(b)), np.int64)
    for column in range(a.shape[1]):
        distances += np.bitwise_count(a[:, column, None] ^ b[None, :, column])
    return distances
