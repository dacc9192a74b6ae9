"""The code of a model: the sites send the moments of their features, and the server computes the code from their sum.

It happens before each evaluation and before the model is published, with the weights that are evaluated. The code's
arrays are then a part of these weights, and of the model's id.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict

from ynet import code_map, weights
from ynet.code_map import FeatureMoments
from ynet.code_shapes import moments_size
from ynet.errors import UserError
from ynet.federation import secure_sum
from ynet.federation.records import ARRAYS, CASES, CONFIG, FEATURES, METRICS, MOMENTS, flat_weights, weights_record
from ynet.federation.secure_sum import Purpose
from ynet.fixed_arrays import CODE
from ynet.network_size import code_sizes
from ynet.plan import Plan
from ynet.weights import Arrays
from ynet_server.rounds.attendance import Attendance
from ynet_server.rounds.carried_arrays import CarriedArrays
from ynet_server.rounds.conversation import Conversation, SiteReply, round_config
from ynet_server.rounds.reply_checks import ReplyChecks
from ynet_server.rounds.run_folder import RunFolder, State
from ynet_server.rounds.secure_aggregation import LostError, SecureSums, Sum, TooFewError
from ynet_server.rounds.site_report import SiteReport, report_of
from ynet_server.rounds.update_filter import LEAST_TO_COMPARE

FILE = "code.safetensors"
"""The newest code, beside the digest of the weights that it is of: a restarted server uses it again."""


class CodeMoments:
    """Computes the code of one run's weights."""

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        talk: Conversation,
        checks: ReplyChecks,
        attendance: Attendance,
        arrays: CarriedArrays,
    ) -> None:
        self._plan, self._folder, self._arrays = plan, folder, arrays
        self._talk, self._checks, self._attendance = talk, checks, attendance
        self._sums = SecureSums(talk, plan, folder, MOMENTS)
        self._sizes = code_sizes(plan)

    def renewed(self, state: State) -> State:
        """The state with the code of its best weights; unchanged in a plan whose code is trained.

        It is asked for again while fewer sites than the quorum answer. Where a secure sum is lost, the code before it
        stays. Raises UserError when the sites that are present refuse, and when there is no code before.
        """
        if self._plan.code_form != "moments":
            return state
        try:
            return state.replaced(self._stored(state) or self._made(state))
        except LostError as error:
            self._folder.event("code_lost", round=state.round, reason=str(error))
            if not self._has_code(state):
                do = "see the run's events and the sites' logs"
                raise UserError("the code cannot be computed", str(error), do) from None
            return state

    def _made(self, state: State) -> Arrays:
        """The arrays of the code. Raises LostError, UserError."""
        refused, tried = 0, itertools.count()
        while (moments := self._moments(state)) is None:
            refused += bool(self._talk.refusal)
            quorum, missing = self._folder.quorum(), self._attendance.missing(self._talk.present())
            self._attendance.give_up_if(refused, f"the code after round {state.round}", 0, quorum)
            self._folder.event("under_quorum", round=state.round, updates=0, quorum=quorum, missing=missing)
            self._attendance.wait_before(next(tried))
        code_map.check_labelled(moments)
        network = self._plan.network
        found = code_map.code_map(moments, network.code_bits, self._plan.class_bits, network.codebook_seed)
        arrays = {CODE + name: values.astype(np.float32) for name, values in found._asdict().items()}
        weights.save(self._folder.path / FILE, arrays, {"of": self._digest(state)})
        self._sums.forget()
        return arrays

    def _moments(self, state: State) -> FeatureMoments | None:
        """The sum of the sites' moments; None under the quorum. Raises LostError."""
        if made := self._sums.pending(state.round):
            return self._opened(made)
        self._attendance.wait_for_willing()
        self._talk.refusal = ""
        flat, layout = self._arrays.evaluated(state.best)
        config = ConfigRecord(
            {**round_config(self._plan, layout), **self._arrays.config(), "server-round": state.round}
        )
        content = RecordDict({ARRAYS: weights_record(flat), CONFIG: config})
        messages = [Message(content, node, FEATURES) for node in self._talk.present()]
        if self._plan.aggregation == "secure":
            begins = secure_sum.beginning(flat, 0.0, None, self._arrays.rest, MOMENTS)
            return self._secure(Purpose(self._plan.id, state.round, 1, begins), messages)
        replies = self._talk.send(state.round, messages, self._check)
        reports = {reply.node: report_of(self._talk.name_of(reply.node), reply) for reply in replies}
        found = self._alike(state.round, {reply.node: self._read(reply) for reply in replies}, reports)
        if len(found) < self._folder.quorum():
            return None
        self._tell(state.round, {node: reports[node] for node in found})
        return code_map.add(found.values())

    def _secure(self, purpose: Purpose, messages: list[Message]) -> FeatureMoments | None:
        replies = self._talk.send(purpose.round, messages, partial(self._check_offer, purpose=purpose))
        reports = {reply.node: report_of(self._talk.name_of(reply.node), reply) for reply in replies}
        if len(replies) < self._folder.quorum():
            return None
        size = moments_size(self._sizes)
        try:
            return self._opened(self._sums.collect(replies, purpose, reports, size))
        except TooFewError:
            return None

    def _opened(self, made: Sum) -> FeatureMoments:
        """The moments in a secure sum. Raises LostError."""
        mean, cases = self._sums.read(made), sum(report.cases for report in made.sites.values())
        try:
            moments = code_map.unflatten(mean, cases, self._sizes)
        except ValueError as error:
            raise LostError(f"the sum of the moments is refused: {error}") from None
        self._tell(made.round, made.sites)
        return moments

    def _read(self, reply: SiteReply) -> FeatureMoments:
        """The moments in a reply. Raises KeyError, ValueError."""
        cases: Any = reply.content.metric_records[METRICS][CASES]
        mean = flat_weights(reply.content.array_records[ARRAYS])
        return code_map.unflatten(mean, int(cases), self._sizes)

    def _check(self, reply: SiteReply) -> None:
        self._read(reply)
        self._checks.weigh(reply)

    def _check_offer(self, reply: SiteReply, purpose: Purpose) -> None:
        self._sums.check_offer(reply, purpose)
        self._checks.weigh_own(reply)

    def _alike(
        self, number: int, found: dict[int, FeatureMoments], reports: Mapping[int, SiteReport]
    ) -> dict[int, FeatureMoments]:
        """The moments without those whose features are far larger than the other sites'; each refusal is an event."""
        factor = self._plan.training.update_norm_limit
        labelled = [node for node, moments in found.items() if moments.cases.any()]
        if not factor or len(labelled) < LEAST_TO_COMPARE:
            return found
        sizes = {node: _size(moments, reports[node].cases) for node, moments in found.items()}
        median = float(np.median([sizes[node] for node in labelled]))
        for node in (wrong := {node for node, size in sizes.items() if size > factor * median}):
            why = f"its features are {sizes[node] / median:.3g} times as large as the median of the sites'"
            self._talk.refuse(number, node, f"{why}, and the plan's update_norm_limit is {factor:g}")
        return {node: moments for node, moments in found.items() if node not in wrong}

    def _tell(self, number: int, reports: Mapping[int, SiteReport]) -> None:
        self._folder.event("code", round=number, sites={report.site: report.cases for report in reports.values()})

    def _stored(self, state: State) -> Arrays | None:
        """The code that an earlier process computed of the same weights."""
        path = self._folder.path / FILE
        if not path.exists():
            return None
        arrays, about = weights.load(path)
        return arrays if about.get("of") == self._digest(state) else None

    def _digest(self, state: State) -> str:
        """A digest of the best weights without their code."""
        arrays = weights.unflatten(state.best, state.layout)
        return weights.digest({name: array for name, array in arrays.items() if not name.startswith(CODE)})

    def _has_code(self, state: State) -> bool:
        arrays = weights.unflatten(state.best, state.layout)
        return any(array.any() for name, array in arrays.items() if name.startswith(CODE))


def _size(moments: FeatureMoments, cases: int) -> float:
    """The root mean square of a site's labelled features, or what that of all is at least, if it is larger."""
    of_labelled = np.trace(moments.products) / max(moments.cases.sum(), 1)
    return float(np.sqrt(max(of_labelled, np.trace(moments.within_patients) / cases)))
