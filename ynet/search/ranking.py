"""The total order of hits: how every site ranks them, so that the answers of separate sites merge into one list.

Hits are sorted by (distance, tie key, token), all ascending. All words have 64 bits, unsigned, little-endian; sums are
modulo 2^64:

    q0, q1 = words 0 and 1 of SHA-256(the query's code)
    t0, t1 = words 0 and 1 of the case token, 16 bytes
    tie key = mix(mix(t0 ^ q0) ^ t1 ^ q1)
    mix(x): x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB; x ^= x >> 31

`mix` is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). The key depends on the query and the token
alone. So the order favours no site, no age and no position in storage; the same query gets the same answer; and
merging the answers of several galleries equals searching one pooled gallery. Tokens are outputs of an HMAC, so the key
need only spread them, not hide them; a cryptographic hash of a million ties would take a second.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from ynet.errors import UserError
from ynet.federation.protocol import MAX_LABEL
from ynet.search.hit import Hit as Hit

CODE_BYTES = (4, 8, 16, 32)
TOKEN_BYTES = 16
_CHUNK = 1 << 15  # tokens per step, so that they stay in the processor's cache


def tie_keys(code: bytes, tokens: UInt8[np.ndarray, "n 16"]) -> UInt64[np.ndarray, " n"]:
    """Return the tie key of each token for one query."""
    q0, q1 = np.frombuffer(hashlib.sha256(code).digest()[:TOKEN_BYTES], "<u8").astype(np.uint64)
    words = np.ascontiguousarray(tokens).view("<u8")
    keys = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _CHUNK):
        t0, t1 = words[start : start + _CHUNK].T
        keys[start : start + _CHUNK] = _mix(_mix(t0 ^ q0) ^ t1 ^ q1)
    return keys


def tie_keys_many(
    codes: Sequence[bytes], query: Int64[np.ndarray, " n"], tokens: UInt8[np.ndarray, "n 16"]
) -> UInt64[np.ndarray, " n"]:
    """Return the tie key of each token for its own query; `query` holds the query's index in `codes`.

    A key depends on token XOR digest. So one call with the first code's digest serves all queries, when each token is
    first XORed with (its query's digest XOR the first digest).
    """
    if len(codes) == 1:
        return tie_keys(codes[0], tokens)
    digests = np.frombuffer(b"".join(hashlib.sha256(code).digest()[:TOKEN_BYTES] for code in codes), "<u8")
    digests = digests.reshape(len(codes), 2)
    words = np.ascontiguousarray(tokens).view("<u8") ^ (digests ^ digests[:1])[query]
    return tie_keys(codes[0], words.view(np.uint8))


def merge(answers: Mapping[str, Sequence[Hit]], code: bytes, k: int) -> list[Hit]:
    """Merge the sites' hits: return the k first by the total order, each with its site and its rank.

    When each site was asked for k hits, the result equals a search of one pooled gallery, and the pooled number of
    ties at a hit's distance is the sum of the sites' ties at it.

    Raises:
        ValueError: A token does not have 16 bytes.
    """
    return merge_many({site: [hits] for site, hits in answers.items()}, [code], k)[0]


def merge_many(answers: Mapping[str, Sequence[Sequence[Hit]]], codes: Sequence[bytes], k: int) -> list[list[Hit]]:
    """Apply `merge` to each code; every site's answers are in the order of `codes`."""
    rows = [
        [(site, hit) for site, per_code in answers.items() for hit in per_code[number]] for number in range(len(codes))
    ]
    keys = iter(_keys_of([[hit for _, hit in row] for row in rows], codes).tolist())
    ranked = (
        sorted((hit.distance, next(keys), hit.token, site, at) for at, (site, hit) in enumerate(row)) for row in rows
    )
    return [
        [row[at][1]._replace(site=row[at][0], rank=rank) for rank, (*_, at) in enumerate(ranks[:k], start=1)]
        for row, ranks in zip(rows, ranked, strict=True)
    ]


def _keys_of(per_code: Sequence[Sequence[Hit]], codes: Sequence[bytes]) -> UInt64[np.ndarray, " hits"]:
    """Return the tie keys of all hits, those of the first code first."""
    query = np.repeat(np.arange(len(codes)), [len(hits) for hits in per_code])
    tokens = np.frombuffer(b"".join(hit.token for hits in per_code for hit in hits), np.uint8)
    return tie_keys_many(codes, query, tokens.reshape(len(query), TOKEN_BYTES))


def check_answers(per_code: Sequence[Sequence[Hit]], codes: Sequence[bytes], k: int) -> None:
    """Validate another site's hits for each code of a query: their number, ranges, labels and order.

    All codes have one width.

    Raises:
        UserError: No gallery can have returned these hits.
    """
    if (most := max(map(len, per_code), default=0)) > k:
        raise _invalid(f"it has {most} hits, {k} were asked for")
    all_hits = [hit for hits in per_code for hit in hits]
    if not all_hits:
        return
    distances, tokens, labels, ties, *_ = zip(*all_hits, strict=True)
    if set(map(len, tokens)) != {TOKEN_BYTES} or min(ties) < 1:
        raise _invalid("a hit has an impossible token, distance or number of ties")
    if not 0 <= min(distances) <= max(distances) <= 8 * len(codes[0]):
        raise _invalid("a hit has an impossible token, distance or number of ties")
    if any(label is not None and not (len(label) <= MAX_LABEL and label.isprintable()) for label in set(labels)):
        raise _invalid("a hit has an impossible label")
    keys = iter(_keys_of(per_code, codes).tolist())
    for hits in per_code:
        ranks = [(hit.distance, next(keys), hit.token) for hit in hits]
        if any(later < earlier for earlier, later in pairwise(ranks)):
            raise _invalid("its hits are not in the total order")


def _invalid(why: str) -> UserError:
    return UserError("a site's answer was rejected", why, "ask that site to update ynet")


def _mix(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """Apply the finaliser of SplitMix64 to `x` in place."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
