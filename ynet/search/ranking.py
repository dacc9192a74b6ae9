"""Exact search of one site's gallery by Hamming distance, under a law of ranking that every site computes alike.

The law. Hits stand in the order of (distance, detail, tie key, token), all ascending; a hit without a detail distance
counts as one of UNKNOWN_DETAIL bits, half of a detail code: what a code that has nothing to do with the query's has.
With all words 64 bits, unsigned, little-endian, sums modulo 2^64:

    q0, q1 = words 0 and 1 of SHA-256(the query's code)
    t0, t1 = words 0 and 1 of the case token, 16 bytes
    tie key = mix(mix(t0 ^ q0) ^ t1 ^ q1)
    mix(x): x ^= x >> 30; x *= 0xBF58476D1CE4E5B9; x ^= x >> 27; x *= 0x94D049BB133111EB; x ^= x >> 31

`mix` is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). The key depends on query and token alone: no
site, age or place in storage is favoured, the same query is answered the same, and galleries searched apart and
merged rank as one. Tokens are outputs of an HMAC, so the key need only spread them, not hide them; a cryptographic
hash of a million ties would take a second.

The scan is numpy's, over the distinct codes: at 10^6 codes as fast as faiss (which needs a second pass to find where
a tie group ends), with filters, and without a thread pool of its own beside that of training. faiss is the oracle.
"""

import hashlib
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8, UInt64

from ynet.errors import UserError
from ynet.federation.protocol import MAX_LABEL
from ynet.search.hit import Hit as Hit

CODE_BYTES = (4, 8, 16, 32)
TOKEN_BYTES = 16
DETAIL_BITS = 32
UNKNOWN_DETAIL = DETAIL_BITS // 2
_CHUNK = 1 << 15  # tokens mixed at a time, to stay in the processor's cache


class Index:
    """A gallery's codes in memory: the distinct ones, and for each the cases that have it. Never changes."""

    def __init__(
        self,
        codes: UInt8[np.ndarray, "n bytes"],
        tokens: UInt8[np.ndarray, "n 16"],
        labels: Sequence[str | None],
    ) -> None:
        """Case i has row i of each. Raises ValueError when they do not fit together."""
        if codes.ndim != 2 or codes.shape[1] not in CODE_BYTES or codes.dtype != np.uint8:
            raise ValueError(f"codes of shape {codes.shape} and type {codes.dtype} are no packed codes")
        if tokens.shape != (len(codes), TOKEN_BYTES) or len(labels) != len(codes):
            raise ValueError(f"{len(codes)} codes, tokens of shape {tokens.shape}, {len(labels)} labels")
        words = _words(codes)
        self._order = np.lexsort(words)  # cases of the same code stand together
        words = words[:, self._order]
        is_first = np.ones(len(codes), bool)
        is_first[1:] = (words[:, 1:] != words[:, :-1]).any(axis=0)
        self.bits = 8 * codes.shape[1]
        self._codes = words[:, is_first]
        self._starts: Int64[np.ndarray, " distinct+1"] = np.append(np.flatnonzero(is_first), len(codes))
        self._tokens = np.ascontiguousarray(tokens[self._order])
        positions: dict[str | None, int] = {}
        numbers = np.fromiter((positions.setdefault(label, len(positions)) for label in labels), np.int32, len(labels))
        self._labels, self._label_of = tuple(positions), numbers[self._order]

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def distinct(self) -> int:
        """The number of different codes."""
        return int(self._codes.shape[1])

    def search(self, code: bytes, k: int, allowed: Bool[np.ndarray, " n"] | None = None) -> list[Hit]:
        """The k nearest cases by the law of ranking, or all when there are fewer; only where `allowed` is true.

        Raises UserError when the code is not as wide as the gallery's.
        """
        if 8 * len(code) != self.bits:
            why = f"the code has {8 * len(code)} bits, the gallery's have {self.bits}"
            raise UserError("the gallery cannot be searched", why, "ask with the model that the gallery has")
        if k < 1:
            raise ValueError(f"k is {k}")
        is_kept = None if allowed is None else allowed[self._order]
        near, distances = self._within_reach(code, k, is_kept)
        members = _ranges(self._starts[near], self._starts[near + 1])
        distances = np.repeat(distances, self._starts[near + 1] - self._starts[near])
        if is_kept is not None:
            members, distances = members[is_kept[members]], distances[is_kept[members]]
        return self._rank(code, k, members, distances)

    def _within_reach(
        self, code: bytes, k: int, is_kept: Bool[np.ndarray, " n"] | None
    ) -> tuple[Int64[np.ndarray, " near"], Shaped[np.ndarray, " near"]]:
        """The distinct codes that can hold the k nearest cases or their ties, and their distances."""
        distances = _hamming(self._codes, np.frombuffer(code, np.uint8))
        unusable = np.iinfo(distances.dtype).max
        if is_kept is not None and len(self):
            distances[~np.logical_or.reduceat(is_kept, self._starts[:-1])] = unusable
        lowest, highest = 0, self.bits
        while lowest < highest:  # the least distance within which k distinct codes lie
            middle = (lowest + highest) // 2
            if np.count_nonzero(distances <= middle) >= k:
                highest = middle
            else:
                lowest = middle + 1
        near = np.flatnonzero(distances <= lowest)
        return near, distances[near]

    def _rank(
        self, code: bytes, k: int, members: Int64[np.ndarray, " m"], distances: Shaped[np.ndarray, " m"]
    ) -> list[Hit]:
        """The first k of `members`, among which are all cases up to and at the distance of the k-th."""
        sizes = np.bincount(distances, minlength=self.bits + 1)
        boundary = int(np.searchsorted(np.cumsum(sizes), k))  # beyond every distance when there are fewer than k
        is_nearer = distances < boundary
        tied = members[distances == boundary]
        tied = _first(tied, self._keys(code, tied), k - int(is_nearer.sum()))
        chosen = [(int(d), m) for d, m in zip(distances[is_nearer], members[is_nearer], strict=True)]
        chosen += [(boundary, m) for m in tied]
        keys = self._keys(code, np.array([member for _, member in chosen], np.int64))
        rows = [
            (distance, int(key), self._tokens[member].tobytes(), self._label_of[member])
            for (distance, member), key in zip(chosen, keys, strict=True)
        ]
        return [
            Hit(distance, token, self._labels[label], int(sizes[distance]))
            for distance, _, token, label in sorted(rows)[:k]
        ]

    def _keys(self, code: bytes, members: Int64[np.ndarray, " m"]) -> UInt64[np.ndarray, " m"]:
        return tie_keys(code, self._tokens[members])


