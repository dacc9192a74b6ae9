"""The statement of privacy that a model's card carries."""

import json
from dataclasses import replace

from smallest_plan import smallest_plan

from ynet import plan as plans
from ynet_server.rounds.privacy_statement import statement


def test_a_model_without_privacy_says_so_and_claims_nothing() -> None:
    assert statement(smallest_plan(), []) == {"mode": "off", "aggregation": "plain"}


def test_privacy_statement_has_epsilon_context_and_last_ledgers() -> None:
    private = {"mode": "patient", "epsilon": 3.0, "delta": 1e-3}
    plan = plans.from_canonical(json.dumps(json.loads(smallest_plan().canonical()) | {"privacy": private}))
    events = [
        {"kind": "round", "ledgers": {"A": "1 aa", "B": "4 bb"}},
        {"kind": "round_lost"},
        {"kind": "round", "ledgers": {"A": "2 cc"}},
    ]
    said = statement(plan, events)
    assert (said["epsilon"], said["delta"], said["max_grad_norm"]) == (3.0, 1e-3, 1.0)
    assert "patient" in said["unit"]
    assert "Poisson" in said["sampling"]
    assert "privacy loss distributions" in said["accountant"]
    assert said["scores"].startswith("not covered")
    silent = replace(plan, privacy=replace(plan.privacy, scores="none"))
    assert statement(silent, events)["scores"] == "none left the sites"
    assert said["ledgers"] == {"A": "2 cc", "B": "4 bb"}
