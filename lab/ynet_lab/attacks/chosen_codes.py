"""Reconstruction by chosen codes: a case's code from the distances that a site answers to codes made for the purpose.

A site answers with distances rounded up to a multiple of `distance_step`. At a code whose distance is a multiple, one
flipped bit either raises the answer, where the case has that bit, or does not. So one answer tells one bit, whatever
the step. The step costs the way to such a code, and it lets fewer of an answer's cases be read at once.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]
Answer = Mapping[bytes, int]
"""The distances of one answer, by the hits' tokens."""
Ask = Callable[[Sequence[bytes]], Sequence[Answer]]


class Determined(NamedTuple):
    """What was found of one case."""

    code: Bits | None  # its bits; None where the answers did not determine them
    queries: int


class Reader:
    """Asks a site about chosen codes and follows one case through the answers."""

    def __init__(self, ask: Ask, token: bytes, k: int) -> None:
        self._ask, self._token, self._k, self.queries = ask, token, k, 0

    def distance(self, code: Bits, held: int) -> int | None:
        """Return the case's distance; None where it is certainly above `held`; -1 where the answer does not tell.

        A full answer whose last hit is not beyond `held` may have left the case out although it is within.
        """
        self.queries += 1
        (answer,) = self._ask([np.packbits(code).tobytes()])
        if self._token in answer:
            return answer[self._token]
        is_cut = len(answer) >= self._k and max(answer.values(), default=0) <= held
        return -1 if is_cut else None


def determine(ask: Ask, start: Bits, token: bytes, step: int, k: int, random: np.random.Generator) -> Determined:
    """Determine the code of one case, which the answer to `start` has; the answers have at most `k` hits."""
    reader = Reader(ask, token, k)
    begun = reader.distance(start, len(start))
    if begun is None or begun < 0:
        return Determined(None, reader.queries)
    found = _to_a_multiple(reader, start.copy(), begun, random) if step > 1 else _Place(start.copy(), begun, set())
    if found is None:
        return Determined(None, reader.queries)
    return Determined(_walked(reader, found, step, random), reader.queries)


class _Place(NamedTuple):
    """A code at an exact distance from the case, and the bits in which the two are known to agree."""

    code: Bits
    distance: int
    known: set[int]


def _to_a_multiple(reader: Reader, code: Bits, distance: int, random: np.random.Generator) -> _Place | None:
    """Flip bits until the answer changes: then the distance is a multiple of the step before or after the flip."""
    for bit in random.permutation(len(code)).tolist():
        code[bit] ^= 1
        seen = reader.distance(code, distance)
        if seen is None or seen > distance:  # the case has the bit as it was
            code[bit] ^= 1
            return _Place(code, distance, {bit})
        if seen < 0:
            code[bit] ^= 1
        elif seen < distance:
            return _Place(code, seen, {bit})
    return None


def _walked(reader: Reader, place: _Place, step: int, random: np.random.Generator) -> Bits | None:
    """Test bit by bit, and go to the case by `step` bits at a time, so that the distance stays a multiple."""
    code, distance, known = place
    left = deque(bit for bit in random.permutation(len(code)).tolist() if bit not in known)
    differing: list[int] = []
    unsure = 0
    while len(differing) < distance:
        if unsure == len(left):
            return None
        bit = left.popleft()
        code[bit] ^= 1
        seen = reader.distance(code, distance)
        code[bit] ^= 1
        if seen is not None and seen < 0:
            left.append(bit)
            unsure += 1
            continue
        if seen is not None and seen <= distance:
            differing.append(bit)
            if len(differing) == step:
                code[differing] ^= 1
                distance -= step
                differing = []
        unsure = 0
    code[differing] ^= 1
    return code


def sweep(ask: Ask, start: Bits, step: int, k: int) -> dict[bytes, Bits]:
    """Return the codes of all cases that the answer to `start`, and to each code one bit away, determine together."""
    flipped = np.concatenate([start[None], start ^ np.eye(len(start), dtype=np.uint8)])
    base, *answers = ask([np.packbits(code).tobytes() for code in flipped])
    ends = [max(answer.values(), default=0) if len(answer) >= k else len(start) + 1 for answer in answers]
    found = {}
    for token, distance in base.items():
        seen = [_moved(answer.get(token), distance, end) for answer, end in zip(answers, ends, strict=True)]
        if (differs := _differs(seen, distance, step)) is not None:
            found[token] = start ^ differs
    return found


def _moved(seen: int | None, distance: int, end: int) -> int | None:
    """Return whether a flip raised the answered distance (1), lowered it (-1) or neither; None where it is unsure."""
    if seen is None:
        return 1 if end > distance else None
    return int(np.sign(seen - distance))


def _differs(seen: Sequence[int | None], distance: int, step: int) -> Bits | None:
    """Return the bits that differ; None where the answers leave them open."""
    if None in seen:
        return None
    moves = np.array(seen)
    if (moves > 0).any():  # the distance is a multiple of the step
        differs, exact = moves <= 0, distance
    else:  # it is one more than a multiple
        differs, exact = moves < 0, distance - step + 1
    return differs.astype(np.uint8) if differs.sum() == exact else None
