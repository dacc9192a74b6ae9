"""The smallest plan, for tests without training."""

import json

from ynet import plan as plans
from ynet.plan import Plan


def smallest_plan(name: str = "t") -> Plan:
    values = {
        "name": name,
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "training": {"rounds": 1, "learning_rate": 0.1},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    }
    return plans.from_canonical(json.dumps(values))
