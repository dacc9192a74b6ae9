"""Local differential privacy of a query: k-ary randomised response over the codes of the classes' centres.

The query's code is replaced by the code of a class's centre: of the nearest class with probability
e^eps / (e^eps + K - 1), else of one of the others, each with the same probability (Kairouz, Oh, Viswanath, JMLR 2016).
The code changes the odds between two classes by a factor of at most e^eps. The cost: the answer is about the centre of
a class, not about this image, and with probability (K - 1) / (e^eps + K - 1) about the centre of another class.

A draw is stored and used again, so that asking twice reveals nothing more. Epsilons add up over images of the same
patient, and over different epsilons for one image. Filters are sent unchanged. Single bits are not flipped: at a useful
epsilon that destroys retrieval (docs/explanation/retrieval.md).
"""

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ynet.errors import UserError
from ynet_client.database import Database

if TYPE_CHECKING:
    from ynet.plan import Plan

FILE = "noise.sqlite"
SCHEMA = """
CREATE TABLE drawn (
  question BLOB PRIMARY KEY,  -- digest of image, model and epsilon
  class INTEGER NOT NULL
) STRICT, WITHOUT ROWID
"""
MAX_EPSILON = 20.0
RECIPES = ("default", "csq")
"""Recipes that train a code towards the classes' target codes; for other recipes the targets have no meaning."""
_DRAWS = 1 << 64


class Noise(NamedTuple):
    """The noise of a query's code."""

    epsilon: float
    classes: int
    kept_share: float  # probability that the class sent is the nearest one


class Drawn:
    """The draws so far. Any thread may call."""

    def __init__(self, home: Path) -> None:
        """Open the file. Raises UserError when it cannot be opened."""
        self._database = Database(home / FILE, SCHEMA, 1, is_synced=True)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def code(self, image_sha256: str, model_id: str, true: bytes, targets: Sequence[bytes], epsilon: float) -> bytes:
        """Return the code to send: drawn and stored the first time, read from the file later."""
        question = hashlib.blake2b(f"{image_sha256} {model_id} {epsilon!r}".encode(), digest_size=16).digest()
        number = nearest(true, targets)
        answer = respond(number, len(targets), epsilon)
        self._database.write("INSERT INTO drawn VALUES (?, ?) ON CONFLICT DO NOTHING", (question, answer))
        ((kept,),) = self._database.read("SELECT class FROM drawn WHERE question = ?", question)
        return targets[int(kept)]


def check(epsilon: float, plan: "Plan") -> float:
    """Return epsilon. Raises UserError when it is out of range, or the classes have no codes."""
    if not 0 < epsilon <= MAX_EPSILON:
        do = f"say more than 0 and at most {MAX_EPSILON:g}; 6 is a start"
        raise UserError("the query cannot be noised", f"epsilon is {epsilon}", do)
    if plan.code_form == "trained" and plan.recipe not in RECIPES:
        why = f"the model was trained by the recipe {plan.recipe!r}, which trains no codes towards the classes' targets"
        raise UserError("the query cannot be noised", why, f"use a model of a recipe that does: {', '.join(RECIPES)}")
    return epsilon


def describe(epsilon: float, classes: int) -> Noise:
    """Describe randomised response over some number of classes."""
    return Noise(epsilon, classes, 1 / (1 + (classes - 1) * math.exp(-epsilon)))


def nearest(code: bytes, targets: Sequence[bytes]) -> int:
    """Return the class whose target is nearest, in bits; of several, the first."""
    value = int.from_bytes(code)
    return min(range(len(targets)), key=lambda number: (value ^ int.from_bytes(targets[number])).bit_count())


def respond(true: int, classes: int, epsilon: float, below: Callable[[int], int] = secrets.randbelow) -> int:
    """Return the class to send for the class `true`. `below(n)` draws from 0 to n - 1; by default the system's source.

    The kept share is rounded down to a multiple of 2^-64, in integers, so that float rounding never increases it.
    """
    kept = math.floor(describe(epsilon, classes).kept_share * _DRAWS * (1 - 2**-50))
    if classes == 1 or below(_DRAWS) < kept:
        return true
    return (true + 1 + below(classes - 1)) % classes
