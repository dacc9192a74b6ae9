"""LiveIndex equals brute force on a dict, whatever was added, removed and queried."""

import hashlib
import itertools
import threading
import time
from dataclasses import dataclass, field

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet.errors import UserError
from ynet.search.live_index import LiveIndex
from ynet.search.ranking import tie_keys
from ynet.search.snapshot import Neighbour
from ynet.search.sorted_codes import Base, check, merge, sort

WIDTHS = (4, 8, 16, 32)
drawn = settings(max_examples=100, deadline=None, derandomize=True)


def token_of(case: int) -> bytes:
    return hashlib.sha256(b"token %d" % case).digest()[:16]


def tokens_of(ids: np.ndarray) -> np.ndarray:
    return np.frombuffer(b"".join(map(token_of, ids.tolist())), np.uint8).reshape(-1, 16)


@dataclass
class Case:
    """One case of the brute-force oracle."""

    code: bytes
    group: int


@dataclass
class Dict:
    """The same gallery as a dict, searched in plain Python."""

    cases: dict[int, Case] = field(default_factory=dict)

    def search(self, code, k, allowed=None, radius=None, is_one_per_group=False) -> list[Neighbour]:
        rows = []
        for number, case in self.cases.items():
            distance = (int.from_bytes(code) ^ int.from_bytes(case.code)).bit_count()
            if (allowed is None or number in allowed) and (radius is None or distance <= radius):
                token = token_of(number)
                key = int(tie_keys(code, np.frombuffer(token, np.uint8)[None])[0])
                rows.append((distance, key, token, number))
        rows.sort()
        distances = [row[0] for row in rows]
        if is_one_per_group:
            best = {}
            for row in rows:
                best.setdefault(self.cases[row[3]].group, row)
            rows = list(best.values())
        return [
            Neighbour(distance, number, token, distances.count(distance)) for distance, _, token, number in rows[:k]
        ]


class Both:
    """A gallery and its dict, with the same changes. With `centres` None nearly all codes are distinct."""

    def __init__(
        self, random: np.random.Generator, width: int, n: int, groups: int = 5, centres: int | None = 3
    ) -> None:
        self.random, self.width, self.groups = random, width, groups
        self.centres = random.integers(0, 256, (centres or max(1, 3 * n), width), dtype=np.uint8)
        self.dict = Dict()
        ids = random.permutation(2 * n)[:n].astype(np.uint32)
        self.postings = LiveIndex(sort(*self._keep(self._cases(ids))), 8 * width, tokens_of)

    def _cases(self, ids: np.ndarray) -> tuple:
        codes = self.centres[self.random.integers(0, len(self.centres), len(ids))]
        flips = np.flatnonzero(self.random.random(len(ids)) < 0.3)
        codes[flips, self.random.integers(0, self.width, len(flips))] ^= np.uint8(1)
        return codes, ids, self.random.integers(0, self.groups, len(ids)).astype(np.uint32)

    def _keep(self, cases: tuple) -> tuple:
        codes, ids, groups = cases
        for i, number in enumerate(ids.tolist()):
            self.dict.cases[number] = Case(codes[i].tobytes(), int(groups[i]))
        return cases

    def add(self, ids: np.ndarray) -> None:
        self.postings.add(*self._keep(self._cases(ids)))

    def remove(self, ids: np.ndarray) -> None:
        self.postings.remove(ids)
        for number in ids.tolist():
            self.dict.cases.pop(number, None)

    def some_ids(self) -> np.ndarray:
        """Return ids; some are in the gallery, some occur twice."""
        return self.random.integers(0, 60, self.random.integers(0, 20)).astype(np.uint32)

    def query(self) -> bytes:
        code = self.centres[self.random.integers(len(self.centres))].copy()
        code[self.random.integers(self.width)] ^= np.uint8(self.random.integers(3))
        return code.tobytes()

    def assert_equal(self, k: int) -> None:
        random, postings = self.random, self.postings
        assert len(postings) == len(self.dict.cases)
        assert postings.distinct == len({case.code for case in self.dict.cases.values()})
        view = postings.view()
        for share in (None, 0, 0.1, 0.7):
            allowed = None if share is None else random.random(len(view.ids)) < share
            which = None if allowed is None else set(view.ids[allowed].tolist())
            if which is not None:  # an id that was replaced stands at two positions, and counts by the last
                allowed = np.isin(view.ids, list(which))
            for is_one_per_group in (False, True):
                codes = [self.query() for _ in range(3)]
                radius = random.choice([None, 0, 1, 8 * self.width])
                asked = {"radius": radius, "is_one_per_group": is_one_per_group}
                expected = [self.dict.search(code, k, which, **asked) for code in codes]
                assert view.search_many(codes, k, allowed=allowed, **asked) == expected
                assert view.search(codes[2], k, allowed=allowed, **asked) == expected[2]


