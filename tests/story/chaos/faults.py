"""What can go wrong with a federation, drawn by a seed: which part, when, and how long it lasts."""

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

Kind = Literal[
    "site killed",
    "site stopped",
    "site asleep",
    "line cut",
    "line away",
    "line slow",
    "server killed",
    "server stopped",
    "server asleep",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
LASTS_S = {
    "site killed": (0.0, 2.0),
    "site stopped": (0.0, 2.0),
    "site asleep": (0.5, 4.0),
    "line cut": (0.0, 0.0),
    "line away": (0.5, 4.0),
    "line slow": (1.0, 4.0),
    "server killed": (0.0, 2.0),
    "server stopped": (0.0, 2.0),
    "server asleep": (0.5, 3.0),
}
LONG_S = (32.0, 40.0)
"""Longer than a connection without an answer is kept."""


class Fault(NamedTuple):
    """One thing that goes wrong."""

    kind: Kind
    site: str  # whose part it is, where it is not the server's
    pause_s: float  # after the one before has ended
    lasts_s: float

    def __str__(self) -> str:
        who = "" if self.kind.startswith("server") else f" of {self.site}"
        return f"{self.kind}{who} for {self.lasts_s:.1f} s"


def schedule(seed: int, count: int, sites: Sequence[str], long_sleeps: int = 0) -> list[Fault]:
    """`count` faults, every kind as often as the others or once more; the first `long_sleeps` sleeps are long ones."""
    draw = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    draw.shuffle(kinds)
    faults = [Fault(kind, draw.choice(sites), draw.uniform(0.2, 3.0), draw.uniform(*LASTS_S[kind])) for kind in kinds]
    asleep = [number for number, fault in enumerate(faults) if fault.kind.endswith("asleep")]
    for number in asleep[:long_sleeps]:
        faults[number] = faults[number]._replace(lasts_s=draw.uniform(*LONG_S))
    return faults
