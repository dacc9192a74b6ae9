"""The newest answers in memory: the page's viewer, its files and its consults read them."""

import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ynet.errors import UserError
from ynet_client.workbench.image_view import ImageView

MOST_OF_ONE = 4
MOST = 24
"""Answers kept of one account, and of all. An image of 2048 x 2048 takes 12 MB, most images less than one."""


@dataclass(frozen=True)
class KeptAnswer:
    """One answer with its image."""

    id: str
    account: str
    name: str  # of the image file
    time: float
    view: ImageView
    answer: dict[str, Any]  # as `answer_view.shown` returns it
    case: str = ""  # its path in the manifest, where it was an own case
    dicom: str = ""  # SHA-256 of the file, where it was a DICOM file that was dropped
    frame: int | None = None  # of it, from 1


class RecentAnswers:
    """The answers by id; each account has its own. One thread calls."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, KeptAnswer] = OrderedDict()

    def keep(
        self, account: str, name: str, time: float, view: ImageView, answer: dict[str, Any], **file: Any
    ) -> KeptAnswer:
        """Keep an answer; the oldest is dropped when there are too many. `file`: the last fields of `KeptAnswer`."""
        own = [key for key, one in self._kept.items() if one.account == account]
        for key in own[: max(0, len(own) - MOST_OF_ONE + 1)]:
            del self._kept[key]
        while len(self._kept) >= MOST:
            self._kept.popitem(last=False)
        made = KeptAnswer(secrets.token_urlsafe(12), account, name, time, view, answer, **file)
        self._kept[made.id] = made
        return made

    def forget(self, images: Collection[str]) -> None:
        """Drop the answers about these own cases, and these cases from the other answers."""
        for key, one in list(self._kept.items()):
            if one.case in images:
                del self._kept[key]
            else:
                one.answer["own"] = [hit for hit in one.answer["own"] if hit["image"] not in images]

    def find(self, id_: str, account: str) -> KeptAnswer:
        """Return an account's own answer. Raises UserError when it is no longer kept, or is another account's."""
        found = self._kept.get(id_)
        if found is None or found.account != account:
            raise UserError("the answer is not there", "only the newest are kept", "ask again")
        return found
