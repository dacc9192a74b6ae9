"""The strategies of plans, their options, and the number of sites that each needs."""

import math
from collections.abc import Mapping
from typing import Literal

Strategy = Literal[
    "fedavg",
    "fedavgm",
    "fedprox",
    "fedadam",
    "fedyogi",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
    "multikrum",
    "bulyan",
]

HOSTILE, SELECTED, TRIMMED = "num_malicious_nodes", "num_nodes_to_select", "beta"

STRATEGY_OPTIONS: dict[Strategy, frozenset[str]] = {
    "fedavg": frozenset(),
    "fedavgm": frozenset({"server_learning_rate", "server_momentum"}),
    "fedprox": frozenset({"proximal_mu"}),
    "fedadam": frozenset({"eta", "beta_1", "beta_2", "tau"}),
    "fedyogi": frozenset({"eta", "beta_1", "beta_2", "tau"}),
    "fedmedian": frozenset(),
    "fedtrimmedavg": frozenset({TRIMMED}),
    "krum": frozenset({HOSTILE}),
    "multikrum": frozenset({HOSTILE, SELECTED}),
    "bulyan": frozenset({HOSTILE}),
}

DEFAULTS: dict[str, dict[str, float]] = {
    "fedavgm": {"server_momentum": 0.9},
    "fedprox": {"proximal_mu": 0.01},
    "fedadam": {"eta": 1e-2},
    "fedyogi": {"eta": 1e-2},
    "fedtrimmedavg": {TRIMMED: 0.2},
    "krum": {HOSTILE: 1},
    "multikrum": {HOSTILE: 1},
    "bulyan": {HOSTILE: 1},
}
"""ynet's defaults, in place of Flower's."""

SUMMABLE = frozenset({"fedavg", "fedavgm", "fedprox", "fedadam", "fedyogi"})
"""Strategies that need nothing but the updates' mean, weighted by cases: only these go with `aggregation: secure`."""

ROBUST = frozenset({"fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"})
"""Strategies that are robust against some hostile sites. They need each site's own update."""

WHOLE = frozenset({HOSTILE, SELECTED})


def options(strategy: Strategy, given: Mapping[str, float], quorum: int) -> dict[str, float]:
    """Return a strategy's options with defaults; counts are int."""
    chosen = {**DEFAULTS.get(strategy, {}), **given}
    if strategy == "multikrum":
        chosen.setdefault(SELECTED, quorum - chosen[HOSTILE])
    return {name: int(value) if name in WHOLE else value for name, value in chosen.items()}


def fault(strategy: Strategy, given: Mapping[str, float], quorum: int) -> str | None:
    """Return what is wrong with a strategy's options or quorum; None if they are valid.

    With f hostile sites, Krum needs 2f + 3 sites (Blanchard et al. 2017), Bulyan 4f + 3 (El Mhamdi et al. 2018). The
    median of fewer than three values is their mean, and so is a trimmed mean that trims nothing.
    """
    if not all(math.isfinite(value) for value in given.values()):
        return "'training.strategy_options' has a value that is not finite"
    known = STRATEGY_OPTIONS[strategy]
    if unknown := set(given) - known:
        has = ", ".join(sorted(known)) or "none"
        return f"strategy {strategy!r} has no option {sorted(unknown)[0]!r} (it has: {has})"
    if strategy not in ROBUST:
        return None
    for name in WHOLE & set(given):
        if given[name] < 1 or given[name] != int(given[name]):
            return f"'training.strategy_options.{name}' must be a whole number above 0"
    chosen = options(strategy, given, quorum)
    if strategy == "fedtrimmedavg":
        return _trims_nothing(chosen[TRIMMED], quorum)
    least = {"krum": 2, "multikrum": 2, "bulyan": 4}.get(strategy, 0) * int(chosen.get(HOSTILE, 0)) + 3
    if quorum < least:
        against = f" against {int(chosen[HOSTILE])} hostile" if HOSTILE in chosen else ""
        return f"strategy {strategy!r}{against} needs a 'cohort.quorum' of {least} sites or more: raise it"
    if strategy == "multikrum" and chosen[SELECTED] > quorum - chosen[HOSTILE]:
        return f"'training.strategy_options.{SELECTED}' may be at most 'cohort.quorum' less '{HOSTILE}'"
    return None


def _trims_nothing(beta: float, quorum: int) -> str | None:
    if not 0 < beta < 0.5:
        return f"'training.strategy_options.{TRIMMED}' must be above 0 and below 0.5"
    if int(beta * quorum) < 1:  # as Flower counts
        return (
            f"strategy 'fedtrimmedavg' with {TRIMMED} {beta:g} cuts off nothing of {quorum} updates:"
            f" raise 'cohort.quorum' or '{TRIMMED}', so that their product is 1 or more"
        )
    return None
