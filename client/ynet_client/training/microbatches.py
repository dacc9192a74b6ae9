"""The number of micro-batches per batch: as few as the machine's memory allows, found by trial and remembered.

The gradients of the micro-batches add up to that of the batch: a site with less memory trains the same model, slower.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from ynet.errors import UserError
from ynet.learning.device import ran_out_of_memory
from ynet.plan import Plan
from ynet.plan_sections import coupling
from ynet.runtime.home import write_private

FILE = "training.json"
T = TypeVar("T")
log = logging.getLogger("ynet.microbatches")


class _Kept(NamedTuple):
    """The content of the file."""

    plan: str  # the plan's id
    pieces: int  # micro-batches
    is_under_way: bool  # a training has started and not ended
    kills: int  # processes that the system had killed for memory before it started


class MicroBatches:
    """Remembers the number for the newest plan, in `file` if there is one.

    The file also shows that the system killed a process for memory in the middle of a training.
    """

    def __init__(self, file: Path | None = None, kills: Callable[[], int] | None = None) -> None:
        """`kills` returns how many processes the system has killed for memory since it was started."""
        self._file, self._kills, self._kept = file, kills or kills_for_memory, _Kept("", 1, False, 0)

    @property
    def newest(self) -> int:
        """The number of micro-batches of the newest training."""
        return self._kept.pieces

    def run(self, plan: Plan, train: Callable[[int], T]) -> T:
        """Call `train` with a number of micro-batches, doubled each time that memory runs out.

        `train` must start from the beginning at each call. Raises UserError when a batch cannot be divided further.
        """
        count = self._begin(plan)
        try:
            while (result := _within_memory(train, count)) is None:
                count = _doubled(plan, count)
                self._keep(_Kept(plan.id, count, True, self._kills()))
            return result
        finally:
            self._keep(_Kept(plan.id, count, False, 0))

    def _begin(self, plan: Plan) -> int:
        before = _read(self._file) if self._file else self._kept
        count = before.pieces if before.plan == plan.id else 1
        if before.plan == plan.id and before.is_under_way and self._kills() > before.kills:
            count = _doubled(plan, count)
        self._keep(_Kept(plan.id, count, True, self._kills()))
        return count

    def _keep(self, kept: _Kept) -> None:
        self._kept = kept
        if self._file:
            write_private(self._file, json.dumps(kept._asdict()).encode())


def kills_for_memory() -> int:
    """Return how many processes Linux has killed for memory since it was started; 0 when that is unknown."""
    try:
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _within_memory(train: Callable[[int], T], count: int) -> T | None:
    """Return the result of a training; None when memory ran out, with everything of that training released."""
    try:
        return train(count)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        log.warning("memory ran out with %d micro-batches: %s", count, type(error).__name__)
    return None


def _doubled(plan: Plan, count: int) -> int:
    """Return twice as many micro-batches. Raises UserError when there cannot be more."""
    what, do = "training ran out of memory", "give the site more memory, or train a plan with smaller images or batches"
    if why := coupling(plan.recipe):
        raise UserError(what, f"a batch of recipe {plan.recipe!r} is not divided: {why}", do)
    if count >= plan.training.batch_size:
        raise UserError(what, "one image at a time is too much for this machine", do)
    log.warning("memory ran out; from now on a batch is trained in %d micro-batches", 2 * count)
    return 2 * count


def _read(file: Path) -> _Kept:
    try:
        kept = _Kept(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return _Kept("", 1, False, 0)
    return kept if isinstance(kept.pieces, int) and kept.pieces > 0 else _Kept("", 1, False, 0)
