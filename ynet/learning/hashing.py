"""Target codes of the classes, the same at every site, and codes as packed bits."""

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def codebook(classes: int, bits: int, seed: int) -> Float[Tensor, "classes bits"]:
    """One target code of -1 and +1 for each class, any two orthogonal, each with as many -1 as +1.

    Rows of Sylvester's Hadamard matrix without the constant one, chosen, and their columns put in order, by SHA-256 of
    the seed, not by a generator whose numbers a new version may change: all sites must get the same. Raises ValueError
    for as many classes as bits or more, and for bits that are no power of two.
    """
    if not 0 < classes < bits or bits & (bits - 1):
        raise ValueError(f"{classes} classes have no orthogonal balanced codes of {bits} bits")
    rows = sorted(range(1, bits), key=lambda row: hashlib.sha256(f"{seed}:row:{row}".encode()).digest())
    columns = sorted(range(bits), key=lambda column: hashlib.sha256(f"{seed}:column:{column}".encode()).digest())
    # Entry (i, j) of the matrix is -1 where i and j have an odd number of bits in common: never made whole, since for
    # the features of a large network it would take gigabytes.
    common = np.bitwise_and.outer(np.array(rows[:classes]), np.array(columns))
    for shift in (32, 16, 8, 4, 2, 1):
        common ^= common >> shift
    return torch.from_numpy((1 - 2 * (common & 1)).astype(np.float32))


def pack(values: Float[Tensor, "n bits"]) -> UInt8[np.ndarray, "n bytes"]:
    """The signs of code values as bits, positive as 1, the first value in the highest bit of the first byte."""
    packed: npt.NDArray[np.uint8] = np.packbits((values > 0).cpu().numpy(), axis=1)
    return packed


def hamming(a: UInt8[np.ndarray, "a bytes"], b: UInt8[np.ndarray, "b bytes"]) -> npt.NDArray[np.int64]:
    """Bits in which each code of `a` differs from each of `b`, shape (a, b)."""
    distances = np.zeros((len(a), len(b)), np.int64)
    for column in range(a.shape[1]):
        distances += np.bitwise_count(a[:, column, None] ^ b[None, :, column])
    return distances