@drawn
@given(
    st.integers(0, 2**32),
    st.sampled_from(WIDTHS),
    st.sampled_from([3, None]),
    st.integers(0, 60),
    st.integers(1, 25),
    st.lists(st.sampled_from(["add", "remove", "compact"]), max_size=6),
)
def test_search_after_any_changes_equals_brute_force(seed, width, centres, n, k, changes) -> None:
    both = Both(np.random.default_rng(seed), width, n, centres=centres)
    both.assert_equal(k)
    for change in changes:
        if change == "compact":
            both.postings.compact()
            assert both.postings.view().ids.size == len(both.postings)
        else:
            getattr(both, change)(both.some_ids())
        both.assert_equal(k)


@pytest.mark.parametrize("centres", [3, None])
def test_search_of_many_cases_equals_brute_force(centres: int | None) -> None:
    both = Both(np.random.default_rng(4), 8, 3000, groups=40, centres=centres)
    assert (both.postings.distinct > 0.7 * 3000) == (centres is None)
    for k in (1, 10, 40, 100):
        code = both.query()
        for is_one_per_group in (False, True):
            expected = both.dict.search(code, k, is_one_per_group=is_one_per_group)
            assert both.postings.search(code, k, is_one_per_group=is_one_per_group) == expected


def test_one_per_group_finds_other_patients() -> None:
    random = np.random.default_rng(1)
    both = Both(random, 8, 0, groups=1)
    both.add(np.arange(3000, dtype=np.uint32))
    both.groups = 30
    both.add(np.arange(3000, 3060, dtype=np.uint32))
    code = bytes(255 - byte for byte in both.centres[0])
    assert both.postings.search(code, 20, is_one_per_group=True) == both.dict.search(code, 20, is_one_per_group=True)


@drawn
@given(
    st.integers(0, 2**32),
    st.sampled_from(WIDTHS),
    st.integers(0, 60),
    st.integers(1, 4),
    st.integers(1, 15),
    st.sampled_from([3, None]),
)
def test_merged_searches_equal_pooled_search(seed, width, n, sites, k, centres) -> None:
    both = Both(np.random.default_rng(seed), width, n, centres=centres)
    assert_merge_is_pooling(both, split(both, sites), k)


def test_merged_searches_equal_pooled_search_on_1000_queries() -> None:
    for seed in range(20):
        both = Both(np.random.default_rng(seed), 8, 300, centres=None if seed % 2 else 3)
        parts = split(both, 4)
        for _ in range(50):
            assert_merge_is_pooling(both, parts, 10)


def split(both: Both, sites: int) -> list[LiveIndex]:
    """The gallery's cases, each at one of some sites."""
    base = both.postings.base
    at = both.random.integers(0, sites, len(base.ids))
    parts = [LiveIndex(base, both.postings.view().bits, tokens_of) for _ in range(sites)]
    for site, part in enumerate(parts):
        part.remove(base.ids[at != site])
    return parts


def assert_merge_is_pooling(both: Both, parts: list[LiveIndex], k: int) -> None:
    code = both.query()
    answers = [part.search(code, k) for part in parts]
    merged = sorted(
        (found.distance, int(tie_keys(code, np.frombuffer(found.token, np.uint8)[None])[0]), found.token)
        for found in itertools.chain(*answers)
    )[:k]
    pooled = both.postings.search(code, k)
    assert [(row[0], row[2]) for row in merged] == [(one.distance, one.token) for one in pooled]
    for one in pooled:
        at_it = [max((f.ties for f in found if f.distance == one.distance), default=0) for found in answers]
        assert one.ties == sum(at_it)


def test_search_is_independent_of_storage_order() -> None:
    both = Both(np.random.default_rng(11), 8, 500)
    cases = list(both.dict.cases.items())
    other = LiveIndex(sort(*columns(cases[:100])), 64, tokens_of)
    other.add(*columns(cases[100:][::-1]))
    for code in [both.query() for _ in range(20)]:
        assert other.search(code, 40) == both.postings.search(code, 40)


