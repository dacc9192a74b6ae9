"""That a site's folder came out of a backup: what it may have forgotten, and so does not do before somebody knows.

Three things that are kept for good count what has left the site: the privacy ledger, which secure sums the site was
in, and which evaluations of private plans it answered. An older copy of one would let the same be done twice.
"""

import json
import math
import time
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from ynet.errors import RefusedError
from ynet.runtime.home import write_private

FILE = "restored.json"


class Restored(NamedTuple):
    """A restoring, in seconds since 1970."""

    made: float  # the backup
    at: float


_RESTORED = TypeAdapter(Restored)


def write(home: Path, restored: Restored) -> None:
    """Keep that the folder is as old as its backup."""
    write_private(home / FILE, json.dumps(restored).encode())


def check_vouched(home: Path, *, is_witnessed: bool) -> None:
    """Whether the ledger counts: a server has told how far it saw it go, or nothing was restored. Raises RefusedError.

    The hub tells that when the site connects, if it has seen any of it; then the ledger is held against it.
    """
    if not is_witnessed and (made := _made(home)):
        why = f"this site's ledger is from a backup of {made}, and no server says how far it went since"
        do = f"if nothing private was trained here since then, take {FILE} out of the site's folder, and start again"
        raise RefusedError("private training was refused", why, do)


def at(home: Path) -> float | None:
    """When the folder was restored, in seconds since 1970; None where it was not, infinity where nobody knows."""
    if not (home / FILE).exists():
        return None
    try:
        return _RESTORED.validate_json((home / FILE).read_bytes()).at
    except ValueError:
        return math.inf


def check_unsummed(home: Path, plan_id: str, *, is_accepted: bool) -> None:
    """Whether a secure sum of a plan may be the first of its round here. Raises RefusedError.

    `is_accepted`: the site's admin has said yes to the plan since.
    """
    if not is_accepted and (made := _made(home)):
        why = f"this site's record of its sums is from a backup of {made}: it may have been in one of this plan since"
        do = f"if not, its admin says so: ynet-client plan accept {plan_id[:12]}; else train a plan with another seed"
        raise RefusedError("a secure sum was refused", why, do)


def _made(home: Path) -> str | None:
    """When the backup was made, as people write it; None where the folder is no restored one."""
    if not (home / FILE).exists():
        return None
    try:
        made = _RESTORED.validate_json((home / FILE).read_bytes()).made
    except ValueError:
        return "an unknown time"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(made))
