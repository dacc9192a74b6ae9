"""Target codes and packed codes."""

import hashlib

import numpy as np
import pytest
import torch

from ynet.hashing import codebook, hamming, pack


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
def test_target_codes_are_orthogonal_and_balanced(bits: int) -> None:
    codes = codebook(7, bits, seed=3)
    assert torch.equal(codes @ codes.T, bits * torch.eye(7))
    assert torch.equal(codes.sum(1), torch.zeros(7))


def test_the_codebook_of_a_seed_is_the_same_at_every_site_and_in_every_version() -> None:
    packed = pack(codebook(3, 64, seed=1)).tobytes()
    assert hashlib.sha256(packed).hexdigest() == "1f00b6715652872a3644776125dff95fd40d7d7df3b6b0bc7fa234148c3636c5"


def test_another_seed_gives_other_codes() -> None:
    assert not torch.equal(codebook(3, 64, 1), codebook(3, 64, 2))


def test_more_classes_than_orthogonal_codes_are_refused() -> None:
    with pytest.raises(ValueError, match="orthogonal"):
        codebook(32, 32, 1)


def test_the_first_value_is_the_highest_bit_of_the_first_byte_and_zero_is_no_bit() -> None:
    values = torch.full((1, 32), -1.0)
    values[0, 0], values[0, 9], values[0, 31] = 1.0, 1.0, 0.0
    assert pack(values).tolist() == [[0b1000_0000, 0b0100_0000, 0, 0]]


def test_hamming_is_half_the_difference_of_the_signs() -> None:
    a, b = torch.randn(5, 64), torch.randn(7, 64)
    expected = (64 - a.sign() @ b.sign().T) / 2
    np.testing.assert_array_equal(hamming(pack(a), pack(b)), expected.numpy())
