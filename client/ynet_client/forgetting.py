"""What `ynet-client forget` has begun: written down before anything is taken out, so that a kill leaves nothing behind.

A patient stands in several stores: the gallery, the workbench's history, the records of an import. Each is taken out by
itself; what is written here names them all until the last is done, and no patient's id.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter

from ynet.errors import UserError
from ynet.runtime.home import write_private

FILE = "forgetting.json"


class Intent(NamedTuple):
    """One patient who is to be forgotten."""

    pseudonyms: list[str]  # the gallery's, hexadecimal: one for each name that the patient is known by
    imported: list[str]  # pseudonyms that an import has given
    images: list[str]  # as the manifest has them


_INTENTS = TypeAdapter(list[Intent])


def begun(home: Path) -> list[Intent]:
    """What was begun and is not done. Raises UserError when the file cannot be read."""
    path = home / FILE
    if not path.exists():
        return []
    try:
        return _INTENTS.validate_json(path.read_bytes())
    except ValueError:
        do = f"take {FILE} out of the site's folder, and forget again whoever was being forgotten"
        raise UserError("a forgetting cannot be ended", f"{path} is not as it was written", do) from None


def begin(home: Path, intent: Intent) -> Intent:
    """Write an intent down, with what is known from an earlier one of the same patient. Raises UserError: the disk."""
    others = []
    for one in begun(home):
        if set(one.pseudonyms) & set(intent.pseudonyms):
            intent = Intent(*(_both(old, new) for old, new in zip(one, intent, strict=True)))
        else:
            others.append(one)
    _write(home, [*others, intent])
    return intent


def end(home: Path, intent: Intent) -> None:
    """It is done: nothing says any more which images were whose. Raises UserError: the disk."""
    left = [one for one in begun(home) if one != intent]
    if left:
        _write(home, left)
    else:
        (home / FILE).unlink(missing_ok=True)


def _both(old: Sequence[str], new: Sequence[str]) -> list[str]:
    return sorted({*old, *new})


def _write(home: Path, intents: Sequence[Intent]) -> None:
    try:
        write_private(home / FILE, json.dumps(intents).encode())
    except OSError as error:
        do = "see that its disk has room and can be written to, then repeat the command"
        raise UserError("the patient was not forgotten", f"{FILE}: {error.strerror}", do) from None
