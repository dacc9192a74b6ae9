"""Flower's strategies by the names that plans use: their options, aggregation, and the state that they carry."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
)

from ynet import weights
from ynet.federation.records import ARRAYS, CASES, METRICS, TRAIN, flat_weights, weights_record
from ynet.plan import Plan
from ynet.strategy_options import ROBUST, options
from ynet.weights import Flat
from ynet_server.rounds.conversation import SiteReply

STRATEGIES: dict[str, Callable[..., FedAvg]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
}


def strategy(plan: Plan) -> FedAvg:
    """The plan's strategy: every connected site trains and evaluates; a run begins with `cohort.min_sites` of them."""
    name, needed = plan.training.strategy, plan.cohort.floor
    return STRATEGIES[name](
        min_train_nodes=needed,
        min_evaluate_nodes=1,
        min_available_nodes=needed,
        **options(name, plan.training.strategy_options, needed),
    )


class Aggregate(NamedTuple):
    """The result of aggregating a round's updates."""

    flat: Flat
    left_out: frozenset[int]  # nodes whose updates the strategy did not use (Krum, MultiKrum, Bulyan)


def aggregate(chosen: FedAvg, plan: Plan, number: int, replies: Sequence[SiteReply], sent: Flat) -> Aggregate:
    """Aggregate the updates of round `number` into new float32 weights; the adaptive strategies compute in float64.

    Robust strategies get each site's change instead of its weights. By their definitions the result is the same, and
    Flower computes Krum's distances from squared norms in float32, which the size of the weights would drown.
    """
    is_robust = plan.training.strategy in ROBUST
    taken: list[RecordDict] = []

    def notice(contents: list[RecordDict], _: str) -> MetricRecord:
        """Note which updates the strategy chose; Flower calls this to merge the sites' metrics."""
        taken.extend(contents)
        return MetricRecord()

    chosen.train_metrics_aggr_fn = notice
    messages = [_message(reply, sent if is_robust else None) for reply in replies]
    aggregated, _ = chosen.aggregate_train(number, messages)
    if aggregated is None:
        raise ValueError(f"strategy {plan.training.strategy} made nothing of {len(replies)} updates")
    flat = _single(aggregated)
    left_out = [message for message in messages if all(message.content is not content for content in taken)]
    nodes = frozenset(message.metadata.src_node_id for message in left_out)
    return Aggregate((sent + flat).astype(np.float32) if is_robust else flat, nodes)


def _message(reply: SiteReply, less: Flat | None) -> Message:
    """A reply in the form that a strategy aggregates, with `less` subtracted from its weights."""
    asked = Message(content=RecordDict(), message_type=TRAIN, dst_node_id=reply.node)
    weight = MetricRecord({CASES: reply.content.metric_records[METRICS][CASES]})  # its other figures are not merged
    arrays = reply.content.array_records[ARRAYS]
    if less is not None:
        arrays = weights_record(flat_weights(arrays) - less)
    return Message(content=RecordDict({ARRAYS: arrays, METRICS: weight}), reply_to=asked)


def _single(aggregated: ArrayRecord) -> Flat:
    return weights.join([aggregated[key].numpy().astype(np.float32, copy=False) for key in sorted(aggregated)])


CARRIED = ("momentum_vector", "m_t", "v_t")
"""The attributes in which Flower's strategies keep state: a list of arrays in FedAvgM, a dict in the others."""


def carried(chosen: FedAvg) -> dict[str, Flat]:
    """Copies of the state that a strategy carries from one round to the next, by name; each has the weights' size."""
    held: dict[str, Flat] = {}
    for name in CARRIED:
        value = getattr(chosen, name, None)
        if value:
            blocks = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
            held[name] = weights.join([np.asarray(block, np.float32) for block in blocks])
    return held


def carry_on(chosen: FedAvg, held: Mapping[str, Flat]) -> None:
    """Set the state that another instance of the strategy carried."""
    for name, flat in held.items():
        blocks = {key: array.numpy() for key, array in weights_record(flat).items()}
        setattr(chosen, name, list(blocks.values()) if name == "momentum_vector" else blocks)
