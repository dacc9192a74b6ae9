"""Noise on a grid: its distribution, its exactness where it is drawn by halves, and what its bits do not tell."""

from itertools import pairwise

import mpmath
import numpy as np
import torch
from scipy import stats

from ynet.learning.grid_noise import CELL, FIRST, STEPS, Randomness, _table, off_grid, on_grid


def test_normal_has_the_normal_distribution() -> None:
    drawn = (Randomness().normal(300_000).double() / STEPS).numpy()
    assert stats.kstest(drawn, "norm").pvalue > 1e-5
    assert abs(drawn.std() - 1) < 0.008


def test_normal_fills_the_grid_down_to_its_last_bits() -> None:
    low = Randomness().normal(256_000).numpy() & 255
    assert stats.chisquare(np.bincount(low, minlength=256)).pvalue > 1e-5


def test_normal_fills_a_cell_as_the_density_does() -> None:
    drawn = Randomness().normal(2_000_000).numpy()
    first = CELL * -FIRST // 6  # the cell two deviations out, where the density falls fastest in a cell
    inside = drawn[(drawn >= first) & (drawn < first + CELL)]
    edges = (first + CELL * np.linspace(0, 1, 9)) / STEPS
    share = np.diff(stats.norm.cdf(edges))
    assert stats.chisquare(np.histogram(inside / STEPS, edges)[0], share / share.sum() * len(inside)).pvalue > 1e-5


def test_table_has_each_cells_share_to_48_bits() -> None:
    whole = [*_table().whole, 2**128]
    shares = [(after - before) / 2**128 for before, after in pairwise(whole)]
    middle = -FIRST
    with mpmath.workprec(200):
        for cell in (0, 1, -1, 64, -200, 575, -576):  # to nine deviations
            start, end = ((mpmath.mpf(one) * CELL - 0.5) / STEPS for one in (cell, cell + 1))
            exact = mpmath.ncdf(end) - mpmath.ncdf(start) if cell < 0 else mpmath.ncdf(-start) - mpmath.ncdf(-end)
            assert abs(shares[middle + cell] / exact - 1) < 2**-48
    assert whole == sorted(whole)


def test_sum_and_noise_of_different_data_share_their_grid() -> None:
    """A float's low bits tell what noise was added to (Mironov 2012); here every sum reaches the same values."""
    noise = Randomness().normal(10_000)
    for deviation in (0.3, 1.7, 1e-3):
        for values in (torch.zeros(10_000), torch.full((10_000,), 0.7312), torch.randn(10_000)):
            released = off_grid(on_grid(values.double(), deviation) + noise, deviation)
            back = released * STEPS / deviation
            assert (back - back.round()).abs().max() < 0.1  # the rest is the double's own rounding
            assert torch.equal(on_grid(released, deviation), on_grid(values.double(), deviation) + noise)


def test_guide_leads_to_the_cell_that_a_search_finds() -> None:
    class Words(Randomness):
        """Given words instead of drawn ones."""

        def words(self, count: int) -> np.ndarray:
            return given[:count]

    table = _table()
    edges = np.concatenate([table.upper, table.upper - np.uint64(1), table.upper + np.uint64(1)])
    given = np.concatenate([edges, Randomness().words(100_000)])
    given = given[~np.isin(given, table.upper)]  # on an edge the lower halves decide
    found = Words()._cells(len(given)) - FIRST + 1
    assert (found == np.searchsorted(table.upper, given, side="right")).all()
