"""Randomised response: it is as often another class as it must be, and it answers an image once."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
from smallest_plan import smallest_plan

from ynet.errors import UserError
from ynet.learning import hashing
from ynet_client.retrieval import noise
from ynet_client.retrieval.noise import Drawn

TARGETS = [row.tobytes() for row in hashing.pack(hashing.codebook(10, 64, 1))]


@pytest.mark.parametrize(("epsilon", "classes"), [(0.5, 2), (1.0, 10), (4.0, 10), (6.0, 50)])
def test_response_frequencies_match_epsilon(epsilon: float, classes: int) -> None:
    """Binomial bounds of five standard deviations; the operating system's randomness."""
    draws, true = 20_000, 1
    counts = [0] * classes
    for _ in range(draws):
        counts[noise.respond(true, classes, epsilon)] += 1
    kept = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    for number, count in enumerate(counts):
        share = kept if number == true else (1 - kept) / (classes - 1)
        assert abs(count - draws * share) <= 5 * math.sqrt(draws * share * (1 - share)) + 1


@pytest.mark.parametrize("epsilon", [0.1, 1, 6, 20])
def test_probability_ratio_is_at_most_e_to_epsilon(epsilon: float) -> None:
    """In whole numbers, as they are drawn: the share kept against the share of any one other class."""
    classes = 10
    lowest, highest = 0, 1 << 64
    while highest - lowest > 1:  # the number of draws for which the class is kept
        middle = (lowest + highest) // 2
        is_kept = noise.respond(3, classes, epsilon, lambda limit, m=middle: m if limit == 1 << 64 else 0) == 3  # type: ignore[misc]
        lowest, highest = (middle, highest) if is_kept else (lowest, middle)
    share = highest / (1 << 64)
    assert share / ((1 - share) / (classes - 1)) <= math.exp(epsilon) * (1 + 1e-6)
    assert share == pytest.approx(noise.describe(epsilon, classes).kept_share)


def test_nearest_class_has_fewest_differing_bits() -> None:
    generator = random.Random(1)
    for _ in range(50):
        code = generator.randbytes(8)
        bits = [(int.from_bytes(code) ^ int.from_bytes(target)).bit_count() for target in TARGETS]
        assert noise.nearest(code, TARGETS) == bits.index(min(bits))


def test_draw_is_kept_per_image_model_and_epsilon_across_restarts(tmp_path: Path) -> None:
    first = Drawn(tmp_path)
    asked = [(image, epsilon) for image in range(40) for epsilon in (0.1, 0.2)]
    drawn = {(image, eps): first.code(str(image), "m", bytes(8), TARGETS, eps) for image, eps in asked}
    first.close()
    again = Drawn(tmp_path)
    for (image, epsilon), code in drawn.items():
        assert again.code(str(image), "m", bytes(8), TARGETS, epsilon) == code
    other = [again.code(str(image), "n", bytes(8), TARGETS, 0.1) for image in range(40)]
    assert other != [drawn[image, 0.1] for image in range(40)]
    assert set(drawn.values()) <= set(TARGETS)
    again.close()


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 21.0, math.nan, math.inf])
def test_epsilon_out_of_range_is_refused(epsilon: float) -> None:
    with pytest.raises(UserError, match="cannot be noised"):
        noise.check(epsilon, smallest_plan())


def test_noise_without_codebook_is_refused() -> None:
    with pytest.raises(UserError, match="cannot be noised"):
        noise.check(6.0, replace(smallest_plan(), recipe="plain"))
