"""An oracle of retrieval: one gallery of all cases, searched by brute force in numpy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from ynet.search.ranking import Hit, tie_keys


def pooled_search(
    codes: UInt8[np.ndarray, "n bytes"],
    tokens: UInt8[np.ndarray, "n 16"],
    labels: Sequence[str | None],
    code: bytes,
    k: int,
) -> list[Hit]:
    """Return the k first cases by the total order of `ynet.search.ranking`, or all when there are fewer.

    Case i has row i of `codes`, `tokens` and `labels`.
    """
    word = "<u4" if codes.shape[1] == 4 else "<u8"
    differing = np.ascontiguousarray(codes).view(word) ^ np.frombuffer(code, word)
    distances = np.bitwise_count(differing).sum(axis=1, dtype=np.int64)
    if not len(distances):
        return []
    reach = np.partition(distances, min(k, len(distances)) - 1)[min(k, len(distances)) - 1]
    near = np.flatnonzero(distances <= reach)
    keys = tie_keys(code, tokens[near])
    rows = sorted((int(distances[i]), int(key), tokens[i].tobytes(), int(i)) for i, key in zip(near, keys, strict=True))
    ties = np.bincount(distances[near])
    return [Hit(distance, token, labels[i], int(ties[distance])) for distance, _, token, i in rows[:k]]
