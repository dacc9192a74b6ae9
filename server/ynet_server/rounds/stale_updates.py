"""Updates that come after their round's deadline: the next round may use them (`cohort.late_updates: use`).

Such an update was trained from weights that have moved on since. What counts of it is the difference that it made to
those, put onto the weights of now, beside what the site makes in the meantime; and it weighs less, by how many rounds
it is behind (polynomial staleness: Xie et al. 2019, FedAsync; Nguyen et al. 2022, FedBuff, with the same exponent). It
passes the gate as any other does.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from flwr.app import Message
from flwr.serverapp import Grid

from ynet.federation.records import ARRAYS, CASES, METRICS, flat_weights, weights_record
from ynet.weights import Flat
from ynet_server.rounds.conversation import Conversation, Reply
from ynet_server.rounds.run_folder import RunFolder

STALENESS_EXPONENT = -0.5
"""What an update weighs that is s rounds behind: (1 + s) to this power of its cases."""
ROUNDS_OPEN = 3
"""How long a site may go on with an update, in deadlines: the rest of its round, an evaluation, the next round."""


@runtime_checkable
class KeepsLate(Protocol):
    """A Grid that can leave open what is late. One that cannot, drops it."""

    def send_and_keep(
        self, messages: Iterable[Message], *, timeout: float, open_s: float
    ) -> tuple[list[Message], dict[int, str]]:
        """As Flower's `send_and_receive`, but what is late goes on for `open_s`: by node, under which name."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What has come of these, each once."""

    def call_off(self, message_ids: Iterable[str]) -> None:
        """Nobody waits for these any more."""


class Open(NamedTuple):
    """An update that is awaited beyond its round."""

    id: str
    round: int
    begun: Flat  # the weights that it is trained from
    check: Callable[[Reply], object]  # raises for what is no update


class Arrived(NamedTuple):
    """One that has come."""

    reply: Reply
    round: int
    begun: Flat


def weight(staleness: int) -> float:
    """The share of its cases that an update counts for, so many rounds behind; 1 for none."""
    return float((1 + staleness) ** STALENESS_EXPONENT)


def rebased(late: Arrived, number: int, flat: Flat) -> Reply:
    """A late update as round `number`'s strategy takes it: its difference on today's weights, at its weight."""
    update = flat_weights(late.reply.content.array_records[ARRAYS])
    late.reply.content[ARRAYS] = weights_record((flat + (update - late.begun)).astype(flat.dtype))
    metrics = late.reply.content.metric_records[METRICS]
    metrics[CASES] = float(metrics[CASES]) * weight(number - late.round)  # type: ignore[arg-type]
    return late.reply


class Late:
    """Those of one run. Where the plan drops them, there are never any."""

    def __init__(self, grid: Grid, talk: Conversation, folder: RunFolder, *, uses: bool) -> None:
        self._grid = grid if uses and isinstance(grid, KeepsLate) else None
        self._talk, self._folder = talk, folder
        self._open: dict[int, Open] = {}  # by node
        self._arrived: dict[int, Arrived] = {}

    def send(
        self, number: int, messages: Sequence[Message], deadline_s: float, begun: Flat, check: Callable[[Reply], object]
    ) -> list[Message] | None:
        """What was answered before the deadline; None where late updates are dropped, and nothing was sent.

        What is late of the same round, which is held again, is called off: the sites begin it anew.
        """
        if self._grid is None:
            return None
        self._call_off(node for node, one in self._open.items() if one.round == number)
        answers, left_open = self._grid.send_and_keep(messages, timeout=deadline_s, open_s=ROUNDS_OPEN * deadline_s)
        self._take()
        for node, name in left_open.items():
            if node in self._open:
                self._end(node, number, "it was not there before the next round's deadline either")
            self._open[node] = Open(name, number, begun, check)
        return answers

    def arrived(self, number: int) -> list[Arrived]:
        """The updates of the round before that came while round `number` was under way, in the order of the nodes."""
        return [one for _, one in sorted(self._arrived.items()) if one.round == number - 1]

    def settle(self, number: int, refused: Mapping[int, str]) -> list[Arrived]:
        """Round `number` counts: what it takes of those that arrived. The others, and what is later still, are dropped.

        `refused`: by node, why it was kept out.
        """
        taken = list[Arrived]()
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
        """The run's rounds are over: nothing is waited for."""
        self._call_off(list(self._open))

    # --- within

    def _take(self) -> None:
        """Look what has come of what was open."""
        assert self._grid is not None  # noqa: S101 (nothing is open without)
        names = {one.id: node for node, one in self._open.items()}
        for answer in self._grid.pull_messages(list(names)):
            node = answer.metadata.src_node_id
            one = self._open.pop(node)
            reply = self._talk.late(one.round, answer, one.check)
            if reply is not None:
                self._arrived[node] = Arrived(reply, one.round, one.begun)

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
