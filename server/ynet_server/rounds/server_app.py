"""The Flower ServerApp: the rounds of one run, read from top to bottom. It does not know what carries it."""

import contextlib
import itertools
import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp

from ynet import plan as plans
from ynet import weights
from ynet.errors import UserError
from ynet.federation import secure_sum, update_encoding
from ynet.federation.records import ARRAYS, CASES, CONFIG, INITIAL, METRICS, flat_weights, form, weights_record
from ynet.federation.secure_sum import Purpose
from ynet.plan import Plan
from ynet.runtime import memory
from ynet.weights import Flat, Layout
from ynet_server.rounds.conversation import Conversation, Reply
from ynet_server.rounds.privacy_statement import statement
from ynet_server.rounds.run_folder import RunFolder, State
from ynet_server.rounds.secure_aggregation import LostError, SecureSums, Sum, TooFewError
from ynet_server.rounds.site_report import Said, ledgers, said_by, said_late, scores
from ynet_server.rounds.stale_updates import Late, rebased
from ynet_server.rounds.strategies import aggregate, carried, carry_on, strategy
from ynet_server.rounds.update_filter import Gate, late_key

POLL_S = 0.1
WAIT_AFTER_FAILED_ROUND_S = 2.0
LONGEST_WAIT_S = 60.0
"""Before a round is held again. It grows to the longer one while a site says that its data are away."""

LOST_AT_MOST = 3
"""Rounds one after the other of which nothing is left, before the run ends."""

REFUSED_AT_MOST = 3
"""How often a round is held again though its sites are there: who says no or diverges does so every time."""

Form = dict[str, tuple[int, ...]]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the plan that the run's configuration names: `plan`, a YAML or JSON file, and `output`, a folder."""
    folder, plan = RunFolder(Path(str(context.run_config["output"]))), Path(str(context.run_config["plan"]))
    federate(grid, folder.create(plans.read(plan), plans.init_file(plan)))


def federate(
    grid: Grid,
    folder: RunFolder,
    name_of: Callable[[int], str] = str,
    cases_of: Callable[[int], int | None] = lambda _: None,
    after_round: Callable[[State], None] = lambda _: None,
) -> str:
    """Train the folder's plan with the sites on `grid`, going on after the last whole round; the model's id.

    `name_of` gives a node its site's name, for the record; `cases_of` the training cases that it is known to have,
    if they are known; `after_round` is shown the state after each round. Raises UserError when the sites' networks
    differ, and when the weights grow beyond bounds.
    """
    plan = folder.plan()
    rounds = _Rounds(grid, plan, folder, name_of, cases_of)
    with contextlib.closing(rounds.late):
        state = _trained(rounds, plan, folder, after_round)
    chosen = strategy(plan)
    found = rounds.evaluate(chosen, state.round, state)
    card = {"plan": plan.name, "rounds": state.round, "sites": rounds.cases, "scores": found}
    card["privacy"] = statement(plan, folder.events())
    model = folder.save_model(weights.unflatten(state.best, state.layout), card)
    folder.event("finished", model=model)
    return model


def _trained(rounds: "_Rounds", plan: Plan, folder: RunFolder, after_round: Callable[[State], None]) -> State:
    """The state after the last round, each one kept as soon as it is whole."""
    state = folder.state() or rounds.initial()
    rounds.cases.update(state.cases)
    chosen = strategy(plan)
    carry_on(chosen, state.carried)
    for number in range(state.round + 1, plan.training.rounds + 1):
        flat = rounds.train(chosen, number, state)
        average = moving_average(plan, number, state.average, flat)
        state = State(number, flat, state.layout, rounds.cases, average, carried(chosen))
        folder.add_seen(rounds.gate.news())  # before the state: a round that is on the disk can be replayed to nobody
        folder.save_state(state)
        rounds.sums.forget()
        memory.give_back()
        after_round(state)
        if number % plan.training.evaluate_every == 0 and number < plan.training.rounds:
            rounds.evaluate(chosen, number, state)
    return state


class _Update(NamedTuple):
    """What a round's sites made."""

    replies: list[Reply]  # for the strategy: of each site one, or one of all sites' mean; none when it was lost
    said: list[Said]


