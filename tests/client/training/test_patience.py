"""Transient faults: which faults count, and how long a site retries."""

import asyncio
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ynet.data import images
from ynet.data.manifest import read
from ynet.data.synthetic import make_federation
from ynet.errors import PassingError, RefusedError, UserError
from ynet.runtime import disk_faults
from ynet_client.training.patience import SHARE, Patience


def caught(work: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as found:  # noqa: PT011 (which one it is, is the caller's question)
        work()
    assert isinstance(found.value, Exception)
    return found.value


def test_data_whose_folder_is_gone_or_empty_may_come_back_and_a_wrong_row_may_not(tmp_path: Path) -> None:
    make_federation(tmp_path, {"A": 8}, seed=1, size=32)
    manifest = tmp_path / "A" / "manifest.csv"
    image = manifest.parent / read(manifest).cases[0].image
    image.unlink()
    assert not disk_faults.may_pass(caught(lambda: images.decode(image, 1)))
    (tmp_path / "A").rename(tmp_path / "away")
    for lost in (lambda: images.decode(image, 1), lambda: images.digest(image), lambda: read(manifest)):
        assert disk_faults.may_pass(caught(lost))
    image.parent.mkdir(parents=True)  # where a share was mounted, an empty folder is left
    assert disk_faults.may_pass(caught(lambda: images.decode(image, 1)))


def test_a_file_that_is_back_already_may_be_read_again(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    error = caught((tmp_path / "file").read_bytes)
    assert not disk_faults.may_pass(error)
    (tmp_path / "file").touch()
    assert disk_faults.may_pass(error)


@pytest.mark.parametrize("number", sorted(disk_faults.DISK), ids=errno.errorcode.__getitem__)
def test_a_user_error_made_of_a_disk_fault_may_pass_whatever_hides_its_cause(number: int) -> None:
    def fail() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            raise UserError("image 1 cannot be read", "its data are damaged or cut short", "copy it again") from None

    error = caught(fail)
    assert disk_faults.may_pass(error)
    said = disk_faults.in_words(OSError(number, os.strerror(number)))
    assert said is not None
    assert os.strerror(number) in said.why


def test_bad_data_do_not_pass(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("image,mask\n1.png,\n", "utf-8")
    (tmp_path / "1.png").write_bytes(b"no image")
    for bad in (lambda: read(tmp_path / "manifest.csv"), lambda: images.decode(tmp_path / "1.png", 1)):
        assert not disk_faults.may_pass(caught(bad))
    assert not disk_faults.may_pass(RefusedError("no", "the privacy budget is spent", ""))


class Share:
    """Fails until a time; records its attempts."""

    def __init__(self, away_for_s: float = float("inf")) -> None:
        self.tried = list[float]()
        self.back_at = time.monotonic() + away_for_s

    async def read(self) -> str:
        self.tried.append(time.monotonic())
        if time.monotonic() < self.back_at:
            raise PassingError("a share is away", "it is not mounted", "")
        return "read"


def test_tries_are_spaced_and_end_with_the_share_back() -> None:
    said, share = list[str](), Share(1.5)
    assert asyncio.run(Patience(said.append).keep(share.read, 30.0)) == "read"
    gaps = [after - before for before, after in zip(share.tried, share.tried[1:], strict=False)]
    assert 2 <= len(gaps) <= 4
    assert gaps[0] >= 0.25
    assert len(said) == 1
    assert "it is not mounted; tried again for 27 s" in said[0]


def test_a_share_that_stays_away_is_waited_for_once_and_not_in_every_round() -> None:
    patience, share = Patience([].append), Share()
    begun = time.monotonic()
    with pytest.raises(PassingError):
        asyncio.run(patience.keep(share.read, 1.0))
    assert time.monotonic() - begun >= SHARE
    tried = len(share.tried)
    with pytest.raises(PassingError):
        asyncio.run(patience.keep(share.read, 1.0))
    assert len(share.tried) == tried + 1
    share.back_at = 0.0
    assert asyncio.run(patience.keep(share.read, 1.0)) == "read"
    share.back_at = time.monotonic() + 0.2  # another fault, with a time of its own
    assert asyncio.run(patience.keep(share.read, 5.0)) == "read"


def test_what_cannot_pass_is_tried_once() -> None:
    tried = list[int]()

    async def bad() -> None:
        tried.append(1)
        raise UserError("the manifest cannot be used", "a label is none of the plan's", "")

    with pytest.raises(UserError):
        asyncio.run(Patience([].append).keep(bad, 30.0))
    assert tried == [1]
