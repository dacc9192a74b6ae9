"""Limits for files from the server: a file's size is checked against the network of its plan.

The first bytes of a file hold its plan and the sizes of its arrays. The rest is fetched only after they were checked.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ynet import plan as plans
from ynet.errors import RefusedError, UserError
from ynet.federation import content
from ynet.federation.content import ContentHead
from ynet.federation.records import CONFIG
from ynet.network_size import network_values
from ynet.plan import Plan

SPARE_VALUES = 1_024
"""Values that a file may hold beyond those of the network."""

IsWanted = Callable[[Path, int], bool | None]
"""Says of a partial file of a given full size whether the rest is fetched; None when more bytes are needed to
say. Raises RefusedError when the file is too large."""


def accept_all(_: Path, __: int) -> bool:
    """Fetch every file."""
    return True


class DownloadLimits(NamedTuple):
    """The limits of a site."""

    task: IsWanted = accept_all  # for a message of a run
    model: IsWanted = accept_all  # for a model's file


UNLIMITED = DownloadLimits()


def of_task(takes_part: Callable[[Plan], bool]) -> IsWanted:
    """Return the limit for messages of a run: arrays are fetched only for a plan in which the site takes part."""

    def is_wanted(path: Path, size_bytes: int) -> bool | None:
        head = content.head(path)
        if head is None:
            return None
        if not head.values:
            return _fits(head, 0, size_bytes)
        plan = _plan(head.configs().get(CONFIG, {}).get("plan"))
        if plan is None or not takes_part(plan):
            return False
        return _fits(head, network_values(plan), size_bytes)

    return is_wanted


def of_model(path: Path, size_bytes: int) -> bool | None:
    """Say whether a model's file is fetched: it must be no larger than its plan's network. Raises RefusedError."""
    head = content.head(path)
    if head is None:
        return None
    plan = _plan(head.metadata.get("plan"))
    if plan is None:
        raise _refused("it has no plan that this ynet can read")
    return _fits(head, network_values(plan), size_bytes)


def _plan(text: object) -> Plan | None:
    try:
        return plans.from_canonical(text) if isinstance(text, str) else None
    except UserError:
        return None


def _fits(head: ContentHead, values: int, size_bytes: int) -> bool:
    if head.values > values + SPARE_VALUES or size_bytes != head.bytes + 4 * head.values:
        raise _refused("it is larger than its plan's network")
    return True


def _refused(why: str) -> RefusedError:
    return RefusedError("a transfer was refused", why, "tell the coordinator")
