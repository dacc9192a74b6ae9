"""Target codes and packed codes."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ynet.learning.hashing import codebook, hamming, pack


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
def test_target_codes_are_orthogonal_and_balanced(bits: int) -> None:
    codes = codebook(7, bits, seed=3)
    assert torch.equal(codes @ codes.T, bits * torch.eye(7))
    assert torch.equal(codes.sum(1), torch.zeros(7))


def test_the_codebook_of_a_seed_is_the_same_at_every_site_and_in_every_version() -> None:
    packed = pack(codebook(3, 64, seed=1)).tobytes()
    assert hashlib.sha256(packed).hexdigest() == "1f00b6715652872a3644776125dff95fd40d7d7df3b6b0bc7fa234148c3636c5"


def test_another_seed_gives_other_codes() -> None:
    books = [codebook(3, 64, seed).numpy().tobytes() for seed in range(30)]
    assert len(set(books)) == 30


def test_a_class_more_leaves_the_codes_of_the_others_as_they_were() -> None:
    assert torch.equal(codebook(4, 64, 1)[:3], codebook(3, 64, 1))


@pytest.mark.parametrize(("classes", "bits"), [(32, 32), (0, 32), (3, 36)])
def test_as_many_classes_as_bits_or_bits_that_are_no_power_of_two_are_refused(classes: int, bits: int) -> None:
    with pytest.raises(ValueError, match="orthogonal"):
        codebook(classes, bits, 1)


def test_the_first_value_is_the_highest_bit_of_the_first_byte_and_zero_is_no_bit() -> None:
    values = torch.full((1, 32), -1.0)
    values[0, 0], values[0, 9], values[0, 31] = 1.0, 1.0, 0.0
    assert pack(values).tolist() == [[0b1000_0000, 0b0100_0000, 0, 0]]


@pytest.mark.parametrize("bits", [32, 64, 128, 256])
def test_hamming_is_half_of_what_the_product_of_the_signs_lacks(bits: int) -> None:
    a, b = torch.randn(5, bits), torch.randn(7, bits)
    expected = (bits - a.sign() @ b.sign().T) / 2
    np.testing.assert_array_equal(hamming(pack(a), pack(b)), expected.numpy())


@given(st.lists(st.binary(min_size=8, max_size=8), min_size=3, max_size=3))
def test_hamming_is_a_metric(codes: list[bytes]) -> None:
    packed = np.frombuffer(b"".join(codes), np.uint8).reshape(3, 8)
    distance = hamming(packed, packed)
    assert (distance == distance.T).all()
    assert ((distance == 0) == (packed[:, None] == packed[None]).all(2)).all()
    assert distance[0, 2] <= distance[0, 1] + distance[1, 2]


def test_the_bits_of_a_code_and_of_its_negative_differ_everywhere() -> None:
    code = torch.randn(4, 128)
    assert (hamming(pack(code), pack(-code)).diagonal() == 128).all()
    assert (hamming(pack(code), pack(3 * code)).diagonal() == 0).all()
