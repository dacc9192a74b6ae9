"""The messages of a run: sends them to the sites, and separates good replies from errors and refusals."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from ynet import weights
from ynet.errors import UserError
from ynet.federation.records import AWAITED, CONFIG, COOLDOWN_ROUND, COOLDOWN_ROUNDS, FINAL
from ynet.plan import Plan
from ynet.schedule import Cooldown
from ynet.weights import Layout
from ynet_server.hub.reply_errors import PASSING, is_lost
from ynet_server.rounds.run_folder import RunFolder


class SiteReply(NamedTuple):
    """What a node replied."""

    node: int
    content: RecordDict


class Conversation:
    """The exchange between one run and its sites. Each failure becomes an event of the run."""

    def __init__(self, grid: Grid, plan: Plan, folder: RunFolder, name_of: Callable[[int], str]) -> None:
        self._grid, self._plan, self._folder, self.name_of = grid, plan, folder, name_of
        self.awaited = set[int]()  # nodes whose admins have not decided about the plan yet
        self.refusal = ""  # newest reason why a present site sent nothing usable; reset before each request
        self.lost = set[int]()  # nodes that were away or late, or had no access to their data, at their last request
        self.ailing = set[int]()  # those of them that are present and reported a temporary fault

    def present(self) -> list[int]:
        """The nodes that are connected now."""
        return sorted(self._grid.get_node_ids())

    def ask(
        self, number: int, kind: str, nodes: Iterable[int], check: Callable[[SiteReply], object], **config: str | int
    ) -> list[SiteReply]:
        """Send the plan and `config` to each of `nodes`. Returns the good replies."""
        content = RecordDict({CONFIG: ConfigRecord({"plan": self._plan.canonical(), **config})})
        messages = [Message(content=content, message_type=kind, dst_node_id=node) for node in nodes]
        return self.send(number, messages, check)

    def send(self, number: int, messages: Iterable[Message], check: Callable[[SiteReply], object]) -> list[SiteReply]:
        """Send, and wait for all answers or the deadline. Returns the good replies in the order of the nodes.

        `check` raises for a bad reply, which is then ignored.
        """
        answers = self._grid.send_and_receive(messages, timeout=self._plan.cohort.round_deadline_s)
        return self.good(number, answers, check)

    def late(self, number: int, answer: Message, check: Callable[[SiteReply], object]) -> SiteReply | None:
        """The good reply in an answer that came after round `number`'s deadline, if it is one."""
        return next(iter(self.good(number, [answer], check)), None)

    def good(self, number: int, answers: Iterable[Message], check: Callable[[SiteReply], object]) -> list[SiteReply]:
        """The good replies among the answers, in the order of the nodes. Records the others as events."""
        replies = []
        for answer in sorted(answers, key=lambda answer: answer.metadata.src_node_id):
            node = answer.metadata.src_node_id
            self.lost.discard(node)
            self.ailing.discard(node)
            if answer.has_error():
                self._failed(number, node, answer.error)
            elif AWAITED in answer.content.config_records.get(CONFIG, {}):
                self._await(node)
            elif self._accept(number, reply := SiteReply(node, answer.content), check):
                self.awaited.discard(node)
                replies.append(reply)
        return replies

    def _failed(self, number: int, node: int, error: Error) -> None:
        self._folder.event("site_failed", round=number, site=self.name_of(node), reason=error.reason)
        if error.code == PASSING:
            self.ailing.add(node)
        if is_lost(error.code):
            self.lost.add(node)
        else:
            self.refusal = f"site {self.name_of(node)} said: {error.reason}"

    def _await(self, node: int) -> None:
        """Record once that a site's admin has not decided yet; this is no refusal."""
        if node not in self.awaited:
            self.awaited.add(node)
            self._folder.event("awaited", site=self.name_of(node))

    def _accept(self, number: int, reply: SiteReply, check: Callable[[SiteReply], object]) -> bool:
        try:
            check(reply)
        except (LookupError, TypeError, ValueError, OverflowError, UserError) as error:
            why = error.why if isinstance(error, UserError) else "it is not of the form that was asked for"
            self.refuse(number, reply.node, why)
            return False
        return True

    def refuse(self, number: int, node: int, why: str) -> None:
        """Record that what a node sent in a round is refused, and why."""
        self.refusal = f"what site {self.name_of(node)} sent was refused: {why}"
        self._folder.event("update_refused", round=number, site=self.name_of(node), reason=why)


def round_config(
    plan: Plan, layout: Layout, cooldown: Cooldown | None = None, *, is_final: bool = False
) -> ConfigRecord:
    """The config of a round's messages: the plan, the layout of the weights, and with `rounds: auto` the phase.

    `cooldown` is the round's place in a cool-down that was called; `is_final` says that these weights are the result.
    """
    place = {} if cooldown is None else {COOLDOWN_ROUND: cooldown.round, COOLDOWN_ROUNDS: cooldown.rounds}
    final = {FINAL: True} if is_final else {}
    return ConfigRecord({"plan": plan.canonical(), "layout": weights.layout_to_json(layout), **place, **final})
