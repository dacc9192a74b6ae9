"""A query and its JSON: what is written is read, and a value without a meaning is refused wherever it is made."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet.errors import RefusedError, UserError
from ynet.search.hit import Hit
from ynet_client.gallery.filters import Filters
from ynet_client.retrieval.noise import Noise
from ynet_client.retrieval.query import MAX_K, Query, read_query
from ynet_client.retrieval.results import Answer, Outcome

TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=8)
QUERIES = st.builds(
    Query,
    k=st.integers(1, MAX_K),
    filters=st.builds(
        Filters,
        labels=st.lists(TEXT, max_size=3).map(tuple),
        split=st.sampled_from(["", "train", "test"]),
        attributes=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
        since=st.sampled_from(["", "2020-02-29"]),
    ),
    radius=st.none() | st.integers(0, 256),
    one_per_patient=st.booleans(),
    sites=st.lists(st.sampled_from(["A", "B", "bern-2"]), max_size=2).map(tuple),
    epsilon=st.none() | st.floats(0.01, 20),
)
HITS = st.builds(
    Hit,
    st.integers(0, 256),
    st.binary(min_size=16, max_size=16),
    st.none() | TEXT,
    st.integers(1, 99),
    TEXT,
    st.none() | st.integers(1, MAX_K),
    st.none() | TEXT,
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(QUERIES)
def test_query_read_from_its_json_is_the_same(query: Query) -> None:
    assert read_query(query.to_json()) == query


def test_query_from_empty_json_has_the_defaults() -> None:
    assert read_query("{}") == Query()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"radiu": 3}', "radius"),
        ('{"filters": {"label": ["x"]}}', "labels"),
        ('{"k": "many"}', "'k'"),
        ('{"epsilon": "x"}', "'epsilon'"),
    ],
)
def test_bad_json_is_refused_and_key_is_named(text: str, named: str) -> None:
    with pytest.raises(UserError) as raised:
        read_query(text)
    assert named in str(raised.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, '"query"', "{"])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a JSON object"):
        read_query(text)


@pytest.mark.parametrize(
    "values",
    [
        {"radius": -1},
        {"radius": 257},
        {"epsilon": 0},
        {"epsilon": -1.0},
        {"epsilon": float("nan")},
        {"sites": ["no site"]},
        {"filters": {"split": "validation"}},
        {"filters": {"attributes": [["", "x"]]}},
    ],
)
def test_value_without_a_meaning_is_refused_in_json_and_in_python(values: dict[str, object]) -> None:
    with pytest.raises(UserError):
        read_query(json.dumps(values))
    if "filters" not in values:
        with pytest.raises(UserError):
            Query(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, MAX_K + 1])
def test_query_for_too_many_hits_or_none_is_refused(k: int) -> None:
    with pytest.raises(RefusedError):
        Query(k)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(HITS, max_size=3).map(tuple), st.booleans())
def test_answer_read_from_its_json_is_the_same(hits: tuple[Hit, ...], is_noised: bool) -> None:
    outcomes = {str(outcome): outcome for outcome in Outcome}
    answer = Answer(
        site="A",
        name="a.png",
        hits=hits,
        own=hits[:1],
        outcomes=outcomes,
        reasons={"refused": "the quota of today is spent"},
        codes={"refused": "quota_spent", "other_model": "a" * 64},
        answered={"found": 2, "empty": 0},
        model="a" * 64,
        code="00" * 8,
        noise=Noise(6.0, 4, 0.9) if is_noised else None,
        note="",
    )
    assert Answer.from_json(json.loads(json.dumps(answer.to_json()))) == answer
