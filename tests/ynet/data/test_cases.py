"""The cache returns equal cases under any limit, stays below it, and decodes cached cases once."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from PIL import Image as Picture

from ynet.data import images, manifest
from ynet.data.batch import CaseSource
from ynet.data.cases import CaseCache
from ynet.data.prepare import prepare, prepare_mask
from ynet.errors import UserError
from ynet.plan_sections import Image

CLASSES = ("round", "spiky")
SETTINGS = Image(channels=1, size=32)
PER_CASE = 32 * 32 * (2 + 1)
WriteSite = Callable[..., Path]


def cache(path: Path, limit: int, settings: Image = SETTINGS) -> CaseCache:
    read = manifest.read(path)
    return CaseCache(read, read.cases, settings, CLASSES, limit)


def test_case_is_prepared_image_mask_and_class(write_site: WriteSite, tmp_path: Path) -> None:
    source: CaseSource = cache(write_site(), 1 << 20)
    image, mask, label, _ = source.batch(torch.tensor([5, 2]))
    expected, region = prepare(images.decode(tmp_path / "i5.png", 1), SETTINGS)
    np.testing.assert_allclose(image[0], expected, atol=2e-3)
    np.testing.assert_array_equal(mask[0], prepare_mask(images.decode_mask(tmp_path / "m5.png"), region, 32))
    assert label.tolist() == [0, 1]
    assert source.label.tolist() == [0, 0, 1, 1] * 2
    assert (image.dtype, mask.dtype, len(source)) == (torch.float32, torch.float32, 8)


def test_case_without_mask_has_no_lesion(write_site: WriteSite) -> None:
    source = cache(write_site(lambda rows: rows[0].update(mask="")), 1 << 20)
    assert not source.batch(torch.tensor([0])).mask.any()


@pytest.mark.parametrize("limit", [0, 1 << 20])
def test_unknown_mask_is_flagged(write_site: WriteSite, limit: int) -> None:
    source = cache(write_site(lambda rows: (rows[0].update(mask="unknown"), rows[1].update(mask=""))), limit)
    batch = source.batch(torch.tensor([1, 0, 2]))
    assert batch.drawn.tolist() == [[True], [False], [True]]
    assert not batch.mask[:2].any()


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=some.integers(-1, 9 * PER_CASE),
    batches=some.lists(some.lists(some.integers(0, 7), max_size=10), max_size=5),
)
def test_limit_is_kept_and_changes_no_value(write_site: WriteSite, limit: int, batches: list[list[int]]) -> None:
    path = write_site()
    limited, whole = cache(path, limit), cache(path, 8 * PER_CASE)
    for positions in batches:
        asked = torch.tensor(positions, dtype=torch.int64)
        for one, other in zip(limited.batch(asked), whole.batch(asked), strict=True):
            assert torch.equal(one, other)
        assert limited.nbytes <= max(limit, 0)


def test_cached_case_is_not_read_again(write_site: WriteSite, tmp_path: Path) -> None:
    source = cache(write_site(), 4 * PER_CASE)
    everything = torch.arange(8)
    before = source.batch(everything)
    assert source.nbytes == 4 * PER_CASE
    for number in range(8):
        (tmp_path / f"i{number}.png").unlink()
    assert torch.equal(source.batch(torch.tensor([3, 0])).image, before.image[[3, 0]])
    with pytest.raises(UserError, match="no such file"):
        source.batch(torch.tensor([4]))


def test_batch_shares_no_memory_with_the_cache(write_site: WriteSite) -> None:
    source = cache(write_site(), 1 << 20)
    first = source.batch(torch.arange(8)).image.clone()
    source.batch(torch.arange(8)).image.zero_()
    assert torch.equal(source.batch(torch.arange(8)).image, first)


def test_threads_get_the_same_cases_as_one(write_site: WriteSite) -> None:
    path = write_site()
    alone = cache(path, 1 << 20).batch(torch.arange(8)).image
    shared = cache(path, 5 * PER_CASE)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(10):
            positions = torch.randint(8, (6,), generator=generator)
            if not torch.equal(shared.batch(positions).image, alone[positions]):
                wrong.append(seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert shared.nbytes == 5 * PER_CASE


def test_invalid_position_is_an_index_error(write_site: WriteSite) -> None:
    source = cache(write_site(), 1 << 20)
    for _ in range(2):
        for position in (-1, 8):
            with pytest.raises((IndexError, RuntimeError)):
                source.batch(torch.tensor([position]))
        source.batch(torch.arange(8))


def test_label_outside_the_plan_is_refused(write_site: WriteSite) -> None:
    with pytest.raises(UserError, match=r"row 3 .*\n.*'ring' is not one of the plan's classes"):
        cache(write_site(lambda rows: rows[1].update(label="ring")), 1 << 20)


def test_mask_of_another_size_is_refused(write_site: WriteSite, tmp_path: Path) -> None:
    source = cache(write_site(), 1 << 20)
    Picture.new("L", (3, 2)).save(tmp_path / "m1.png")
    with pytest.raises(UserError, match=r"row 3 .*\n.*3 x 2 pixels, its image 24 x 20"):
        source.batch(torch.tensor([1]))


def test_site_without_cases_is_an_empty_source(write_site: WriteSite) -> None:
    source = CaseCache(manifest.read(write_site()), (), SETTINGS, CLASSES, 1 << 20)
    assert len(source) == 0
    assert source.batch(torch.arange(0)).image.shape == (0, 1, 32, 32)


def test_colour_plan_gets_three_channels(write_site: WriteSite) -> None:
    source = cache(write_site(), 1 << 20, Image(channels=3, size=64))
    assert source.batch(torch.arange(2)).image.shape == (2, 3, 64, 64)


def test_patients_have_the_same_numbers_in_training_and_test_cases(write_site: WriteSite) -> None:
    read = manifest.read(write_site())
    held, asked = (CaseCache(read, part, SETTINGS, CLASSES, 0) for part in (read.cases[:2], read.cases[1:]))
    of = {case.image: case.patient for case in read.cases}
    numbers = dict(zip([case.image for case in read.cases], [held.patient[0], *asked.patient], strict=True))
    assert held.patient[1] == asked.patient[0]
    for one in numbers:
        for other in numbers:
            assert (numbers[one] == numbers[other]) == (of[one] == of[other])
