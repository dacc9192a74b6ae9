"""Faults of a federation, drawn by a seed: which part, when, and for how long."""

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
"""Longer than the hub keeps a connection without an answer."""


class Fault(NamedTuple):
    """One fault."""

    kind: Kind
    site: str  # the site, unless it is the server
    pause_s: float  # after the end of the one before
    lasts_s: float

    def __str__(self) -> str:
        who = "" if self.kind.startswith("server") else f" of {self.site}"
        return f"{self.kind}{who} for {self.lasts_s:.1f} s"


def schedule(seed: int, count: int, sites: Sequence[str], long_sleeps: int = 0) -> list[Fault]:
    """Draw `count` faults, all kinds equally often or once more; the first `long_sleeps` sleeps are long."""
    draw = random.Random(seed)
    kinds = [KINDS[number % len(KINDS)] for number in range(count)]
    draw.shuffle(kinds)
    faults = [Fault(kind, draw.choice(sites), draw.uniform(0.2, 3.0), draw.uniform(*LASTS_S[kind])) for kind in kinds]
    asleep = [number for number, fault in enumerate(faults) if fault.kind.endswith("asleep")]
    for number in asleep[:long_sleeps]:
        faults[number] = faults[number]._replace(lasts_s=draw.uniform(*LONG_S))
    return faults
