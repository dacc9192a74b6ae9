"""The newest answers, kept in memory for the pages that show them: for the viewer, the files and the consults."""

import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ynet.errors import UserError
from ynet_client.workbench.image_view import Shown

MOST_OF_ONE = 4
MOST = 24
"""Answers of one account, and of all; an image of 2048 x 2048 takes 12 MB, most take less than one."""


@dataclass(frozen=True)
class Kept:
    """One answer."""

    id: str
    account: str
    name: str  # of the image file
    time: float
    shown: Shown
    told: dict[str, Any]
    case: str = ""  # its path in the manifest, where it was an own case
    dicom: str = ""  # SHA-256 of the file, where it was a DICOM file that was dropped
    frame: int | None = None  # of it, from 1


class Looks:
    """By id; each account has its own. One thread calls."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def keep(self, account: str, name: str, time: float, shown: Shown, told: dict[str, Any], **file: Any) -> Kept:
        """Keep an answer; the oldest goes when there are too many. `file`: what it is of, as in `Kept`."""
        own = [key for key, one in self._kept.items() if one.account == account]
        for key in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
            del self._kept[key]
        while len(self._kept) >= MOST:
            self._kept.popitem(last=False)
        made = Kept(secrets.token_urlsafe(12), account, name, time, shown, told, **file)
        self._kept[made.id] = made
        return made

    def forget(self, images: Collection[str]) -> None:
        """Answers about these own cases go; from others, what they say of them."""
        for key, one in list(self._kept.items()):
            if one.case in images:
                del self._kept[key]
            else:
                one.told["own"] = [hit for hit in one.told["own"] if hit["image"] not in images]

    def find(self, id_: str, account: str) -> Kept:
        """An account's own answer. Raises UserError when it is kept no more, or is another's."""
        found = self._kept.get(id_)
        if found is None or found.account != account:
            raise UserError("the answer is not there", "only the newest are kept", "ask again")
        return found
