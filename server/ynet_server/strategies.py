"""Flower's own strategies, by the name that a plan gives them, and what they carry from round to round."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi

from ynet import weights
from ynet.federation.plan import Plan
from ynet.federation.records import weights_record
from ynet.weights import Flat

STRATEGIES: dict[str, Callable[..., FedAvg]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
}
DEFAULTS: dict[str, dict[str, float]] = {
    "fedavgm": {"server_momentum": 0.9},
    "fedprox": {"proximal_mu": 0.01},
    "fedadam": {"eta": 1e-2},
    "fedyogi": {"eta": 1e-2},
}


def strategy(plan: Plan) -> FedAvg:
    """The plan's strategy: every connected site trains and evaluates; a run begins with `cohort.minimum` of them."""
    name = plan.training.strategy
    options: dict[str, Any] = {**DEFAULTS.get(name, {}), **plan.training.strategy_options}
    needed = plan.cohort.quorum
    return STRATEGIES[name](min_train_nodes=needed, min_evaluate_nodes=1, min_available_nodes=needed, **options)


CARRIED = ("momentum_vector", "m_t", "v_t")
"""The attributes in which Flower's strategies carry something: FedAvgM a list of arrays, the others one by name."""


def carried(chosen: FedAvg) -> dict[str, Flat]:
    """What a strategy carries from one round to the next, by name; each as long as the weights. Copies."""
    held: dict[str, Flat] = {}
    for name in CARRIED:
        value = getattr(chosen, name, None)
        if value:
            blocks = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
            held[name] = weights.join([np.asarray(block, np.float32) for block in blocks])
    return held


def carry_on(chosen: FedAvg, held: Mapping[str, Flat]) -> None:
    """Give a strategy what another one carried, so that it goes on in that one's place."""
    for name, flat in held.items():
        blocks = {key: array.numpy() for key, array in weights_record(flat).items()}
        setattr(chosen, name, list(blocks.values()) if name == "momentum_vector" else blocks)
