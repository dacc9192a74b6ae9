"""An encoded update is small, near, and what it leaves out comes with the next ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ynet.federation import update_encoding
from ynet.federation.update_encoding import RUN, Encoding, decode, encode, encoded_size
from ynet.weights import Flat, Layout, LayoutEntry

SMALL: tuple[Encoding, Encoding] = ("float16", "int8")
LAYOUT: Layout = (
    LayoutEntry("weight", (3, 5, 100)),
    LayoutEntry("bias", (7,)),
    LayoutEntry("long", (1, RUN + 3)),
    LayoutEntry("scalar", ()),
    LayoutEntry("none", (0, 4)),
    LayoutEntry("norm.scale", (3000,)),
)


def values(seed: int, size: float = 1.0) -> Flat:
    count = sum(entry.size for entry in LAYOUT)
    return (size * np.random.default_rng(seed).standard_normal(count)).astype(np.float32)


@pytest.mark.parametrize("encoding", SMALL)
@given(st.integers(0, 99), st.sampled_from([1e-6, 1e-3, 1.0, 100.0]))
def test_what_is_decoded_is_near_and_vectors_are_exact(encoding: Encoding, seed: int, size: float) -> None:
    given_, start = values(seed, size), 0
    encoded = encode(given_, LAYOUT, encoding)
    assert encoded.dtype == np.float32
    assert encoded.size == encoded_size(LAYOUT, encoding)
    found = decode(encoded, LAYOUT, encoding)
    for entry in LAYOUT:
        one, other = given_[start : start + entry.size], found[start : start + entry.size]
        if len(entry.shape) < 2:
            np.testing.assert_array_equal(one, other)
        for at in range(0, entry.size, RUN):
            run = one[at : at + RUN]
            error = np.abs(run - other[at : at + RUN])
            bound = np.abs(run).max() / 254 * 1.001 if encoding == "int8" else np.abs(run) / 2000 + 1e-7
            assert (error <= bound).all()
        start += entry.size


def test_a_network_takes_half_and_a_quarter_of_the_bytes() -> None:
    layout = (LayoutEntry("conv", (256, 128, 3, 3)), LayoutEntry("norm", (256,)))
    whole = sum(entry.size for entry in layout)
    assert encoded_size(layout, "float16") / whole == pytest.approx(0.5, abs=0.001)
    assert encoded_size(layout, "int8") / whole == pytest.approx(0.25, abs=0.002)


@pytest.mark.parametrize("encoding", SMALL)
def test_error_feedback_keeps_the_sum_of_many_updates_exact(encoding: Encoding) -> None:
    left_out, wanted, sent = np.zeros_like(values(0)), 0.0, 0.0
    for seed in range(30):
        difference = values(seed) * np.float32(0.001)
        encoded = decode(encode(difference + left_out, LAYOUT, encoding), LAYOUT, encoding)
        left_out = difference + left_out - encoded
        wanted, sent = wanted + difference.astype(np.float64), sent + encoded.astype(np.float64)
    bound = 0.001 * 6 / 254 if encoding == "int8" else 0.001 * 6 / 2000
    assert np.abs(np.asarray(wanted - sent)).max() <= bound


@pytest.mark.parametrize("encoding", SMALL)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so_for_whoever_checks_it(encoding: Encoding, bad: float) -> None:
    for place in (0, 1502, len(values(0)) - 1):
        given_ = values(1)
        given_[place] = bad
        assert not np.isfinite(decode(encode(given_, LAYOUT, encoding), LAYOUT, encoding)).all()


@pytest.mark.parametrize("encoding", SMALL)
def test_any_bits_of_the_right_size_are_decoded_and_of_another_size_refused(encoding: Encoding) -> None:
    size = encoded_size(LAYOUT, encoding)
    bits = np.random.default_rng(1).integers(0, 2**32, size, np.uint32).view(np.float32)
    assert decode(bits, LAYOUT, encoding).shape == values(0).shape
    for wrong in (bits[:-1], np.append(bits, bits[:1]), bits[:0]):
        with pytest.raises(ValueError, match="not as many values"):
            decode(wrong, LAYOUT, encoding)


def test_no_change_is_no_change() -> None:
    for encoding in SMALL:
        assert not decode(encode(values(0) * 0, LAYOUT, encoding), LAYOUT, encoding).any()


def test_a_network_of_vectors_alone_is_sent_as_it_is() -> None:
    layout = (LayoutEntry("a", (5,)),)
    for encoding in SMALL:
        flat = np.arange(5, dtype=np.float32)
        np.testing.assert_array_equal(update_encoding.encode(flat, layout, encoding), flat)
        np.testing.assert_array_equal(decode(flat, layout, encoding), flat)