class _Rounds:
    """One run's conversations with its sites."""

    def __init__(
        self,
        grid: Grid,
        plan: Plan,
        folder: RunFolder,
        name_of: Callable[[int], str],
        cases_of: Callable[[int], int | None],
    ) -> None:
        self._grid, self._plan, self._folder, self._cases_of = grid, plan, folder, cases_of
        self._talk = Conversation(grid, plan, folder, name_of)
        self.sums = SecureSums(self._talk, plan, folder)
        self.gate = Gate(plan.training.update_norm_limit, folder.seen())
        self.late = Late(grid, self._talk, folder, uses=plan.cohort.late_updates == "use")
        self._arrived = list[int]()  # nodes whose updates the round that is held has
        self._took_part = set[int]()  # nodes whose updates have counted
        self._lost = 0  # rounds one after the other whose secure sum came to nothing
        self.cases: dict[str, int] = {}  # by site: what it named first in this run, and its updates weigh at most

    def initial(self) -> State:
        """Initial weights: each site makes them from the plan's seed; all layouts must agree; one set is taken."""
        asked, refused, told, good = list[int](), 0, -1, dict[int, Reply]()
        for tried in itertools.count():
            nodes = self._wait_for(lambda: self._plan.cohort.min_sites)
            if nodes != asked:
                asked, refused = nodes, 0
            self._talk.refusal = ""
            found = self._talk.ask(0, INITIAL, [node for node in nodes if node not in good], self._check_initial)
            good = {node: good[node] for node in nodes if node in good} | {reply.node: reply for reply in found}
            if len(good) >= self._plan.cohort.min_sites:
                break
            refused += bool(self._talk.refusal)
            self._give_up_if(refused, "the run's beginning", len(good), self._plan.cohort.min_sites)
            if len(good) != told:
                told = len(good)
                needed = self._plan.cohort.min_sites
                self._folder.event("waiting", connected=len(good), needed=needed, missing=self._missing(list(good)))
            self._wait_before(tried)
        replies = [good[node] for node in sorted(good)]
        layouts = {str(reply.content[CONFIG]["layout"]) for reply in replies}
        if len(layouts) > 1:
            raise UserError(
                "the run cannot start",
                "the sites build different networks from one plan",
                "install the same ynet everywhere (ynet-server sites shows the versions)",
            )
        layout = weights.layout_from_json(layouts.pop())
        flat = flat_weights(replies[0].content.array_records[ARRAYS])
        given = self._folder.init()
        if given is not None:
            flat = weights.flatten(weights.begun_with(weights.unflatten(flat, layout), given))
        self._folder.event(
            "started",
            sites=[self._talk.name_of(reply.node) for reply in replies],
            parameters=int(flat.size),
            given=sum(array.size for array in (given or {}).values()),
        )
        state = State(0, flat, layout, self.cases)
        self._folder.save_state(state)
        return state

    def train(self, chosen: Any, number: int, state: State) -> Flat:
        """One round: weights out, updates in, aggregated. A round under its quorum is held again.

        Of a secure sum that cannot be read nothing is left: the weights stay as they are, and the next round follows.
        """
        begun, refused, tried = time.monotonic(), 0, itertools.count()
        while (update := self._update(chosen, number, state)) is None:
            refused += bool(self._talk.refusal) and not self._is_one_away()
            quorum = self._folder.quorum()
            self._give_up_if(refused, f"round {number}", len(self._arrived), quorum)
            missing = self._missing(self._arrived)
            self._folder.event("under_quorum", round=number, updates=len(self._arrived), quorum=quorum, missing=missing)
            self._wait_before(next(tried))
        if not update.replies:
            return state.flat
        made = aggregate(chosen, self._plan, number, update.replies, state.flat)
        flat = _checked(made.flat, state.layout)
        left_out = sorted(self._talk.name_of(node) for node in made.left_out)
        self._folder.event(
            "round",
            round=number,
            rounds=self._plan.training.rounds,
            seconds=round(time.monotonic() - begun, 3),
            sites={one.site: one.figures for one in update.said},
            **({"left_out": left_out} if left_out else {}),
            **ledgers(update.said),
        )
        return flat

    def _update(self, chosen: Any, number: int, state: State) -> _Update | None:
        """What a round's sites made, for the strategy to aggregate; None under the quorum."""
        if made := self.sums.pending(number):
            return self._read(made)
        self._wait_for_willing()
        arrays = weights_record(state.flat)
        messages = list(chosen.configure_train(number, arrays, self._config(state.layout), self._grid))
        purpose = self._purpose(number, state, messages)
        if purpose:
            check: Callable[[Reply], None] = partial(self._check_offer, purpose=purpose)
        else:
            check = partial(self._check_update, flat=state.flat, layout=state.layout, sent=form(arrays))
        del arrays
        self._talk.refusal = ""
        if not purpose:
            return self._plain(number, state, messages, check)
        replies = self._talk.send(number, messages, check)
        del messages
        said = {reply.node: said_by(self._talk.name_of(reply.node), reply) for reply in replies}
        self._arrived = [reply.node for reply in replies]
        if len(replies) < self._folder.quorum():
            return None
        self._took_part.update(said)
        try:
            return self._read(self.sums.collect(replies, purpose, said, state.flat.size))
        except TooFewError as error:
            self._arrived = self._arrived[: error.left]
            return None

    def _plain(
        self, number: int, state: State, messages: list[Message], check: Callable[[Reply], None]
    ) -> _Update | None:
        """The updates of a round that is not summed secretly, and what it takes of those that were late for the last.

        Late ones count for no quorum.
        """
        answers = self.late.send(number, messages, self._plan.cohort.round_deadline_s, state.flat, check)
        if answers is None:
            replies = self._talk.send(number, messages, check)
        else:
            replies = self._talk.good(number, answers, check)
        messages.clear()
        late = [(one.reply, one.begun) for one in self.late.arrived(number)]
        judged = self.gate.admit(number, replies, state.flat, self._talk, late)
        good = [reply for reply in replies if reply.node not in judged.refused]
        self._arrived = [reply.node for reply in good]
        if len(good) < self._folder.quorum():
            return None
        said = {
            reply.node: said_by(self._talk.name_of(reply.node), reply).with_change(judged.change[reply.node])
            for reply in good
        }
        for one in self.late.settle(number, {late_key(key): why for key, why in judged.refused.items() if key < 0}):
            node = one.reply.node
            told = said_by(self._talk.name_of(node), one.reply).with_change(judged.change[late_key(node)])
            said[node] = said_late(said.get(node, told), number - one.round)
            good.append(rebased(one, number, state.flat))
        self._took_part.update(said)
        return _Update(good, list(said.values()))

    def _purpose(self, number: int, state: State, messages: list[Message]) -> Purpose | None:
        """What a round's sum is for, when it is a secure one."""
        if self._plan.aggregation != "secure" or not messages:
            return None
        mu: Any = messages[0].content.config_records[CONFIG].get("proximal-mu", 0.0)
        return Purpose(self._plan.id, number, 1, secure_sum.beginning(state.flat, float(mu)))

    def _read(self, made: Sum) -> _Update:
        """The mean of a secure sum, as if one site had sent it; nothing when the sum cannot be read."""
        try:
            mean = self.sums.read(made)
        except LostError as error:
            self._lost += 1
            self._folder.event("round_lost", round=made.round, reason=str(error))
            if self._lost == LOST_AT_MOST:
                do = "see the run's events and the sites' logs"
                raise UserError(f"{LOST_AT_MOST} rounds one after the other were lost", str(error), do) from None
            return _Update([], [])
        self._lost = 0
        cases = sum(one.cases for one in made.sites.values())
        record = RecordDict({ARRAYS: weights_record(mean), METRICS: MetricRecord({CASES: cases})})
        node = next(iter(made.sites))
        return _Update([Reply(node, record)], list(made.sites.values()))

    def evaluate(self, chosen: Any, number: int, state: State) -> dict[str, dict[str, Any]]:
        """Each site's scores on its own test split, None where one rests on nothing; sites without one are left out.

        Nobody is asked under a private plan that lets none leave.
        """
        if self._plan.privacy.scores == "none":
            return {}
        messages = chosen.configure_evaluate(number, weights_record(state.best), self._config(state.layout), self._grid)
        classes = self._plan.classes
        replies = self._talk.send(number, messages, lambda reply: scores(reply, classes))
        by_site = {self._talk.name_of(reply.node): scores(reply, classes) for reply in replies}
        self._folder.event("evaluated", round=number, sites=by_site)
        return by_site

    def _give_up_if(self, refused: int, what: str, found: int, needed: int) -> None:
        """End the run when sites that are there have kept it from its quorum too often."""
        if refused == REFUSED_AT_MOST:
            raise UserError(
                f"{what} came to nothing",
                f"it was held {refused} times, and {found} of {needed} sites did their part; {self._talk.refusal}",
                "see the run's events and the sites' logs; when training diverges, lower training.learning_rate",
            )

    def _wait_before(self, tried: int) -> None:
        """Wait before what was tried `tried` times before is tried again; sites that come or go end it.

        Where a site has said that its data are away, longer each time: the others do their work again for it.
        """
        wait_s = WAIT_AFTER_FAILED_ROUND_S
        if self._talk.ailing:
            wait_s = min(LONGEST_WAIT_S, wait_s * 2 ** min(tried, 10)) * random.uniform(0.75, 1.25)  # noqa: S311
        until, there = time.monotonic() + wait_s, self._talk.present()
        while (left_s := until - time.monotonic()) > 0 and self._talk.present() == there:
            time.sleep(min(POLL_S, left_s))

    def _is_one_away(self) -> bool:
        """Whether a site that took part before is not there: with it, those who are refused may not be needed."""
        return bool(self._took_part & self._talk.lost or self._took_part - set(self._talk.present()))

    def _config(self, layout: Layout) -> ConfigRecord:
        return ConfigRecord({"plan": self._plan.canonical(), "layout": weights.layout_to_json(layout)})

    def _wait_for_willing(self) -> None:
        """Back when a quorum is there of sites whose admins have not left the plan unanswered, as far as is known."""
        while True:
            nodes = self._wait_for(self._folder.quorum)
            silent = [node for node in nodes if node in self._talk.awaited]
            if len(nodes) - len(silent) >= self._folder.quorum():
                return
            self._talk.ask(0, INITIAL, silent, self._check_initial)
            time.sleep(WAIT_AFTER_FAILED_ROUND_S)

    def _wait_for(self, needed: Callable[[], int]) -> list[int]:
        """The nodes that are there, when they are as many as needed, which may change meanwhile."""
        told: tuple[list[int], int] | None = None
        while len(nodes := self._talk.present()) < (least := needed()):
            if (nodes, least) != told:
                told = (nodes, least)
                missing = self._missing(nodes)
                self._folder.event("waiting", connected=len(nodes), needed=least, missing=missing)
            time.sleep(POLL_S)
        return nodes

    def _missing(self, there: Iterable[int]) -> list[str]:
        """The sites that took part in this run before, but for those that are there."""
        return sorted(self.cases.keys() - {self._talk.name_of(node) for node in there})

    def _check_initial(self, reply: Reply) -> None:
        layout = weights.layout_from_json(str(reply.content[CONFIG]["layout"]))
        _checked(flat_weights(reply.content.array_records[ARRAYS]), layout)
        self._weigh(reply)

    def _check_update(self, reply: Reply, flat: Flat, layout: Layout, sent: Form) -> None:
        arrays, encoding = reply.content.array_records[ARRAYS], self._plan.training.update_encoding
        update = flat_weights(arrays)
        if encoding != "float32":
            update = flat + update_encoding.decode(update, layout, encoding)
            reply.content[ARRAYS] = arrays = weights_record(update)
        _checked(update, layout)
        if form(arrays) != sent:
            raise ValueError("not in the blocks in which they were sent")
        self._weigh(reply)

    def _check_offer(self, reply: Reply, purpose: Purpose) -> None:
        """A site weighs its own update in a secure sum: one that claims too many cases is left out of it."""
        self.sums.check_offer(reply, purpose)
        claimed = int(reply.content.metric_records[METRICS][CASES])  # type: ignore[arg-type]
        self._weigh(reply)
        if int(reply.content.metric_records[METRICS][CASES]) < claimed:  # type: ignore[arg-type]
            raise UserError("update", "it claims more cases than the site had", "")

    def _weigh(self, reply: Reply) -> None:
        """A site's cases count no higher than it first named them, to the coordinator and in this run."""
        site, metrics = self._talk.name_of(reply.node), reply.content.metric_records[METRICS]
        claimed, known = int(metrics[CASES]), self._cases_of(reply.node)  # type: ignore[arg-type]
        cap = self.cases.get(site, claimed if known is None else known)
        if min(claimed, cap) <= 0:
            raise UserError("update", "it claims no cases", "")
        metrics[CASES] = min(claimed, cap)
        self.cases.setdefault(site, min(claimed, cap))


def moving_average(plan: Plan, number: int, average: Flat | None, flat: Flat) -> Flat | None:
    """The moving average of the weights after round `number`, from 1; the first rounds count for more.

    The share that stays of it is at most (1 + n) / (10 + n), as in TensorFlow's ExponentialMovingAverage.
    """
    if not plan.training.moving_average:
        return None
    stays = min(plan.training.moving_average, (1 + number) / (10 + number))
    return flat if average is None else (stays * average + (1 - stays) * flat).astype(np.float32)


def _checked(flat: Flat, layout: Layout) -> Flat:
    weights.unflatten(flat, layout)
    if flat.dtype != np.float32:
        raise UserError("the weights are refused", f"they are {flat.dtype}, not float32", "update ynet")
    if not np.isfinite(flat).all():
        raise UserError("the weights are refused", "they hold a value that is not finite", "lower the learning rate")
    return flat
