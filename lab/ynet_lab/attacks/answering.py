"""What a site answers to a code, computed from the codes it holds; a test compares it with the site's own code.

It is much faster than a gallery in a file, and an attack asks tens of thousands of codes.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from ynet.learning.hashing import hamming
from ynet.search.ranking import TOKEN_BYTES, tie_keys
from ynet_client.retrieval import disclosure
from ynet_lab.attacks.chosen_codes import Answer, Ask


def site_of(
    codes: UInt8[np.ndarray, "cases bytes"], tokens: UInt8[np.ndarray, "cases token_bytes"], step: int, k: int
) -> Ask:
    """Return how a site with these codes answers whose `distance_step` is `step`, asked for `k` hits.

    Args:
        codes: the packed codes of its cases.
        tokens: the cases' tokens, of 16 bytes.
        step: distances are rounded up to a multiple of it.
        k: the number of hits.
    """
    names = [token.tobytes() for token in tokens]
    bits = 8 * codes.shape[1]
    rounded = np.array([disclosure.coarse(distance, step, bits) for distance in range(bits + 1)])

    def answer(code: bytes) -> Answer:
        distances = rounded[hamming(np.frombuffer(code, np.uint8)[None], codes)[0]]
        order = np.lexsort((tie_keys(code, tokens), distances))[:k]
        return {names[case]: int(distances[case]) for case in order}

    def ask(asked: Sequence[bytes]) -> list[Answer]:
        return [answer(code) for code in asked]

    return ask


def some_tokens(cases: int, random: np.random.Generator) -> UInt8[np.ndarray, "cases token_bytes"]:
    """Draw the cases' tokens."""
    return random.integers(0, 256, (cases, TOKEN_BYTES), np.uint8)
