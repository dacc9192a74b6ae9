"""Flower's own strategies, by the name that a plan gives them."""

from collections.abc import Callable
from typing import Any

from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi

from ynet.federation.plan import Plan

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
