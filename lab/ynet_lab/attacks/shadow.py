"""Shadow models: trained by the plan's recipe on patients that the attacker chooses."""

from collections.abc import Callable
from dataclasses import replace

import torch

from ynet.data.batch import CaseSource
from ynet.learning.dp_sgd import Patients, mechanism
from ynet.learning.model import YNet, arrays_of, build, load_arrays
from ynet.learning.train import train
from ynet.learning.train_private import train_privately
from ynet.plan import Plan
from ynet.schedule import MOST_ROUNDS
from ynet.weights import Arrays, begun_with

OnRound = Callable[[int], None]
SEEDS_APART = 1_000_003


def shadow_plan(plan: Plan, *, seed: int, rounds: int | None = None) -> Plan:
    """Return the plan with another seed and, if given, another number of rounds; a private plan stays in its epsilon.

    A plan with `training.rounds: auto` gets a number, since a shadow model's curve is not followed.
    """
    known = rounds or plan.training.most_rounds
    training = replace(plan.training, seed=seed, rounds=known, max_rounds=MOST_ROUNDS)
    return replace(plan, training=training)


def begun(plan: Plan, init: Arrays | None) -> YNet:
    """Return the plan's network before its first round."""
    net = build(plan)
    if init is not None:
        load_arrays(net, begun_with(arrays_of(net), init))
    return net


def train_shadow(
    plan: Plan, init: Arrays | None, cases: CaseSource, patients: Patients, device: torch.device, on_round: OnRound
) -> YNet:
    """Train a model on `cases` for all rounds of the plan, privately where the plan is private.

    `on_round` is called with each round's number, from 1. The weights are the last round's, without a moving average.
    """
    net, moments = begun(plan, init).to(device), None
    private = mechanism(plan, len(patients)) if plan.privacy.mode == "patient" else None
    for number in range(1, plan.training.most_rounds + 1):
        generator = torch.Generator().manual_seed(plan.training.seed * SEEDS_APART + number)
        if private is None:
            result = train(net, cases, plan, number, device=device, generator=generator, moments=moments)
        else:
            result = train_privately(net, cases, patients, plan, number, private, device=device, moments=moments)
        moments = result.moments
        on_round(number)
    return net
