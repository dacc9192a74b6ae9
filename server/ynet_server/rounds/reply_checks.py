"""Checks of what sites send: shapes, finite values, and the number of cases that an update may weigh."""

from collections.abc import Callable

import numpy as np

from ynet import weights
from ynet.errors import UserError
from ynet.federation import update_encoding
from ynet.federation.records import ARRAYS, CASES, CONFIG, METRICS, flat_weights, form, weights_record
from ynet.fixed_arrays import of_encoder_file
from ynet.plan import Plan
from ynet.weights import Flat, Layout
from ynet_server.rounds.conversation import SiteReply

Form = dict[str, tuple[int, ...]]
"""The shapes of a message's blocks, by name."""


class ReplyChecks:
    """The checks of one run. A check raises for a bad reply; a good one leaves it with the cases that it counts for."""

    def __init__(self, plan: Plan, name_of: Callable[[int], str], cases_of: Callable[[int], int | None]) -> None:
        """`cases_of` maps a node to the training cases that it is known to have, or to None."""
        self._plan, self._name_of, self._cases_of = plan, name_of, cases_of
        self.cases: dict[str, int] = {}  # by site: what it named first in this run, the most that its updates weigh

    def initial(self, reply: SiteReply) -> None:
        """Check a reply with first weights: all, or those that the plan's encoder file does not have."""
        layout = weights.layout_from_json(str(reply.content[CONFIG]["layout"]))
        flat = flat_weights(reply.content.array_records[ARRAYS])
        rest = weights.layout_without(layout, of_encoder_file(self._plan, [entry.name for entry in layout]))
        finite(flat, rest if flat.size == sum(entry.size for entry in rest) else layout)
        self.weigh(reply)

    def update(self, reply: SiteReply, flat: Flat, layout: Layout, sent: Form) -> None:
        """Check an update of the weights `flat`, and decode it where the plan has an `update_encoding`."""
        arrays, encoding = reply.content.array_records[ARRAYS], self._plan.training.update_encoding
        update = flat_weights(arrays)
        if encoding != "float32":
            update = flat + update_encoding.decode(update, layout, encoding)
            reply.content[ARRAYS] = arrays = weights_record(update)
        finite(update, layout)
        if form(arrays) != sent:
            raise ValueError("not in the blocks in which they were sent")
        self.weigh(reply)

    def weigh(self, reply: SiteReply) -> None:
        """Cap a site's cases at what it named first, to the coordinator and in this run. Raises UserError for none."""
        site, metrics = self._name_of(reply.node), reply.content.metric_records[METRICS]
        claimed, known = int(metrics[CASES]), self._cases_of(reply.node)  # type: ignore[arg-type]
        cap = self.cases.get(site, claimed if known is None else known)
        if min(claimed, cap) <= 0:
            raise UserError("update", "it claims no cases", "")
        metrics[CASES] = min(claimed, cap)
        self.cases.setdefault(site, min(claimed, cap))

    def weigh_own(self, reply: SiteReply) -> None:
        """As `weigh`, for a secure sum, whose sites weigh their own updates: refuses a site that claims too many."""
        claimed = int(reply.content.metric_records[METRICS][CASES])  # type: ignore[arg-type]
        self.weigh(reply)
        if int(reply.content.metric_records[METRICS][CASES]) < claimed:  # type: ignore[arg-type]
            raise UserError("update", "it claims more cases than the site had", "")


def finite(flat: Flat, layout: Layout) -> Flat:
    """The weights, when they have the layout's size and are finite float32 values. Raises UserError."""
    weights.unflatten(flat, layout)
    if flat.dtype != np.float32:
        raise UserError("the weights are refused", f"they are {flat.dtype}, not float32", "update ynet")
    if not np.isfinite(flat).all():
        raise UserError("the weights are refused", "they hold a value that is not finite", "lower the learning rate")
    return flat
