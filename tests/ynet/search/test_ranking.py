"""The total order: tie keys, merging equals one pooled search, and validation of other sites' answers."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pooled_search import pooled_search

from ynet.errors import UserError
from ynet.search.hit import Hit
from ynet.search.ranking import CODE_BYTES, check_answers, merge, tie_keys

LABELS = ("frontal", "temporal", None)
WORD = (1 << 64) - 1
GOLDEN = [7522719386157606436, 1745604073234284811, 12376675885419695528]


def mix(x: int) -> int:
    """`mix` of the total order, in plain integers."""
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & WORD
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & WORD
    return x ^ x >> 31


def tie_key(code: bytes, token: bytes) -> int:
    digest = hashlib.sha256(code).digest()
    q0, q1 = (int.from_bytes(digest[at : at + 8], "little") for at in (0, 8))
    t0, t1 = (int.from_bytes(token[at : at + 8], "little") for at in (0, 8))
    return mix(mix(t0 ^ q0) ^ t1 ^ q1)


def brute_force(codes, tokens, labels, code: bytes, k: int) -> list[Hit]:
    """The total order in plain Python."""
    rows = []
    for other, token, label in zip(codes, tokens, labels, strict=True):
        distance = (int.from_bytes(code) ^ int.from_bytes(other.tobytes())).bit_count()
        rows.append((distance, tie_key(code, token.tobytes()), token.tobytes(), label))
    rows.sort(key=lambda row: row[:3])
    ties = [distance for distance, *_ in rows]
    return [Hit(distance, token, label, ties.count(distance)) for distance, _, token, label in rows[:k]]


def gallery(random: np.random.Generator, n: int, width: int, distinct: int):
    """Return codes with many ties and near ties: a few centres, some with one bit flipped."""
    centres = random.integers(0, 256, (distinct, width), dtype=np.uint8)
    codes = centres[random.integers(0, distinct, n)]
    flips = np.flatnonzero(random.random(n) < 0.3)
    codes[flips, random.integers(0, width, len(flips))] ^= np.uint8(1)
    tokens = random.integers(0, 256, (n, 16), dtype=np.uint8)
    labels = [LABELS[number] for number in random.integers(0, 3, n)]
    return codes, tokens, labels


def query(random: np.random.Generator, codes: np.ndarray) -> bytes:
    """Return a code of the gallery half of the time, else a random one."""
    if len(codes) and random.random() < 0.5:
        return codes[random.integers(len(codes))].tobytes()
    return random.integers(0, 256, codes.shape[1], dtype=np.uint8).tobytes()


drawn = settings(max_examples=60, deadline=None, derandomize=True)


@drawn
@given(st.integers(0, 2**32), st.integers(0, 80), st.sampled_from(CODE_BYTES), st.integers(1, 8), st.integers(1, 30))
def test_pooled_search_equals_plain_python(seed: int, n: int, width: int, distinct: int, k: int) -> None:
    random = np.random.default_rng(seed)
    codes, tokens, labels = gallery(random, n, width, distinct)
    code = query(random, codes)
    assert pooled_search(codes, tokens, labels, code, k) == brute_force(codes, tokens, labels, code, k)


@drawn
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from(CODE_BYTES), st.integers(1, 5), st.integers(1, 15))
def test_merge_equals_pooled_search(seed: int, n: int, width: int, sites: int, k: int) -> None:
    random = np.random.default_rng(seed)
    assert_merge_is_pooling(random, *gallery(random, n, width, 3), sites=sites, k=k)


def test_merge_equals_pooled_search_on_1000_queries() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        codes, tokens, labels = gallery(random, 300, 8, 6)
        for _ in range(50):
            assert_merge_is_pooling(random, codes, tokens, labels, sites=4, k=10)


def found(hit: Hit) -> Hit:
    """The hit as its own site sends it."""
    return Hit(*hit[:4])


def assert_merge_is_pooling(random, codes, tokens, labels, *, sites: int, k: int) -> None:
    code = query(random, codes)
    at = random.integers(0, sites, len(codes))
    answers = {
        f"site {site}": pooled_search(
            codes[at == site], tokens[at == site], [labels[i] for i in np.flatnonzero(at == site)], code, k
        )
        for site in range(sites)
    }
    pooled = pooled_search(codes, tokens, labels, code, k)
    merged = merge(answers, code, k)
    assert [found(hit)._replace(ties=0) for hit in merged] == [hit._replace(ties=0) for hit in pooled]
    owner = {token.tobytes(): f"site {site}" for token, site in zip(tokens, at, strict=True)}
    assert [hit.rank for hit in merged] == list(range(1, len(pooled) + 1))
    assert [hit.site for hit in merged] == [owner[hit.token] for hit in pooled]
    for hit in pooled:
        of_each = [{h.ties for h in hits if h.distance == hit.distance} for hits in answers.values()]
        assert hit.ties == sum(min(ties) for ties in of_each if ties)


def test_tie_keys_favour_no_position() -> None:
    random = np.random.default_rng(3)
    n, asked = 200, 2000
    tokens = random.integers(0, 256, (n, 16), dtype=np.uint8)
    chosen = np.zeros(n)
    for _ in range(asked):
        chosen[tie_keys(random.bytes(8), tokens).argmin()] += 1
    chi_square = ((chosen - asked / n) ** 2 / (asked / n)).sum()
    assert 130 < chi_square < 290  # 199 degrees of freedom: within about 4.5 standard deviations


def test_tie_keys_equal_golden_values() -> None:
    codes = [bytes(range(8)), bytes(32), b"\xff" * 4]
    tokens = np.array([list(range(16)), [255] * 16, [0] * 16], np.uint8)
    for code in codes:
        assert tie_keys(code, tokens).tolist() == [tie_key(code, token.tobytes()) for token in tokens]
    assert tie_keys(codes[0], tokens).tolist() == GOLDEN


def test_merge_of_no_hits_is_empty() -> None:
    assert merge({}, bytes(8), 5) == merge({"A": []}, bytes(8), 5) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda hits: hits[::-1],
        lambda hits: hits * 4,
        lambda hits: [hits[0]._replace(token=b"short"), *hits[1:]],
        lambda hits: [hits[0]._replace(distance=-1), *hits[1:]],
        lambda hits: [*hits[:-1], hits[-1]._replace(distance=65)],
        lambda hits: [hits[0]._replace(ties=0), *hits[1:]],
        lambda hits: [hits[0]._replace(label="\x1b[2J"), *hits[1:]],
        lambda hits: [hits[0]._replace(label="x" * 65), *hits[1:]],
    ],
)
def test_check_answers_rejects_impossible_hits(spoil) -> None:
    random = np.random.default_rng(5)
    codes, tokens, labels = gallery(random, 50, 8, 5)
    code = query(random, codes)
    hits = pooled_search(codes, tokens, labels, code, 10)
    check_answers([hits], [code], 10)
    with pytest.raises(UserError, match="was rejected"):
        check_answers([spoil(hits)], [code], 10)


def test_merged_hit_names_its_site() -> None:
    near, far = Hit(1, bytes(16), None, 1), Hit(2, b"\1" * 16, "frontal", 3)
    assert merge({"A": [far], "B": [near]}, bytes(8), 2) == [
        near._replace(site="B", rank=1),
        far._replace(site="A", rank=2),
    ]


@drawn
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 4), st.integers(1, 12))
def test_merge_follows_total_order(seed: int, n: int, sites: int, k: int) -> None:
    random = np.random.default_rng(seed)
    code = random.bytes(8)
    hits = [Hit(int(random.integers(3)), random.bytes(16), None, 1) for _ in range(n)]

    def rank(hit: Hit) -> tuple[int, int, bytes]:
        return hit.distance, tie_key(code, hit.token), hit.token

    answers = {str(site): sorted(hits[site::sites], key=rank)[:k] for site in range(sites)}
    for answer in answers.values():
        check_answers([answer], [code], k)
    assert [found(hit) for hit in merge(answers, code, k)] == sorted(hits, key=rank)[:k]
