"""Local differential privacy for who asks: k-ary randomised response over the classes' target codes.

The query's code is replaced by a class's target code: that of the nearest class with probability
e^eps / (e^eps + K - 1), else that of any other, all alike (Kairouz, Oh, Viswanath, JMLR 2016). Whoever sees the code
learns of the image no more than a factor of e^eps in the odds between two classes. The price: the answer is about a
class's centre, not about this image, and with probability (K - 1) / (e^eps + K - 1) about another class's.

The answer drawn is kept, and drawn again never: asking twice tells nothing more. Epsilons add up over images of the
same patient, and over different epsilons for one image. Filters are sent as they are. Single bits are never flipped:
at any epsilon worth the name that leaves nothing of the retrieval (docs/explanation/retrieval.md).
"""

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ynet.errors import UserError
from ynet_client.database import Database

FILE = "noise.sqlite"
SCHEMA = """
CREATE TABLE drawn (
  question BLOB PRIMARY KEY,  -- digest of image, model and epsilon
  class INTEGER NOT NULL
) STRICT, WITHOUT ROWID
"""
MAX_EPSILON = 20.0
RECIPES = ("default", "csq")
"""Recipes whose codes are drawn to the classes' target codes; to the others' they mean nothing."""
_DRAWS = 1 << 64


class Noise(NamedTuple):
    """What was done to a query's code, as its answer says it."""

    epsilon: float
    classes: int
    kept_share: float  # probability that the class sent is the nearest one


class Drawn:
    """What was drawn so far. Any thread may call."""

    def __init__(self, home: Path) -> None:
        """Raises UserError when the file cannot be opened."""
        self._database = Database(home / FILE, SCHEMA, 1, is_synced=True)

    def close(self) -> None:
        """Give the file back."""
        self._database.close()

    def code(self, image_sha256: str, model_id: str, true: bytes, targets: Sequence[bytes], epsilon: float) -> bytes:
        """The code to be sent: drawn, and on the disk, the first time; the same ever after."""
        question = hashlib.blake2b(f"{image_sha256} {model_id} {epsilon!r}".encode(), digest_size=16).digest()
        number = nearest(true, targets)
        answer = respond(number, len(targets), epsilon)
        self._database.write("INSERT INTO drawn VALUES (?, ?) ON CONFLICT DO NOTHING", (question, answer))
        ((kept,),) = self._database.read("SELECT class FROM drawn WHERE question = ?", question)
        return targets[int(kept)]


def check(epsilon: float, recipe: str) -> float:
    """The same epsilon. Raises UserError when it cannot be meant, or the model has no codebook."""
    if not 0 < epsilon <= MAX_EPSILON:
        do = f"say more than 0 and at most {MAX_EPSILON:g}; 6 is a start"
        raise UserError("the query cannot be noised", f"epsilon is {epsilon}", do)
    if recipe not in RECIPES:
        why = f"the model was trained by the recipe {recipe!r}, which draws no codes to the classes' targets"
        raise UserError("the query cannot be noised", why, f"use a model of a recipe that does: {', '.join(RECIPES)}")
    return epsilon


def describe(epsilon: float, classes: int) -> Noise:
    """What randomised response over so many classes does."""
    return Noise(epsilon, classes, 1 / (1 + (classes - 1) * math.exp(-epsilon)))


def nearest(code: bytes, targets: Sequence[bytes]) -> int:
    """The class whose target is nearest, in bits; of several, the first."""
    value = int.from_bytes(code)
    return min(range(len(targets)), key=lambda number: (value ^ int.from_bytes(targets[number])).bit_count())


def respond(true: int, classes: int, epsilon: float, below: Callable[[int], int] = secrets.randbelow) -> int:
    """The class to say for the class `true`. `below(n)` draws from 0 to n - 1: the operating system, but in tests.

    The share kept is rounded down to a multiple of 2^-64, in integers: no rounding of a float makes it larger.
    """
    kept = math.floor(describe(epsilon, classes).kept_share * _DRAWS * (1 - 2**-50))
    if classes == 1 or below(_DRAWS) < kept:
        return true
    return (true + 1 + below(classes - 1)) % classes