def columns(cases: list[tuple[int, Case]]) -> tuple:
    codes = np.frombuffer(b"".join(case.code for _, case in cases), np.uint8).reshape(len(cases), -1)
    numbers = [np.array(each, np.uint32) for each in zip(*((i, c.group) for i, c in cases), strict=True)]
    return codes, *numbers


@pytest.mark.parametrize(("distinct", "most_ms"), [(1_000_000, 20.0), (10_000, 10.0)])
def test_search_of_a_million_codes_takes_milliseconds(distinct: int, most_ms: float) -> None:
    random, n = np.random.default_rng(12), 1_000_000
    codes = random.integers(0, 256, (distinct, 8), dtype=np.uint8)[random.permutation(n) % distinct]
    ids = np.arange(n, dtype=np.uint32)
    gallery = LiveIndex(sort(codes, ids, ids), 64, tokens_of)
    took_ms = []
    for _ in range(9):
        code = random.bytes(8)
        start = time.perf_counter()
        gallery.search(code, 10)
        took_ms.append(1000 * (time.perf_counter() - start))
    assert min(took_ms) < most_ms  # the least: other work on this machine is not the gallery's


@pytest.mark.parametrize("width", WIDTHS)
def test_search_distances_equal_faiss(width: int) -> None:
    faiss.omp_set_num_threads(1)
    both = Both(np.random.default_rng(width), width, 2000)
    both.add(np.arange(3000, 3500, dtype=np.uint32))
    oracle = faiss.IndexBinaryFlat(8 * width)
    oracle.add(np.frombuffer(b"".join(case.code for case in both.dict.cases.values()), np.uint8).reshape(-1, width))
    for code in [both.query() for _ in range(50)]:
        distances, _ = oracle.search(np.frombuffer(code, np.uint8)[None], 25)
        assert [found.distance for found in both.postings.search(code, 25)] == distances[0].tolist()


def test_tokens_are_computed_for_tied_and_returned_cases_only() -> None:
    asked: list[int] = []

    def counted(ids: np.ndarray) -> np.ndarray:
        asked.append(len(ids))
        return tokens_of(ids)

    random = np.random.default_rng(2)
    codes = random.integers(0, 256, (10_000, 8), dtype=np.uint8)
    ids = np.arange(10_000, dtype=np.uint32)
    gallery = LiveIndex(sort(codes, ids, ids), 64, counted)
    ties = gallery.search(codes[0].tobytes(), 10)[-1].ties
    assert sum(asked) < 10 + ties


def test_base_may_be_read_only_bytes() -> None:
    both = Both(np.random.default_rng(3), 8, 500)
    base = both.postings.base
    views = [None if one is None else np.frombuffer(one.tobytes(), one.dtype).reshape(one.shape) for one in base]
    both.postings = LiveIndex(Base(*views), 64, tokens_of)
    both.add(both.some_ids())
    both.remove(both.some_ids())
    both.assert_equal(10)
    both.postings.compact()
    both.assert_equal(10)


@drawn
@given(st.integers(0, 2**32), st.sampled_from(WIDTHS), st.integers(0, 50), st.integers(0, 50), st.integers(1, 200))
def test_merge_equals_sort(seed, width, n, m, distinct) -> None:
    random = np.random.default_rng(seed)
    centres = random.integers(0, 256, (distinct, width), dtype=np.uint8)
    centres[:, : random.choice([0, width - 1])] = 0  # also codes whose first words are equal
    codes, ids = centres[random.integers(0, distinct, n + m)], np.arange(n + m, dtype=np.uint32)
    live = random.random(n) < random.choice([0.0, 0.6, 1.0])
    base, more = (sort(codes[rows], ids[rows], ids[rows]) for rows in (slice(n), slice(n, None)))
    merged = merge(base, live[base.ids], more)
    check(merged, 8 * width)
    kept = np.append(np.flatnonzero(live), np.arange(n, n + m))
    again = sort(codes[kept], ids[kept], ids[kept])
    assert merged.codes.tolist() == again.codes.tolist()
    assert (merged.starts is None) == (again.starts is None)
    if again.starts is not None:
        assert merged.starts.tolist() == again.starts.tolist()
    assert merged.ids.tolist() == merged.groups.tolist()
    assert [codes[i].tobytes() for i in merged.ids] == [codes[i].tobytes() for i in again.ids]
    assert set(merged.ids.tolist()) == set(again.ids.tolist())


