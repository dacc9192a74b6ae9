"""Several sources as one."""

import pytest
import torch

from ynet.data.batch import Batch
from ynet_lab.concat import Concat


class Numbered:
    """Cases whose image says which they are."""

    def __init__(self, numbers: list[int]) -> None:
        self.label = self.patient = torch.tensor(numbers, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: torch.Tensor) -> Batch:
        image = self.label[positions].float()[:, None, None, None]
        return Batch(image, image, self.label[positions], positions[:, None] >= 0)


def test_cases_come_in_the_order_asked_for_from_whichever_source_has_them() -> None:
    pooled = Concat([Numbered([0, 1, 2]), Numbered([]), Numbered([3]), Numbered([4, 5])])
    assert len(pooled) == 6
    assert pooled.label.tolist() == [0, 1, 2, 3, 4, 5]
    asked = [5, 0, 3, 3, 4, 1]
    batch = pooled.batch(torch.tensor(asked))
    assert batch.label.tolist() == asked
    assert batch.image.flatten().tolist() == asked


def test_one_source_pooled_is_that_source() -> None:
    alone = Numbered([7, 8, 9])
    positions = torch.tensor([2, 0])
    for one, other in zip(Concat([alone]).batch(positions), alone.batch(positions), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_that_is_none_is_an_error_and_not_a_case_less(position: int) -> None:
    with pytest.raises(IndexError):
        Concat([Numbered([0]), Numbered([1, 2])]).batch(torch.tensor([0, position]))


def test_pooling_all_sites_loses_no_case() -> None:
    pooled = Concat([Numbered([4, 5]), Numbered([6])])
    assert pooled.batch(torch.arange(len(pooled))).label.tolist() == pooled.label.tolist() == [4, 5, 6]


def test_patients_of_two_sources_are_different_people() -> None:
    gallery, queries = Concat([Numbered([4, 5]), Numbered([4])]), Concat([Numbered([5]), Numbered([4, 4])])
    assert len(set(gallery.patient.tolist())) == 3
    assert queries.patient.tolist() == [gallery.patient[1], gallery.patient[2], gallery.patient[2]]
