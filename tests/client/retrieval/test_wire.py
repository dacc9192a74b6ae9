"""Queries and answers as bytes: a round trip is the identity, and invalid bytes are rejected."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet.errors import UserError
from ynet.federation import retrieval_pb2 as pb
from ynet.federation.protocol import MAX_ANSWER_BYTES, MAX_QUERY_BYTES
from ynet.search.hit import Hit
from ynet.search.ranking import merge
from ynet_client.gallery import filters
from ynet_client.gallery.filters import Filters
from ynet_client.retrieval import wire
from ynet_client.retrieval.query import MAX_K, Query
from ynet_client.retrieval.wire import MAX_CODES, CodedQuery, WireError, read_outcome, read_request

MODEL = "a" * 64
QUERY = CodedQuery(MODEL, (bytes(8), b"\1" * 8), Query(5))


def ranked(code: bytes, hits: list[Hit]) -> list[Hit]:
    return [hit._replace(rank=None) for hit in merge({"": hits}, code, len(hits))]


@pytest.mark.parametrize(
    "query",
    [
        QUERY,
        CodedQuery(MODEL, (bytes(32),) * MAX_CODES, Query(MAX_K)),
        CodedQuery(MODEL, (bytes(4),), Query(1, Filters(("x", "y"), "test", (("a", "b"),), "2020-02-29"), 0, True)),
    ],
)
def test_query_round_trips(query: CodedQuery) -> None:
    assert read_request(wire.write_query(query, "abc")) == ("abc", query)


def test_sites_and_epsilon_of_a_query_are_not_sent() -> None:
    query = CodedQuery(MODEL, (bytes(8),), Query(5, sites=("B",), epsilon=6.0))
    assert wire.write_query(query, "abc") == wire.write_query(CodedQuery(MODEL, (bytes(8),), Query(5)), "abc")


def test_site_rank_and_image_of_a_hit_are_not_sent() -> None:
    hit = Hit(3, bytes(16), "x", 1)
    assert wire.write_found([[hit._replace(site="A", rank=1, image="anna.png")]]) == wire.write_found([[hit]])


def test_unlabelled_hit_differs_from_one_whose_label_is_not_sent() -> None:
    code, labels = bytes(8), ("x", "", None)
    hits = ranked(code, [Hit(n, bytes([n] * 16), label, 1) for n, label in enumerate(labels)])
    (found,) = read_outcome(wire.write_found([hits]), CodedQuery(MODEL, (code,), Query(5))).hits
    assert [hit.label for hit in found] == list(labels)
    assert [hit.to_json()["label"] for hit in found] == list(labels)
    assert [hit.label_words for hit in found] == ["x", "no label", "label not shared"]


def test_largest_query_and_answer_are_within_limits() -> None:
    query = CodedQuery(MODEL, (b"\xff" * 32,) * MAX_CODES, Query(MAX_K))
    assert len(wire.write_query(query, "a" * 32)) <= MAX_QUERY_BYTES
    hits = ranked(query.codes[0], [Hit(255, n.to_bytes(16), f"class {n}", 10**7) for n in range(MAX_K)])
    body = wire.write_found([hits] * MAX_CODES)
    assert len(body) <= MAX_ANSWER_BYTES
    assert read_outcome(body, query).hits == (tuple(hits),) * MAX_CODES


def test_answer_too_large_becomes_refusal() -> None:
    hits = [[Hit(1, bytes(16), f"{code} {n} " + "漢" * 56, 1) for n in range(MAX_K)] for code in range(MAX_CODES)]
    assert wire.write_found(hits) is None  # and then this is sent:
    outcome = read_outcome(wire.write_refused(pb.Refused.TOO_LARGE), QUERY)
    assert (outcome.kind, outcome.code) == ("refused", "too_large")


BAD: dict[str, pb.Query] = {
    "no code": pb.Query(model_id=MODEL, k=1),
    "codes of two widths": pb.Query(model_id=MODEL, k=1, codes=[bytes(8), bytes(4)]),
    "a width that is none": pb.Query(model_id=MODEL, k=1, codes=[bytes(7)]),
    "too many codes": pb.Query(model_id=MODEL, k=1, codes=[bytes(8)] * (MAX_CODES + 1)),
    "k 0": pb.Query(model_id=MODEL, codes=[bytes(8)]),
    "k too large": pb.Query(model_id=MODEL, k=MAX_K + 1, codes=[bytes(8)]),
    "a long model": pb.Query(model_id="a" * 65, k=1, codes=[bytes(8)]),
    "a split that is none": pb.Query(model_id=MODEL, k=1, codes=[bytes(8)], filter=pb.Filter(split="bogus")),
    "a day that is none": pb.Query(model_id=MODEL, k=1, codes=[bytes(8)], filter=pb.Filter(since="2021-02-29")),
    "many labels": pb.Query(model_id=MODEL, k=1, codes=[bytes(8)], filter=pb.Filter(labels=["x"] * 17)),
    "control characters": pb.Query(model_id=MODEL, k=1, codes=[bytes(8)], filter=pb.Filter(labels=["\x1b"])),
}


@pytest.mark.parametrize("query", BAD.values(), ids=list(BAD))
def test_invalid_query_is_rejected(query: pb.Query) -> None:
    with pytest.raises(WireError):
        read_request(pb.Request(user="u", query=query).SerializeToString())


@pytest.mark.parametrize("user", ["", "a" * 33, "Dr. House", "\x1b", "ü"])
def test_user_without_pseudonym_is_rejected(user: str) -> None:
    query = pb.Query(model_id=MODEL, k=1, codes=[bytes(8)])
    with pytest.raises(WireError, match="not answered"):
        read_request(pb.Request(user=user, query=query).SerializeToString())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_request_or_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        read_request(data)
    outcome = read_outcome(data, QUERY)
    assert outcome.reason.isprintable()
    assert outcome.code.isprintable()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.binary(min_size=1, max_size=3))
def test_mutated_message_raises_only_wire_error(seed: int, change: bytes) -> None:
    hits = ranked(QUERY.codes[0], [Hit(1, b"a" * 16, "x", 2), Hit(1, b"b" * 16, "y", 2)])
    for message in (wire.write_query(QUERY, "abc"), wire.write_found([hits, []])):
        place = seed % len(message)
        spoilt = message[:place] + change + message[place + len(change) :]
        assert read_outcome(spoilt, QUERY).kind in ("found", "suppressed", "refused", "other_model", "unreadable")
        with contextlib.suppress(WireError):
            read_request(spoilt)


SPOILT: dict[str, pb.Found] = {
    "too few lists": pb.Found(per_code=[pb.Hits()]),
    "a label that is not there": pb.Found(
        per_code=[pb.Hits(hits=[pb.Hit(token=bytes(16), ties=1, label=0)]), pb.Hits()]
    ),
    "a label with control characters": pb.Found(per_code=[pb.Hits(), pb.Hits()], labels=["\x1b[2J"]),
    "a token too short": pb.Found(per_code=[pb.Hits(hits=[pb.Hit(token=b"x", ties=1)]), pb.Hits()]),
}


@pytest.mark.parametrize("found", SPOILT.values(), ids=list(SPOILT))
def test_invalid_answer_is_unreadable(found: pb.Found) -> None:
    assert read_outcome(pb.Reply(found=found).SerializeToString(), QUERY).kind == "unreadable"


def test_hit_beyond_radius_is_unreadable() -> None:
    body = wire.write_found([[Hit(3, bytes(16), None, 1)]])
    assert read_outcome(body, CodedQuery(MODEL, (bytes(8),), Query(5, radius=3))).kind == "found"
    assert read_outcome(body, CodedQuery(MODEL, (bytes(8),), Query(5, radius=2))).kind == "unreadable"


def test_each_outcome_is_read() -> None:
    replies = {
        "suppressed": pb.Reply(suppressed=pb.Suppressed()),
        "refused": pb.Reply(refused=pb.Refused(reason=pb.Refused.QUOTA_SPENT)),
        "other_model": pb.Reply(other_model=pb.OtherModel(model_id="b" * 64)),
        "unreadable": pb.Reply(unreadable=pb.Unreadable()),
    }
    for kind, reply in replies.items():
        assert read_outcome(reply.SerializeToString(), QUERY).kind == kind
    newer = read_outcome(b"\x1a\x02\x08\x63", QUERY)  # a refusal for reason 99
    assert (newer.kind, newer.code) == ("refused", "other")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (Filters(split="bogus"), "bogus"),
        (Filters(since="yesterday"), "yesterday"),
        (Filters(since="20210101"), "20210101"),
        (Filters(since="2021-01-02", until="2021-01-01"), "before it begins"),
    ],
)
def test_invalid_filter_is_user_error(given: Filters, why: str) -> None:
    with pytest.raises(UserError, match="cannot be used") as caught:
        filters.check(given)
    assert why in caught.value.why


def test_date_range_excludes_case_without_date() -> None:
    in_may = Filters(since="2021-05-01", until="2021-05-31")
    days = ["2021-05-01", "2021-05-31T23:59:59", "2021-04-30", "2021-06-01", "", "May", "2021-05-99"]
    assert [in_may.admits("x", "train", {"date": day}) for day in days] == [True, True] + 5 * [False]
    assert not in_may.admits("x", "train", {})