def tie_keys(code: bytes, tokens: UInt8[np.ndarray, "n 16"]) -> UInt64[np.ndarray, " n"]:
    """The tie key of each token for one query: the law in the head of this file."""
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
    """The tie key of each token for its own query, by number, all at once.

    A code's digest enters the law XORed to the token: XORed by another's too, it stands in that one's place.
    """
    if len(codes) == 1:
        return tie_keys(codes[0], tokens)
    digests = np.frombuffer(b"".join(hashlib.sha256(code).digest()[:TOKEN_BYTES] for code in codes), "<u8")
    digests = digests.reshape(len(codes), 2)
    words = np.ascontiguousarray(tokens).view("<u8") ^ (digests ^ digests[:1])[query]
    return tie_keys(codes[0], words.view(np.uint8))


def merge(answers: Mapping[str, Sequence[Hit]], code: bytes, k: int) -> list[Hit]:
    """The k first of all sites' hits by the law of ranking: what one index over all their galleries would answer.

    Each hit gets its site and its rank. It holds when each site was asked for k hits. Then, too, the ties of one pooled
    gallery at the distance of a merged hit are the sum of the sites' own at it. Raises ValueError when a token is not
    of 16 bytes.
    """
    return merge_many({site: [hits] for site, hits in answers.items()}, [code], k)[0]


def merge_many(answers: Mapping[str, Sequence[Sequence[Hit]]], codes: Sequence[bytes], k: int) -> list[list[Hit]]:
    """What `merge` makes of the hits for each code, which each site has in the order of the codes."""
    rows = [
        [(site, hit) for site, per_code in answers.items() for hit in per_code[number]] for number in range(len(codes))
    ]
    keys = iter(_keys_of([[hit for _, hit in row] for row in rows], codes).tolist())
    ranked = (
        sorted((*nearness(hit), next(keys), hit.token, site, at) for at, (site, hit) in enumerate(row)) for row in rows
    )
    return [
        [row[at][1]._replace(site=row[at][0], rank=rank) for rank, (*_, at) in enumerate(ranks[:k], start=1)]
        for row, ranks in zip(rows, ranked, strict=True)
    ]


