"""The privacy statement on a model's card."""

from collections.abc import Mapping, Sequence
from typing import Any

from ynet.plan import Plan

ACCOUNTANT = "dp-accounting, privacy loss distributions"

SCORES = {
    "once": "not covered: of each round that was evaluated each site scored one set of weights, without noise",
    "none": "none left the sites",
}
"""The statement about the sites' scores, by the plan's `privacy.scores`."""


def statement(plan: Plan, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For a private plan: the unit, the bound, the accounting, and each site's ledger after its last round."""
    said: dict[str, Any] = {"mode": plan.privacy.mode, "aggregation": plan.aggregation}
    if plan.privacy.mode == "off":
        return said
    ledgers = {site: head for event in events for site, head in event.get("ledgers", {}).items()}
    return {
        **said,
        "unit": "a patient, with all of the patient's images, at one site",
        "neighbours": "data sets alike but for one patient, who counts in one of them; how many there are is public",
        "epsilon": plan.privacy.epsilon,
        "delta": plan.privacy.delta,
        "covers": "the weights that each site sent, over all rounds",
        "sampling": "Poisson, each patient independently, in each step",
        "draws": "a patient's views, augmentation and dropout by that patient alone, from a secret of the round",
        "noise": "Gaussian, rounded to a grid of 2^-34 of its deviation",
        "accountant": ACCOUNTANT,
        "max_grad_norm": plan.privacy.max_grad_norm,
        "scores": SCORES[plan.privacy.scores],
        "ledgers": ledgers,
    }
