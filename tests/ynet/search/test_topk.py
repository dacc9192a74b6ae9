"""The compiled ranking equals numpy's, which test_live_index.py compares with brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from needs import needs

from ynet.search import scan, topk
from ynet.search.live_index import LiveIndex
from ynet.search.sorted_codes import sort
from ynet_client.gallery.case_tokens import Tokens

pytestmark = [
    needs("cc", unless=topk.IS_COMPILED),
    pytest.mark.may_skip,
    pytest.mark.skipif(scan.COMPILED is not None and not topk.IS_COMPILED, reason="this processor has no AES"),
]
TOKENS = Tokens(b"secret", b"salt", "a" * 64)


def both(random: np.random.Generator, n: int, width: int, *, is_distinct: bool) -> tuple[LiveIndex, LiveIndex]:
    """The same cases ranked by the compiled code and by numpy: codes nearly all distinct or few, cases new and gone."""
    made = []
    codes = random.integers(0, 256, (n, width), np.uint8)
    if not is_distinct:
        codes = codes % 3 * (np.arange(width) < 2).astype(np.uint8)
    ids = random.permutation(2 * n)[:n].astype(np.uint32) + 1
    gone, first = ids[random.random(n) < 0.2], n // 2
    for key in (TOKENS.key, None):
        base = sort(codes[:first], ids[:first], ids[:first] // 4)
        postings = LiveIndex(base, 8 * width, TOKENS.of, key)
        postings.add(codes[first:], ids[first:], ids[first:] // 4)
        postings.remove(gone)
        made.append(postings)
    return made[0], made[1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.integers(1, 400),
    st.sampled_from([4, 8, 16, 32]),
    st.booleans(),
    st.sampled_from([1, 3, 10, 500]),
    st.sampled_from([None, 0, 2, 7, 30]),
    st.booleans(),
)
def test_compiled_ranking_equals_numpy(
    seed: int, n: int, width: int, is_distinct: bool, k: int, radius: int | None, is_filtered: bool
) -> None:
    random = np.random.default_rng(seed)
    compiled, plain = both(random, n, width, is_distinct=is_distinct)
    codes = [random.integers(0, 256 if is_distinct else 3, width, np.uint8).tobytes() for _ in range(4)]
    codes = [*codes, codes[0]]  # one of them is asked twice
    allowed = random.random(n) < 0.5 if is_filtered else None
    asked = {"allowed": allowed, "radius": radius}
    assert compiled.search_many(codes, k, **asked) == plain.search_many(codes, k, **asked)


def test_empty_batch_has_no_result() -> None:
    compiled, plain = both(np.random.default_rng(0), 5, 8, is_distinct=False)
    assert compiled.search_many([], 3) == plain.search_many([], 3) == []


def test_compiled_ranking_of_large_tie_groups_equals_numpy() -> None:
    random, n = np.random.default_rng(1), 20_000
    codes, ids = np.zeros((n, 8), np.uint8), random.permutation(n).astype(np.uint32)
    base = sort(codes, ids, ids)
    compiled, plain = (LiveIndex(base, 64, TOKENS.of, key) for key in (TOKENS.key, None))
    for k in (1, 10, 100, n):
        assert compiled.search(bytes(8), k) == plain.search(bytes(8), k)


def test_token_of_32_bit_case_id_opens() -> None:
    ids = np.array([2**32 - 1, 2**31, 1], np.uint32)
    found = LiveIndex(sort(np.zeros((3, 8), np.uint8), ids, ids), 64, TOKENS.of, TOKENS.key).search(bytes(8), 3)
    assert sorted(TOKENS.case_id(one.token) or 0 for one in found) == sorted(ids.tolist())
    assert all(TOKENS.case_id(one.token) == one.case_id for one in found)
