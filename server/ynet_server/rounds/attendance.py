"""Which sites are present: waiting for a quorum, and ending a run whose sites keep refusing."""

import random
import time
from collections.abc import Callable, Iterable, Set

from ynet.errors import UserError
from ynet.federation.records import INITIAL
from ynet.plan import Plan
from ynet_server.rounds.conversation import Conversation
from ynet_server.rounds.reply_checks import ReplyChecks
from ynet_server.rounds.run_folder import RunFolder

POLL_S = 0.1
WAIT_AFTER_FAILED_ROUND_S = 2.0
LONGEST_WAIT_S = 60.0
"""Wait before a round is repeated. It grows to the longer one while a site reports that its data are unavailable."""

REFUSED_AT_MOST = 3
"""How often a round is repeated although its sites are present: a site that refuses or diverges does so every time."""


class Attendance:
    """The presence of one run's sites."""

    def __init__(self, plan: Plan, folder: RunFolder, talk: Conversation, checks: ReplyChecks) -> None:
        self._plan, self._folder, self._talk, self._checks = plan, folder, talk, checks

    def wait_for(self, needed: Callable[[], int]) -> list[int]:
        """Wait until as many nodes are present as needed, which may change in the meantime. Returns the nodes."""
        reported: tuple[list[int], int] | None = None
        while len(nodes := self._talk.present()) < (least := needed()):
            if (nodes, least) != reported:
                reported = (nodes, least)
                missing = self.missing(nodes)
                self._folder.event("waiting", connected=len(nodes), needed=least, missing=missing)
            time.sleep(POLL_S)
        return nodes

    def wait_for_willing(self) -> None:
        """Wait for a quorum of sites whose admins, as far as is known, have answered the question about the plan."""
        while True:
            nodes = self.wait_for(self._folder.quorum)
            silent = [node for node in nodes if node in self._talk.awaited]
            if len(nodes) - len(silent) >= self._folder.quorum():
                return
            self._talk.ask(0, INITIAL, silent, self._checks.initial)
            time.sleep(WAIT_AFTER_FAILED_ROUND_S)

    def wait_before(self, tried: int) -> None:
        """Wait before repeating what was tried `tried` times; a site that comes or leaves ends the wait.

        Where a site has reported that its data are unavailable, the wait grows: the others repeat their work for it.
        """
        wait_s = WAIT_AFTER_FAILED_ROUND_S
        if self._talk.ailing:
            wait_s = min(LONGEST_WAIT_S, wait_s * 2 ** min(tried, 10)) * random.uniform(0.75, 1.25)  # noqa: S311
        until, there = time.monotonic() + wait_s, self._talk.present()
        while (left_s := until - time.monotonic()) > 0 and self._talk.present() == there:
            time.sleep(min(POLL_S, left_s))

    def missing(self, there: Iterable[int]) -> list[str]:
        """The sites that took part in this run before, without those in `there`."""
        return sorted(self._checks.cases.keys() - {self._talk.name_of(node) for node in there})

    def is_one_away(self, took_part: Set[int]) -> bool:
        """Whether a node that took part before is away; when it is back, a refusing site may not be needed."""
        return bool(took_part & self._talk.lost or took_part - set(self._talk.present()))

    def give_up_if(self, refused: int, what: str, found: int, needed: int) -> None:
        """End the run when sites that are present have kept it under its quorum too often. Raises UserError."""
        if refused == REFUSED_AT_MOST:
            raise UserError(
                f"{what} came to nothing",
                f"it was held {refused} times, and {found} of {needed} sites did their part; {self._talk.refusal}",
                "see the run's events and the sites' logs; when training diverges, lower training.learning_rate",
            )
