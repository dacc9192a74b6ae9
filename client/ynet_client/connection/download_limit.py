"""How much of a file from the server is fetched: what its own beginning says, held against the plan that it is of.

A file tells its arrays' sizes and its plan in its first bytes. Nothing more of it is fetched before these are read.
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
"""Beside a network's: nothing has more today."""

Look = Callable[[Path, int], bool | None]
"""Looks at what has come of a file that will have so many bytes: None while that is too little to say, then whether the
rest is wanted. Raises RefusedError where it is too large."""


def everything(_: Path, __: int) -> bool:
    """Of a site without a plan to hold it against."""
    return True


class Looks(NamedTuple):
    """Those of a site."""

    task: Look = everything  # at a message of a run
    model: Look = everything  # at a model's file


UNSEEN = Looks()
"""Of a site that looks at nothing."""


def of_task(takes_part: Callable[[Plan], bool]) -> Look:
    """A message of a run: its arrays are wanted where the site takes part in the plan, and are no more than needed."""

    def look(path: Path, size_bytes: int) -> bool | None:
        head = content.head(path)
        if head is None:
            return None
        if not head.values:
            return _fits(head, 0, size_bytes)
        plan = _plan(head.configs().get(CONFIG, {}).get("plan"))
        if plan is None or not takes_part(plan):
            return False
        return _fits(head, network_values(plan), size_bytes)

    return look


def of_model(path: Path, size_bytes: int) -> bool | None:
    """A model's file: it is no larger than its plan's network."""
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
