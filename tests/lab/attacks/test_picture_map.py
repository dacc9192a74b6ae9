"""A map that shows pictures: what the check at adoption sees of it."""

import numpy as np

from ynet_client.adoption.code_check import explained
from ynet_lab.attacks.picture_map import picture_bits


def test_map_chosen_for_pictures_shows_more_than_a_random_one() -> None:
    random = np.random.default_rng(1)
    picture = random.normal(size=(400, 12)) @ random.normal(size=(12, 64))
    feature = picture @ random.normal(size=(64, 80)) + random.normal(size=(400, 80))
    known, folds = np.arange(400) < 200, np.arange(400) % 4
    chosen = picture_bits(feature, picture, known, 16, seed=1)
    blind = feature @ random.normal(size=(80, 16)) > 0
    shown, unshown = (explained(2.0 * bits - 1, picture, folds) for bits in (chosen, blind))
    assert chosen.shape == (400, 16)
    assert shown > unshown + 0.1
