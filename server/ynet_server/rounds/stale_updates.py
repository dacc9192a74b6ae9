"""Updates that come after their round's deadline: the next round may use them (`cohort.late_updates: use`).

A late update was trained from older weights. Its difference to those is added to the current weights, beside the site's
own update of the current round. Its weight falls with the number of rounds by which it is late (polynomial staleness:
Xie et al. 2019, FedAsync; Nguyen et al. 2022, FedBuff, with the same exponent). It passes the update filter like any
other update.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from ynet.federation.records import ARRAYS, CASES, METRICS, flat_weights, weights_record
from ynet.weights import Flat
from ynet_server.rounds.conversation import Conversation, SiteReply
from ynet_server.rounds.run_folder import RunFolder

STALENESS_EXPONENT = -0.5
"""An update that is s rounds late weighs (1 + s) to this power, times its cases."""
ROUNDS_OPEN = 3
"""How long a site may continue an update, in deadlines: the rest of its round, an evaluation, the next round."""


@runtime_checkable
class KeepsOpen(Protocol):
    """A Grid that can keep late tasks open. Other Grids drop them."""

    def send_and_keep(
        self, messages: Iterable[Message], *, timeout: float, open_s: float
    ) -> tuple[list[Message], dict[int, str]]:
        """As Flower's `send_and_receive`, but late tasks continue for `open_s` seconds; returns their ids by node."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that have arrived, each once."""

    def call_off(self, message_ids: Iterable[str]) -> None:
        """Cancel these messages."""


class OpenUpdate(NamedTuple):
    """An update that is awaited after its round."""

    id: str
    round: int
    begun: Flat  # the weights that it was trained from
    check: Callable[[SiteReply], object]  # raises for a bad update


class StaleUpdate(NamedTuple):
    """A late update that has arrived."""

    reply: SiteReply
    round: int
    begun: Flat


def weight(staleness: int) -> float:
    """The share of its cases that an update counts for when it is `staleness` rounds late."""
    return float((1 + staleness) ** STALENESS_EXPONENT)


def rebased(stale: StaleUpdate, number: int, flat: Flat) -> SiteReply:
    """A late update as round `number` aggregates it: its difference on the current weights, weighted down."""
    update = flat_weights(stale.reply.content.array_records[ARRAYS])
    stale.reply.content[ARRAYS] = weights_record((flat + (update - stale.begun)).astype(flat.dtype))
    metrics = stale.reply.content.metric_records[METRICS]
    metrics[CASES] = float(metrics[CASES]) * weight(number - stale.round)  # type: ignore[arg-type]
    return stale.reply


class StaleUpdates:
    """The late updates of one run; always none where the plan drops them."""

    def __init__(self, grid: Grid, talk: Conversation, folder: RunFolder, *, uses: bool) -> None:
        self._grid = grid if uses and isinstance(grid, KeepsOpen) else None
        self._talk, self._folder = talk, folder
        self._open: dict[int, OpenUpdate] = {}  # by node
        self._arrived: dict[int, StaleUpdate] = {}

    def send(
        self,
        number: int,
        messages: Sequence[Message],
        deadline_s: float,
        begun: Flat,
        check: Callable[[SiteReply], object],
    ) -> list[Message] | None:
        """Send, and return the answers before the deadline; where late updates are dropped, send nothing, return None.

        Cancels late updates of the same round when it is repeated: the sites start it again.
        """
        if self._grid is None:
            return None
        self._call_off(node for node, one in self._open.items() if one.round == number)
        answers, left_open = self._grid.send_and_keep(messages, timeout=deadline_s, open_s=ROUNDS_OPEN * deadline_s)
        self._take()
        for node, name in left_open.items():
            if node in self._open:
                self._end(node, number, "it was not there before the next round's deadline either")
            self._open[node] = OpenUpdate(name, number, begun, check)
        return answers

    def arrived(self, number: int) -> list[StaleUpdate]:
        """The updates of the round before that arrived during round `number`, in the order of the nodes."""
        return [one for _, one in sorted(self._arrived.items()) if one.round == number - 1]

    def settle(self, number: int, refused: Mapping[int, str]) -> list[StaleUpdate]:
        """Return the arrived updates that round `number` uses, now that it counts, and drop the others.

        `refused` maps a node to the reason why its update was refused.
        """
        taken = list[StaleUpdate]()
        for node, one in sorted(self._arrived.items()):
            why = refused.get(node)
            if one.round != number - 1:
                why = f"it is of round {one.round}"
            if why is None:
                taken.append(one)
            self._tell(node, number, one.round, why)
        self._arrived.clear()
        for node in [node for node, one in self._open.items() if one.round < number]:
            self._end(node, number, "it was not there before the next round's end either")
        return taken

    def close(self) -> None:
        """Cancel what is still open at the end of the run's rounds."""
        self._call_off(list(self._open))

    # --- within

    def _take(self) -> None:
        """Collect the open updates that have arrived."""
        assert self._grid is not None  # noqa: S101 (nothing is open without)
        names = {one.id: node for node, one in self._open.items()}
        for answer in self._grid.pull_messages(list(names)):
            node = answer.metadata.src_node_id
            one = self._open.pop(node)
            reply = self._talk.late(one.round, answer, one.check)
            if reply is not None:
                self._arrived[node] = StaleUpdate(reply, one.round, one.begun)

    def _end(self, node: int, number: int, why: str) -> None:
        of = self._open[node].round
        self._call_off([node])
        self._tell(node, number, of, why)

    def _call_off(self, nodes: Iterable[int]) -> None:
        gone = [self._open.pop(node).id for node in list(nodes)]
        if gone and self._grid is not None:
            self._grid.call_off(gone)

    def _tell(self, node: int, number: int, of: int, why: str | None) -> None:
        values = {"round": number, "site": self._talk.name_of(node), "of": of}
        self._folder.event("late", **values, outcome="used" if why is None else "dropped", reason=why or "")