def test_search_sees_state_before_or_after_a_change() -> None:
    """Each change replaces all of a hundred cases at once, so that all that one search finds have one code."""
    ids, stop = np.arange(100, dtype=np.uint32), threading.Event()

    def at(number: int) -> tuple:
        code = (1 << number % 32) - 1
        return np.tile(np.frombuffer(code.to_bytes(8, "little"), np.uint8), (100, 1)), ids, ids

    gallery = LiveIndex(sort(*at(0)), 64, tokens_of)
    failures, searches = [], [0, 0, 0]

    def ask(asker: int) -> None:
        while not stop.is_set():
            found = gallery.search(bytes(8), 200)
            if sorted(one.case_id for one in found) != ids.tolist() or len({one.distance for one in found}) != 1:
                failures.append(found)
            searches[asker] += 1

    threads = [threading.Thread(target=ask, args=(asker,)) for asker in range(3)]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + 2
    number = 0
    while time.monotonic() < ends:
        number += 1
        gallery.add(*at(number))
        if number % 7 == 0:
            gallery.compact()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert number > 20
    assert min(searches) > 20


def test_view_is_immutable() -> None:
    both = Both(np.random.default_rng(5), 8, 200)
    view, code = both.postings.view(), both.query()
    before, ids = view.search(code, 30), view.ids.tolist()
    both.remove(np.array([found.case_id for found in before], np.uint32))
    both.add(np.arange(500, 600, dtype=np.uint32))
    both.postings.compact()
    assert view.search(code, 30) == before
    assert view.ids.tolist() == ids


def test_empty_gallery_has_no_hit_and_grows() -> None:
    both = Both(np.random.default_rng(6), 8, 0)
    assert both.postings.search(bytes(8), 5) == []
    assert both.postings.search_many([], 5) == []
    assert both.postings.search_many([bytes(8)] * 2, 5, allowed=np.zeros(0, bool), is_one_per_group=True) == [[], []]
    both.postings.compact()
    both.add(np.arange(10, dtype=np.uint32))
    both.assert_equal(5)


def test_search_refuses_code_of_other_width() -> None:
    gallery = Both(np.random.default_rng(7), 8, 10).postings
    with pytest.raises(UserError, match="the gallery's have 64"):
        gallery.search(bytes(16), 5)


@pytest.mark.parametrize(
    "asked",
    [{"k": 0}, {"radius": -1}, {"allowed": np.ones(9, bool)}, {"allowed": np.ones(10, int)}],
)
def test_search_refuses_invalid_arguments(asked) -> None:
    gallery = Both(np.random.default_rng(8), 8, 10).postings
    with pytest.raises(ValueError, match=r"is|mask"):
        gallery.search(bytes(8), **{"k": 3, **asked})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda base: base._replace(ids=base.ids[:-1]),
        lambda base: base._replace(groups=base.groups.astype(np.int64)),
        lambda base: base._replace(starts=None),
        lambda base: base._replace(starts=base.starts[::-1].copy()),
        lambda base: base._replace(starts=base.starts + np.uint32(1)),
        lambda base: base._replace(codes=base.codes.astype(np.int64)),
        lambda base: base._replace(codes=np.asfortranarray(np.repeat(base.codes, 2, axis=0))),
    ],
)
def test_check_refuses_arrays_that_do_not_fit(spoil) -> None:
    base = Both(np.random.default_rng(9), 8, 50).postings.base
    check(base, 64)
    with pytest.raises(ValueError, match="no gallery"):
        check(spoil(base), 64)


def test_index_of_ten_million_opens_at_once_in_little_memory() -> None:
    n = 10_000_000
    numbers = np.arange(n, dtype=np.uint32)
    base = Base(np.arange(n, dtype=np.uint64)[None], None, numbers, numbers)
    assert base.nbytes <= 24 * n
    took_s = []
    for _ in range(3):
        start = time.perf_counter()
        gallery = LiveIndex(base, 64, tokens_of)
        took_s.append(time.perf_counter() - start)
    assert min(took_s) < 0.2
    assert [found.case_id for found in gallery.search((77).to_bytes(8, "little"), 1)] == [77]
