"""Several sources as one."""

import torch

from ynet.data.batch import Batch
from ynet.data.pooled import Pooled


class Numbered:
    """Cases whose image says which they are."""

    def __init__(self, numbers: list[int]) -> None:
        self.label = torch.tensor(numbers, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, positions: torch.Tensor) -> Batch:
        image = self.label[positions].float()[:, None, None, None]
        return Batch(image, image, self.label[positions])


def test_cases_come_in_the_order_asked_for_from_whichever_source_has_them() -> None:
    pooled = Pooled([Numbered([0, 1, 2]), Numbered([]), Numbered([3]), Numbered([4, 5])])
    assert len(pooled) == 6
    assert pooled.label.tolist() == [0, 1, 2, 3, 4, 5]
    asked = [5, 0, 3, 3, 4, 1]
    batch = pooled.batch(torch.tensor(asked))
    assert batch.label.tolist() == asked
    assert batch.image.flatten().tolist() == asked
