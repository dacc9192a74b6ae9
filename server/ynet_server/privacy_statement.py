"""What a model's card says of its patients' privacy: the statement that a release carries."""

from collections.abc import Mapping, Sequence
from typing import Any

from ynet.federation.plan import Plan

ACCOUNTANT = "dp-accounting, privacy loss distributions"


def statement(plan: Plan, events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of a private plan the unit, the bound, how it was accounted, and each site's ledger after its last round."""
    said: dict[str, Any] = {"mode": plan.privacy.mode, "aggregation": plan.aggregation}
    if plan.privacy.mode == "off":
        return said
    ledgers = {site: head for event in events for site, head in event.get("ledgers", {}).items()}
    return {
        **said,
        "unit": "a patient, with all of the patient's images, at one site",
        "neighbours": "data sets that differ in one patient, who is in one of them",
        "epsilon": plan.privacy.epsilon,
        "delta": plan.privacy.delta,
        "covers": "the weights that each site sent, over all rounds",
        "sampling": "Poisson, each patient by itself, in each step",
        "accountant": ACCOUNTANT,
        "max_grad_norm": plan.privacy.max_grad_norm,
        "ledgers": ledgers,
    }
