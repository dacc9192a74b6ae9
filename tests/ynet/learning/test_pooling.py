"""From a map to one feature."""

import numpy as np
import pytest
import torch

from ynet.learning.pooling import max_and_mean, rmac

# (side, corners of its top left pixel) on the paper's 8 x 8 core node: the whole, then 5 x 5 and 4 x 4 regions.
REGIONS = [(8, (0,)), (5, (0, 3)), (4, (0, 2, 4))]


def test_rmac_on_the_papers_map_is_the_sum_of_14_regions_written_out() -> None:
    h = torch.rand(2, 6, 8, 8)
    for image, pooled in zip(h.double().numpy(), rmac(h).numpy(), strict=True):
        maxima = [
            image[:, top : top + side, left : left + side].max((1, 2))
            for side, starts in REGIONS
            for top in starts
            for left in starts
        ]
        assert len(maxima) == 14
        total = sum(vector / np.linalg.norm(vector) for vector in maxima)
        np.testing.assert_allclose(pooled, total / np.linalg.norm(total), rtol=1e-5)


def test_rmac_of_a_constant_map_is_the_constants_direction() -> None:
    value = torch.tensor([3.0, 4.0])
    pooled = rmac(value[None, :, None, None].expand(1, 2, 5, 5))
    torch.testing.assert_close(pooled, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (3, 5), (7, 4), (32, 32)])
def test_rmac_has_unit_length_knows_no_scale_and_sees_every_pixel(shape: tuple[int, int]) -> None:
    h = torch.rand(3, 5, *shape, requires_grad=True)
    pooled = rmac(h)
    torch.testing.assert_close(pooled.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(rmac(7 * h), pooled)
    for pixel in range(shape[0] * shape[1]):
        peak = torch.zeros(1, 5, *shape)
        peak[0, 2].view(-1)[pixel] = 1.0
        assert rmac(peak)[0, 2] == 1


def test_a_map_of_zeros_pools_to_zeros_with_a_finite_gradient() -> None:
    h = torch.zeros(2, 3, 4, 4, requires_grad=True)
    pooled = rmac(h)
    pooled.sum().backward()
    assert h.grad is not None
    assert torch.equal(pooled, torch.zeros(2, 3))
    assert torch.isfinite(h.grad).all()


def test_max_and_mean_are_both_there_for_each_channel() -> None:
    h = torch.arange(8.0).view(1, 2, 2, 2)
    assert max_and_mean(h).tolist() == [[3.0, 7.0, 1.5, 5.5]]
