"""The mark of a folder that was restored from a backup, and the checks that follow from it.

Three permanent records say what has left the site: the privacy ledger, the secure sums that it took part in, and the
evaluations of private plans that it answered. An older copy of one would allow the same to happen twice.
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
    """When a backup was made and restored, in seconds since 1970."""

    made: float  # when the backup was made
    at: float


_RESTORED = TypeAdapter(Restored)


def write(home: Path, restored: Restored) -> None:
    """Record that the folder was restored."""
    write_private(home / FILE, json.dumps(restored).encode())


def check_vouched(home: Path, *, is_witnessed: bool) -> None:
    """Raise RefusedError when the ledger was restored and no server has sent the head that it saw last.

    The hub sends that head when the site connects, and the ledger is compared with it.
    """
    if not is_witnessed and (made := _made(home)):
        why = f"this site's ledger is from a backup of {made}, and no server has confirmed that nothing is missing"
        do = f"if nothing private was trained here since then, take {FILE} out of the site's folder, and start again"
        raise RefusedError("private training was refused", why, do)


def at(home: Path) -> float | None:
    """Return when the folder was restored, in seconds since 1970; None if it was not, infinity if unknown."""
    if not (home / FILE).exists():
        return None
    try:
        return _RESTORED.validate_json((home / FILE).read_bytes()).at
    except ValueError:
        return math.inf


def check_unsummed(home: Path, plan_id: str, *, is_accepted: bool) -> None:
    """Raise RefusedError when the folder was restored, so that the site may have been in a sum of this plan already.

    `is_accepted`: the site's admin has accepted the plan since.
    """
    if not is_accepted and (made := _made(home)):
        why = f"this site's record of its sums is from a backup of {made}: it may have been in one of this plan since"
        do = f"if it was not, run ynet-client plan accept {plan_id[:12]}; otherwise train a plan with another seed"
        raise RefusedError("a secure sum was refused", why, do)


def _made(home: Path) -> str | None:
    """Return when the backup was made, as text; None if the folder was not restored."""
    if not (home / FILE).exists():
        return None
    try:
        made = _RESTORED.validate_json((home / FILE).read_bytes()).made
    except ValueError:
        return "an unknown time"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(made))
