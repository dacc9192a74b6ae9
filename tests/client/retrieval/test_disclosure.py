"""Disclosure control: laws over galleries on real files, and the smallest case of each rule."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet.federation.retrieval_pb2 import Refused
from ynet.search.hit import Hit
from ynet.search.ranking import check_answers, tie_keys
from ynet_client.gallery.case_rows import GalleryCase
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.stored_codes import CaseCode
from ynet_client.retrieval import disclosure
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.quotas import Quotas, questions
from ynet_client.retrieval.wire import CodedQuery
from ynet_client.settings import Disclosure

MODEL = "a" * 64
QUERY = CodedQuery(MODEL, (bytes(8),), Query(5))


def narrowed(filters: Filters) -> CodedQuery:
    return CodedQuery(MODEL, (bytes(8),), Query(5, filters))


DAY_S = 86_400.0


def case(number: int, patient: int, **given: object) -> GalleryCase:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    row = {"label": "x", "split": "train", "attributes": {}, **given}
    return GalleryCase(f"{number}.png", digest, patient=f"P{patient}", **row)  # type: ignore[arg-type]


def filled(folder: Path, cases: list[GalleryCase], codes: list[bytes]) -> Gallery:
    """A gallery of some cases; where a gallery lies there already, that one, so that tokens stay what they are."""
    gallery = Gallery.open(folder / "gallery.sqlite", b"secret")
    gallery.sync_cases(cases)
    code_of = {case.image: code for case, code in zip(cases, codes, strict=True)}
    gallery.add_codes(MODEL, [CaseCode(case.id, code_of[case.image]) for case in gallery.missing(MODEL)])
    gallery.activate(MODEL)
    return gallery


def empty_gallery(folder: Path, cases: list[GalleryCase]) -> Path:
    """A folder with a gallery of some cases without codes."""
    made = folder / "empty"
    if not made.exists():
        made.mkdir()
        gallery = Gallery.open(made / "gallery.sqlite", b"secret")
        gallery.sync_cases(cases)
        gallery.close()
    return made


# --- coarse distances


def coarse_oracle(gallery: Gallery, coded: CodedQuery, step: int, n: int) -> list[Hit]:
    """The law of ranking over coarse distances, from everything the gallery has."""
    code, query = coded.codes[0], coded.query
    hits = []
    for hit in gallery.search(MODEL, [code], n)[0]:
        hits.append(hit._replace(distance=min(-(-hit.distance // step) * step, 8 * len(code))))
    if query.radius is not None:
        hits = [hit for hit in hits if hit.distance <= query.radius]
    keys = {hit.token: int(tie_keys(code, np.frombuffer(hit.token, np.uint8)[None])[0]) for hit in hits}
    hits.sort(key=lambda hit: (hit.distance, keys[hit.token], hit.token))
    sizes = [hit.distance for hit in hits]
    hits = [hit._replace(ties=sizes.count(hit.distance)) for hit in hits]
    if query.one_per_patient:
        patients = [gallery.case_of(hit.token).patient for hit in hits]
        hits = [hit for place, hit in enumerate(hits) if patients[place] not in patients[:place]]
    return hits[: query.k]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.sampled_from([2, 3, 7, 16, 64]),
    st.integers(1, 12),
    st.booleans(),
    st.none() | st.integers(0, 64),
)
def test_coarse_answer_ranks_by_coarse_distance_only(
    seed: int, n: int, step: int, k: int, per_patient: bool, radius: int | None
) -> None:
    random = np.random.default_rng(seed)
    codes = [random.bytes(8) if random.random() < 0.5 else bytes(7) + random.bytes(1) for _ in range(n)]
    cases = [case(number, int(random.integers(n))) for number in range(n)]
    query = CodedQuery(MODEL, (bytes(8),), Query(k, radius=radius, one_per_patient=per_patient))
    with tempfile.TemporaryDirectory() as folder:
        gallery = filled(Path(folder), cases, codes)
        try:
            (found,) = disclosure.hits(Disclosure(distance_step=step), gallery, query)
            assert found == coarse_oracle(gallery, query, step, n)
        finally:
            gallery.close()
    check_answers([found], [query.codes[0]], k)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from([4, 8, 16]), st.booleans(), st.none() | st.integers(0, 64))
def test_coarse_answer_hides_order_within_a_step(seed: int, step: int, per_patient: bool, radius: int | None) -> None:
    """Moving every case about inside its step changes nothing in the answer."""
    random = np.random.default_rng(seed)
    cases = [case(number, number // 2) for number in range(20)]
    steps = random.integers(1, 64 // step, 20)
    query = CodedQuery(MODEL, (bytes(8),), Query(6, radius=radius, one_per_patient=per_patient))
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("one", "other"):
            distances = [int(random.integers((s - 1) * step + 1, s * step + 1)) for s in steps]
            codes = [((1 << distance) - 1).to_bytes(8) for distance in distances]
            shutil.copytree(empty_gallery(Path(folder), cases), Path(folder) / name)
            gallery = filled(Path(folder) / name, cases, codes)
            answers.append(disclosure.hits(Disclosure(distance_step=step), gallery, query))
            gallery.close()
    assert answers[0] == answers[1]


# --- groups


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    """Ten patients with two cases each: eight x, two y; all but one case have the attribute."""
    cases = [
        case(n, n // 2, label="y" if n // 2 >= 8 else "x", attributes={"scanner": "S" if n else "T"}) for n in range(20)
    ]
    opened = filled(tmp_path, cases, [bytes(7) + bytes([n]) for n in range(20)])
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("filters", "minimum", "is_suppressed"),
    [
        (Filters(), 10, False),
        (Filters(), 11, True),
        (Filters(labels=("y",)), 2, False),
        (Filters(labels=("y",)), 3, True),
        (Filters(labels=("x",)), 2, False),
        (Filters(labels=("x",)), 3, True),  # y is known by subtraction
        (Filters(attributes=(("scanner", "S"),)), 2, True),  # all but one case
        (Filters(labels=("z",)), 1, True),  # a group of nobody is suppressed too
        (Filters(labels=("z",)), 0, False),
    ],
)
def test_group_too_small_or_with_too_few_excluded_is_suppressed(
    gallery: Gallery, filters: Filters, minimum: int, is_suppressed: bool
) -> None:
    assert disclosure.is_suppressed(Disclosure(minimum_group=minimum), gallery, MODEL, filters) is is_suppressed


def test_labels_are_sent_only_where_allowed(gallery: Gallery) -> None:
    (found,) = disclosure.hits(
        Disclosure(), gallery, replace(QUERY, query=Query(6))
    )  # five are tied for the last places
    assert {hit.label for hit in found} == {"x", "y"}
    for step in (1, 4):
        (hits,) = disclosure.hits(Disclosure(labels=False, distance_step=step), gallery, QUERY)
        assert {hit.label for hit in hits} == {None}


def test_missing_label_is_hidden_like_any_other_where_labels_are_not_sent(tmp_path: Path) -> None:
    gallery = filled(tmp_path, [case(n, n, label="") for n in range(6)], [bytes(8)] * 6)
    for policy, label in ((Disclosure(), ""), (Disclosure(labels=False), None)):
        (hits,) = disclosure.hits(policy, gallery, QUERY)
        assert {hit.label for hit in hits} == {label}


# --- who, and what


@pytest.mark.parametrize(
    ("policy", "query", "reason"),
    [
        (Disclosure(), QUERY, None),
        (Disclosure(answers=False), QUERY, Refused.NOT_ALLOWED),
        (Disclosure(deny=("B",)), QUERY, Refused.NOT_ON_THE_LIST),
        (Disclosure(allow=("C",)), QUERY, Refused.NOT_ON_THE_LIST),
        (Disclosure(allow=("B",)), QUERY, None),
        (Disclosure(allow=("B",), deny=("B",)), QUERY, Refused.NOT_ON_THE_LIST),
        (Disclosure(max_k=4), QUERY, Refused.TOO_LARGE),
        (Disclosure(labels=False), narrowed(Filters(labels=("x",))), Refused.NOT_ALLOWED),
        (Disclosure(), narrowed(Filters(labels=("x",))), None),
        (Disclosure(), narrowed(Filters(attributes=(("a", "b"),))), Refused.NOT_ALLOWED),
        (Disclosure(attributes=("a",)), narrowed(Filters(attributes=(("a", "b"),))), None),
        (Disclosure(attributes=("a",)), narrowed(Filters(since="2020-01-01")), Refused.NOT_ALLOWED),
        (Disclosure(attributes=("date",)), narrowed(Filters(since="2020-01-01")), None),
    ],
)
def test_query_against_policy_is_refused_with_reason(policy: Disclosure, query: CodedQuery, reason: int | None) -> None:
    assert disclosure.refusal(policy, "B", query) == reason


# --- quotas


def asked(*numbers: int, k: int = 5) -> list[bytes]:
    return questions(CodedQuery(MODEL, tuple(bytes([n]) * 8 for n in numbers), Query(k)))


def test_quota_counts_new_codes_once_across_restarts(tmp_path: Path) -> None:
    policy = Disclosure(queries_per_day_and_site=3)
    first = Quotas(tmp_path)
    assert first.spend(policy, "B", "u", asked(1, 2), DAY_S)
    assert first.spend(policy, "B", "u", asked(2, 1), DAY_S + 5)
    first.close()
    again = Quotas(tmp_path)
    assert not again.spend(policy, "B", "u", asked(3, 4), DAY_S + 6)
    assert again.spend(policy, "B", "u", asked(1, 3), DAY_S + 7)  # what was refused has spent nothing
    assert not again.spend(policy, "B", "u", asked(1, k=6), DAY_S + 8)  # asked otherwise it is another question
    assert again.spend(policy, "B", "u", asked(1, 2, 3), DAY_S + 9)
    assert again.spend(policy, "C", "u", asked(4), DAY_S + 9)
    assert again.spend(policy, "B", "u", asked(4, 5, 6), 2 * DAY_S)  # the next day
    again.close()


def test_quota_of_user_and_quota_of_site_both_hold(tmp_path: Path) -> None:
    policy = Disclosure(queries_per_day_and_site=3, queries_per_day_and_user=2)
    quotas = Quotas(tmp_path)
    assert not quotas.spend(policy, "B", "u", asked(1, 2, 3), DAY_S)
    assert quotas.spend(policy, "B", "u", asked(1, 2), DAY_S)
    assert quotas.spend(policy, "B", "v", asked(3), DAY_S)
    assert not quotas.spend(policy, "B", "w", asked(1), DAY_S)
    quotas.close()
