"""One round: weights out, updates in, checked, filtered and aggregated; repeated while it is under its quorum."""

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from ynet.errors import UserError
from ynet.federation import secure_sum
from ynet.federation.records import ARRAYS, CASES, CONFIG, METRICS, form, weights_record
from ynet.federation.secure_sum import Purpose
from ynet.plan import Plan
from ynet.schedule import Cooldown
from ynet.weights import Flat
from ynet_server.rounds.attendance import Attendance
from ynet_server.rounds.carried_arrays import CarriedArrays
from ynet_server.rounds.conversation import Conversation, SiteReply, round_config
from ynet_server.rounds.reply_checks import ReplyChecks, finite
from ynet_server.rounds.run_end import AutoRounds, FixedRounds
from ynet_server.rounds.run_folder import RunFolder, State
from ynet_server.rounds.secure_aggregation import LostError, SecureSums, Sum, TooFewError
from ynet_server.rounds.site_report import SiteReport, ledgers, report_of, with_staleness
from ynet_server.rounds.stale_updates import StaleUpdates, rebased
from ynet_server.rounds.strategies import aggregate
from ynet_server.rounds.update_filter import UpdateFilter, stale_key

LOST_AT_MOST = 3
"""Consecutive rounds whose secure sum cannot be read, before the run ends."""


class _Updates(NamedTuple):
    """What a round's sites sent."""

    replies: list[SiteReply]  # for the strategy: one of each site, or one with all sites' mean; none when it was lost
    reports: list[SiteReport]


