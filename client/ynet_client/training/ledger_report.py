"""A summary of a site's privacy ledger for its admin."""

from collections.abc import Sequence
from typing import Any

from ynet.learning import accountant
from ynet.learning.accountant import MechanismSteps
from ynet.trust.ledger import LedgerEntry
from ynet_client.settings import PrivacySettings


def summary(entries: Sequence[LedgerEntry], settings: PrivacySettings) -> dict[str, Any]:
    """Summarise the data set of the settings: epsilon spent, reserved for running plans, and left.

    All epsilons use the smallest delta of the runs. The runs are composed by the accountant, to less than their sum.
    """
    own = [entry for entry in entries if entry.data == settings.data]
    delta = min((entry.delta for entry in own), default=None)
    runs = {entry.plan: [one for one in own if one.plan == entry.plan] for entry in own}
    if delta is None:
        total = planned = 0.0
    else:
        total = accountant.epsilon(spent(own), delta)
        planned = accountant.epsilon([*spent(own), *(rest for run in runs.values() for rest in to_come(run))], delta)
    return {
        "data": settings.data,
        "max_epsilon": settings.max_epsilon,
        "delta": delta,
        "spent": round(total, 4),
        "reserved": round(planned - total, 4),
        "left": round(max(settings.max_epsilon - planned, 0.0), 4),
        "runs": [_run(plan, run, delta) for plan, run in runs.items()],
        "entries": len(entries),
        "head": entries[-1].digest if entries else None,
    }


def spent(entries: Sequence[LedgerEntry]) -> list[MechanismSteps]:
    """Convert entries to the accountant's form."""
    return [MechanismSteps(entry.noise_multiplier, entry.sampling_rate, entry.steps) for entry in entries]


def to_come(run: Sequence[LedgerEntry]) -> list[MechanismSteps]:
    """Return what the remaining rounds of one plan would spend."""
    last = run[-1]
    rounds = last.rounds - max(entry.round for entry in run)
    return [MechanismSteps(last.noise_multiplier, last.sampling_rate, last.steps * rounds)] if rounds else []


def _run(plan: str, run: Sequence[LedgerEntry], delta: float | None) -> dict[str, Any]:
    return {
        "plan": plan,
        "round": max(entry.round for entry in run),
        "rounds": run[-1].rounds,
        "steps": sum(entry.steps for entry in run),
        "noise_multiplier": run[-1].noise_multiplier,
        "sampling_rate": run[-1].sampling_rate,
        "epsilon": round(accountant.epsilon(spent(run), delta), 4) if delta else 0.0,
        "last": run[-1].time,
    }
