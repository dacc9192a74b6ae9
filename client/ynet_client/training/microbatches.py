"""In how many pieces a batch is trained: as few as the memory of the site's machine allows, found out and remembered.

The pieces' gradients add up to the batch's, so a site with less memory trains the same, only more slowly.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from ynet.errors import UserError
from ynet.learning.device import ran_out_of_memory
from ynet.plan import BATCH_COUPLED, Plan
from ynet.runtime.home import write_private

FILE = "training.json"
T = TypeVar("T")
log = logging.getLogger("ynet.microbatches")


class _Kept(NamedTuple):
    """What the file holds."""

    plan: str  # the plan's id
    pieces: int
    is_under_way: bool  # a training has begun, and not ended
    kills: int  # processes that the system had killed for memory when it began


class Pieces:
    """Remembers in `file`, if there is one, also what a process did not live to say."""

    def __init__(self, file: Path | None = None, kills: Callable[[], int] | None = None) -> None:
        """`kills`: how many processes this system has killed for memory since it was started."""
        self._file, self._kills, self._kept = file, kills or kills_for_memory, _Kept("", 1, False, 0)

    @property
    def newest(self) -> int:
        """In how many pieces the newest training had its batches."""
        return self._kept.pieces

    def run(self, plan: Plan, train: Callable[[int], T]) -> T:
        """What `train` makes with a batch in so many pieces; in twice as many each time that memory runs out.

        Raises UserError when no smaller piece is left. `train` must begin anew each time that it is called.
        """
        pieces = self._begin(plan)
        try:
            while (result := _within_memory(train, pieces)) is None:
                pieces = _halved(plan, pieces)
                self._keep(_Kept(plan.id, pieces, True, self._kills()))
            return result
        finally:
            self._keep(_Kept(plan.id, pieces, False, 0))

    def _begin(self, plan: Plan) -> int:
        before = _read(self._file) if self._file else self._kept
        pieces = before.pieces if before.plan == plan.id else 1
        if before.plan == plan.id and before.is_under_way and self._kills() > before.kills:
            pieces = _halved(plan, pieces)
        self._keep(_Kept(plan.id, pieces, True, self._kills()))
        return pieces

    def _keep(self, kept: _Kept) -> None:
        self._kept = kept
        if self._file:
            write_private(self._file, json.dumps(kept._asdict()).encode())


def kills_for_memory() -> int:
    """How many processes Linux has killed for memory since it was started; 0 where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def _within_memory(train: Callable[[int], T], pieces: int) -> T | None:
    """None when memory ran out; nothing of that training is held any more."""
    try:
        return train(pieces)
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        log.warning("memory ran out with a batch in %d pieces: %s", pieces, type(error).__name__)
    return None


def _halved(plan: Plan, pieces: int) -> int:
    """Twice as many pieces. Raises UserError when there cannot be more."""
    what, do = "training ran out of memory", "give the site more memory, or train a plan with smaller images or batches"
    if plan.recipe in BATCH_COUPLED:
        raise UserError(what, f"a batch of recipe {plan.recipe!r} is not divided: {BATCH_COUPLED[plan.recipe]}", do)
    if pieces >= plan.training.batch_size:
        raise UserError(what, "one image at a time is too much for this machine", do)
    log.warning("memory ran out; from now on a batch is trained in %d pieces", 2 * pieces)
    return 2 * pieces


def _read(file: Path) -> _Kept:
    try:
        kept = _Kept(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return _Kept("", 1, False, 0)
    return kept if isinstance(kept.pieces, int) and kept.pieces > 0 else _Kept("", 1, False, 0)