class TrainingRounds:
    """The rounds of one run."""

    def __init__(
        self,
        grid: Grid,
        plan: Plan,
        folder: RunFolder,
        talk: Conversation,
        checks: ReplyChecks,
        attendance: Attendance,
        carried: CarriedArrays,
    ) -> None:
        self.carried = carried
        self._grid, self.plan, self._folder = grid, plan, folder
        self._talk, self.checks, self._attendance = talk, checks, attendance
        self.sums = SecureSums(talk, plan, folder)
        self.filter = UpdateFilter(plan.training.update_norm_limit, folder.seen())
        self.stale = StaleUpdates(grid, talk, folder, uses=plan.cohort.late_updates == "use")
        self._arrived = list[int]()  # nodes whose updates the current round has
        self._took_part = set[int]()  # nodes whose updates have counted in this run
        self._lost = 0  # consecutive rounds whose secure sum could not be read

    def train(self, chosen: FedAvg, number: int, state: State, end: FixedRounds | AutoRounds) -> Flat:
        """Train one round and aggregate it. Returns the new weights. A round under its quorum is repeated.

        A secure sum that cannot be read leaves the weights unchanged, and the next round follows.
        """
        begun, refused, tried = time.monotonic(), 0, itertools.count()
        whole, state = state, self.carried.trained(state)
        while (updates := self._updates(chosen, number, state, end.place(number))) is None:
            refused += bool(self._talk.refusal) and not self._attendance.is_one_away(self._took_part)
            quorum, found = self._folder.quorum(), len(self._arrived)
            self._attendance.give_up_if(refused, f"round {number}", found, quorum)
            missing = self._attendance.missing(self._arrived)
            self._folder.event("under_quorum", round=number, updates=found, quorum=quorum, missing=missing)
            self._attendance.wait_before(next(tried))
        if not updates.replies:
            return whole.flat
        made = aggregate(chosen, self.plan, number, updates.replies, state.flat)
        flat = finite(self.carried.whole(made.flat, whole), whole.layout)
        left_out = sorted(self._talk.name_of(node) for node in made.left_out)
        self._folder.event(
            "round",
            round=number,
            rounds=end.rounds,
            seconds=round(time.monotonic() - begun, 3),
            sites={one.site: one.figures for one in updates.reports},
            **({"left_out": left_out} if left_out else {}),
            **ledgers(updates.reports),
        )
        return flat

    def _updates(self, chosen: FedAvg, number: int, state: State, cooldown: Cooldown | None) -> _Updates | None:
        """Send the weights and collect the updates. Returns None under the quorum."""
        if made := self.sums.pending(number):
            return self._read(made)
        self._attendance.wait_for_willing()
        arrays = weights_record(state.flat)
        config = round_config(self.plan, state.layout, cooldown)
        config.update(self.carried.config())
        messages = list(chosen.configure_train(number, arrays, config, self._grid))
        self._talk.refusal = ""
        if purpose := self._purpose(number, state, messages, cooldown):
            del arrays
            return self._secure(state, messages, purpose)
        check = partial(self.checks.update, flat=state.flat, layout=state.layout, sent=form(arrays))
        del arrays
        return self._plain(number, state, messages, check)

    def _plain(
        self, number: int, state: State, messages: list[Message], check: Callable[[SiteReply], None]
    ) -> _Updates | None:
        """The updates of a plain round, and the usable late ones of the round before, which count for no quorum."""
        answers = self.stale.send(number, messages, self.plan.cohort.round_deadline_s, state.flat, check)
        if answers is None:
            replies = self._talk.send(number, messages, check)
        else:
            replies = self._talk.good(number, answers, check)
        messages.clear()
        stale = [(one.reply, one.begun) for one in self.stale.arrived(number)]
        judged = self.filter.admit(number, replies, state.flat, self._talk, stale)
        good = [reply for reply in replies if reply.node not in judged.refused]
        self._arrived = [reply.node for reply in good]
        if len(good) < self._folder.quorum():
            return None
        reports = {
            reply.node: report_of(self._talk.name_of(reply.node), reply).with_change(judged.change[reply.node])
            for reply in good
        }
        refused = {stale_key(key): why for key, why in judged.refused.items() if key < 0}
        for one in self.stale.settle(number, refused):
            node = one.reply.node
            own = report_of(self._talk.name_of(node), one.reply).with_change(judged.change[stale_key(node)])
            reports[node] = with_staleness(reports.get(node, own), number - one.round)
            good.append(rebased(one, number, state.flat))
        self._took_part.update(reports)
        return _Updates(good, list(reports.values()))

    def _secure(self, state: State, messages: list[Message], purpose: Purpose) -> _Updates | None:
        """The mean of a round's masked updates. Returns None when too few sites are left for it."""
        replies = self._talk.send(purpose.round, messages, partial(self._check_offer, purpose=purpose))
        messages.clear()
        reports = {reply.node: report_of(self._talk.name_of(reply.node), reply) for reply in replies}
        self._arrived = [reply.node for reply in replies]
        if len(replies) < self._folder.quorum():
            return None
        self._took_part.update(reports)
        try:
            return self._read(self.sums.collect(replies, purpose, reports, state.flat.size))
        except TooFewError as error:
            self._arrived = self._arrived[: error.left]
            return None

    def _check_offer(self, reply: SiteReply, purpose: Purpose) -> None:
        self.sums.check_offer(reply, purpose)
        self.checks.weigh_own(reply)

    def _purpose(self, number: int, state: State, messages: list[Message], cooldown: Cooldown | None) -> Purpose | None:
        """What a round's sum is for; None in a plan without secure aggregation."""
        if self.plan.aggregation != "secure" or not messages:
            return None
        mu: Any = messages[0].content.config_records[CONFIG].get("proximal-mu", 0.0)
        return Purpose(
            self.plan.id, number, 1, secure_sum.beginning(state.flat, float(mu), cooldown, self.carried.rest)
        )

    def _read(self, made: Sum) -> _Updates:
        """The mean of a secure sum, as if one site had sent it; no update when the sum cannot be read."""
        try:
            mean = self.sums.read(made)
        except LostError as error:
            self._lost += 1
            self._folder.event("round_lost", round=made.round, reason=str(error))
            if self._lost == LOST_AT_MOST:
                do = "see the run's events and the sites' logs"
                raise UserError(f"{LOST_AT_MOST} rounds one after the other were lost", str(error), do) from None
            return _Updates([], [])
        self._lost = 0
        cases = sum(one.cases for one in made.sites.values())
        record = RecordDict({ARRAYS: weights_record(mean), METRICS: MetricRecord({CASES: cases})})
        node = next(iter(made.sites))
        return _Updates([SiteReply(node, record)], list(made.sites.values()))