def _keys_of(per_code: Sequence[Sequence[Hit]], codes: Sequence[bytes]) -> UInt64[np.ndarray, " hits"]:
    """The tie keys of the hits for each code, one after the other."""
    query = np.repeat(np.arange(len(codes)), [len(hits) for hits in per_code])
    tokens = np.frombuffer(b"".join(hit.token for hits in per_code for hit in hits), np.uint8)
    return tie_keys_many(codes, query, tokens.reshape(len(query), TOKEN_BYTES))


def nearness(hit: Hit) -> tuple[int, int]:
    """What a hit is ranked by before the tie key: its distance, and that of its detail code, both in bits."""
    return hit.distance, UNKNOWN_DETAIL if hit.detail is None else hit.detail


def check_answers(per_code: Sequence[Sequence[Hit]], codes: Sequence[bytes], k: int) -> None:
    """Refuse hits, for each code of a query, that no gallery answers: another site's word is not trusted.

    All codes have one width. Raises UserError.
    """
    if (most := max(map(len, per_code), default=0)) > k:
        raise _unfit(f"it has {most} hits, {k} were asked for")
    all_hits = [hit for hits in per_code for hit in hits]
    if not all_hits:
        return
    distances, tokens, labels, ties, details, *_ = zip(*all_hits, strict=True)
    if set(map(len, tokens)) != {TOKEN_BYTES} or min(ties) < 1:
        raise _unfit("a hit has a token, a distance or a number of ties that cannot be")
    if not 0 <= min(distances) <= max(distances) <= 8 * len(codes[0]):
        raise _unfit("a hit has a token, a distance or a number of ties that cannot be")
    if any(detail is not None and not 0 <= detail <= DETAIL_BITS for detail in set(details)):
        raise _unfit("a hit has a detail distance that cannot be")
    if any(label is not None and not (len(label) <= MAX_LABEL and label.isprintable()) for label in set(labels)):
        raise _unfit("a hit has a label that cannot be")
    keys = iter(_keys_of(per_code, codes).tolist())
    for hits in per_code:
        ranks = [(*nearness(hit), next(keys), hit.token) for hit in hits]
        if any(later < earlier for earlier, later in pairwise(ranks)):
            raise _unfit("its hits are not in the order that all sites agree on")


def _unfit(why: str) -> UserError:
    return UserError("an answer was thrown away", why, "let that site update ynet")


def _words(codes: UInt8[np.ndarray, "n bytes"]) -> UInt64[np.ndarray, "words n"]:
    """Packed codes as rows of 64-bit words, so that a scan reads memory in one run."""
    words = np.ascontiguousarray(codes).view("<u4" if codes.shape[1] == 4 else "<u8")
    rows: UInt64[np.ndarray, "words n"] = np.ascontiguousarray(words.T).astype(np.uint64)
    return rows


def _hamming(codes: UInt64[np.ndarray, "words n"], code: UInt8[np.ndarray, " bytes"]) -> Shaped[np.ndarray, " n"]:
    """Bits in which each code differs from `code`, in a type that holds one number more than there are bits."""
    query = _words(code[None])
    distances = np.bitwise_count(codes[0] ^ query[0])
    if len(query) > 1:
        distances = distances.astype(np.uint16)
    for row, word in zip(codes[1:], query[1:], strict=True):
        distances += np.bitwise_count(row ^ word)
    return np.asarray(distances)


def _mix(x: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finaliser of SplitMix64. Writes over `x`."""
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def _ranges(starts: Int64[np.ndarray, " r"], ends: Int64[np.ndarray, " r"]) -> Int64[np.ndarray, " m"]:
    """The numbers of all ranges [start, end), one range after the other."""
    sizes = ends - starts
    before = np.cumsum(sizes) - sizes
    numbers: Int64[np.ndarray, " m"] = np.arange(sizes.sum()) + np.repeat(starts - before, sizes)
    return numbers


def _first(
    members: Int64[np.ndarray, " m"], keys: UInt64[np.ndarray, " m"], wanted: int
) -> Int64[np.ndarray, " chosen"]:
    """The members with the `wanted` least keys, in no order; more when keys are equal."""
    if len(members) <= wanted:
        return members
    chosen: Int64[np.ndarray, " chosen"] = members[keys <= np.partition(keys, wanted - 1)[wanted - 1]]
    return chosen
