"""What is sealed opens to the same for the one it is for, and for nobody else."""

import contextlib
import datetime as dt
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol, sealed
from ynet.federation.sealed import Begun, Channel, FramedQuery, SealingKey, Trust
from ynet.trust import identity
from ynet.trust.identity import Identity

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LATER = NOW + identity.LEAF_LIFE + dt.timedelta(seconds=1)
EARLIER = NOW - identity.CLOCK_SLACK - dt.timedelta(seconds=1)
SIZES = st.binary(max_size=3000)


@cache
def authority(name: str) -> Identity:
    return identity.make_authority(name, NOW)


@cache
def site(name: str, of: str = "test") -> Identity:
    key = identity.new_key()
    return Identity(key, identity.issue_site(authority(of), name, identity.signing_request(key, name), NOW))


@cache
def key_of(name: str, of: str = "test") -> SealingKey:
    return sealed.fresh_key(site(name, of), name)


def trust(now: dt.datetime = NOW) -> Trust:
    return Trust(authority("test").certificate, now)


class Pair(NamedTuple):
    """Both ends of one session of A with B."""

    begun: Begun
    answering: Channel


@cache
def pair(which: int = 0) -> Pair:
    begun = sealed.begin(site("A"), "A", sealed.read_card(key_of("B").card, "B", trust()))
    return Pair(begun, sealed.accept(key_of("B"), "A", begun.session, begun.opening, trust()))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


def refused(words: str = "") -> "pytest.RaisesExc[RefusedError]":
    return pytest.RaisesExc(RefusedError, check=lambda error: words in error.why)


# --- the law


@given(body=SIZES, number=st.integers(0, 2**64 - 1), answer_bytes=st.integers(0, 2**17))
def test_a_query_and_its_answer_open_to_what_was_sealed(body: bytes, number: int, answer_bytes: int) -> None:
    begun, answering = pair()
    framed = sealed.frame_query(FramedQuery(body, answer_bytes))
    asked = sealed.open_query(answering, number, sealed.seal_query(begun.channel, number, framed))
    assert asked == FramedQuery(body, min(answer_bytes, protocol.MAX_PADDED_BYTES))
    ciphertext = sealed.seal_answer(answering, number, body, asked.answer_bytes)
    assert sealed.open_answer(begun.channel, number, ciphertext) == body


@given(body=SIZES, number=st.integers(0, 2**64 - 1), bit=st.integers(0, 8 * 3000))
def test_with_any_bit_flipped_nothing_opens(body: bytes, number: int, bit: int) -> None:
    begun, answering = pair()
    query = sealed.seal_query(begun.channel, number, sealed.frame_query(FramedQuery(body, 0)))
    answer = sealed.seal_answer(answering, number, body, 0)
    with refused():
        sealed.open_query(answering, number, flipped(query, bit))
    with refused():
        sealed.open_answer(begun.channel, number, flipped(answer, bit))


@given(number=st.integers(0, 2**64 - 1), other=st.integers(0, 2**64 - 1))
def test_under_another_number_nothing_opens(number: int, other: int) -> None:
    begun, answering = pair()
    if number == other:
        return
    with refused():
        sealed.open_query(answering, other, sealed.seal_query(begun.channel, number, bytes(1024)))
    with refused():
        sealed.open_answer(begun.channel, other, sealed.seal_answer(answering, number, b"x", 0))


def test_in_another_session_of_the_same_two_sites_nothing_opens() -> None:
    begun, other = pair(0).begun, pair(1).answering
    with refused():
        sealed.open_query(other, 0, sealed.seal_query(begun.channel, 0, bytes(1024)))
    with refused():
        sealed.open_answer(begun.channel, 0, sealed.seal_answer(other, 0, b"x", 0))


def test_a_query_is_no_answer_and_an_answer_no_query() -> None:
    begun, answering = pair()
    with refused():
        sealed.open_answer(begun.channel, 0, sealed.seal_query(begun.channel, 0, bytes(1024)))
    with refused():
        sealed.open_query(answering, 0, sealed.seal_answer(answering, 0, b"x", 0))


@pytest.mark.parametrize("cut", [0, 1, 15, 16])
def test_what_is_cut_off_is_refused(cut: int) -> None:
    begun, answering = pair()
    with refused():
        sealed.open_query(answering, 0, sealed.seal_query(begun.channel, 0, bytes(1024))[:cut])


@given(framed=st.binary(max_size=40))
def test_a_frame_that_no_site_makes_is_refused_or_read_and_never_a_fault(framed: bytes) -> None:
    begun, answering = pair()
    with contextlib.suppress(RefusedError):
        assert len(sealed.open_query(answering, 0, sealed.seal_query(begun.channel, 0, framed)).body) <= len(framed)


# --- sizes


@given(first=st.binary(max_size=1000), second=st.binary(max_size=1000))
def test_below_one_step_of_padding_all_queries_and_all_answers_are_of_one_size(first: bytes, second: bytes) -> None:
    begun, answering = pair()
    queries = {len(sealed.seal_query(begun.channel, 0, sealed.frame_query(FramedQuery(b, 0)))) for b in (first, second)}
    answers = {len(sealed.seal_answer(answering, 0, b, 0)) for b in (first, second)}
    assert queries == answers == {protocol.PADDING_BYTES + 16}


@given(body=st.binary(max_size=4000), at_least=st.integers(4096, protocol.MAX_PADDED_BYTES))
def test_an_answer_that_fits_into_what_was_asked_for_tells_nothing_by_its_size(body: bytes, at_least: int) -> None:
    answering = pair().answering
    assert len(sealed.seal_answer(answering, 0, body, at_least)) == len(sealed.seal_answer(answering, 0, b"", at_least))


# --- cards


def test_a_card_names_the_key_that_its_site_can_open_with() -> None:
    recipient = sealed.read_card(key_of("B").card, "B", trust())
    assert (recipient.site, recipient.key) == ("B", key_of("B").public)


@pytest.mark.filterwarnings("ignore:Parsed a")  # a certificate that breaks a rule, and is refused for its signature
@pytest.mark.parametrize("bit", range(8))
def test_a_card_with_a_flipped_bit_names_no_other_key(bit: int) -> None:
    card = key_of("B").card
    for place in range(len(card)):
        with contextlib.suppress(RefusedError):  # a bit of the PEM text may not matter
            assert sealed.read_card(flipped(card, 8 * place + bit), "B", trust()).key == key_of("B").public


def card(owner: Identity, key: bytes, signer: Identity | None = None, name: str = "B") -> bytes:
    named = sealed._joined(b"ynet sealing key 1", name.encode(), key)
    signature = identity.sign((signer or owner).key, named)
    return pb.Card(certificate=owner.certificate, key=key, signature=signature).SerializeToString()


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (lambda: key_of("C").card, "another site's"),
        (lambda: key_of("B", "other").card, "authority"),
        (lambda: card(site("B"), key_of("B").public, signer=site("C")), "signature"),
        (lambda: card(site("B"), key_of("B").public, name="C"), "signature"),
        (lambda: card(Identity(b"", b"none"), key_of("B").public, signer=site("B")), "authority"),
        (lambda: card(site("B"), b""), "size"),
        (lambda: card(site("B"), b"\xff" * 1216), "none"),
        (lambda: card(site("B"), key_of("B").public[:1184] + bytes(32)), "none"),
        (lambda: b"\xff", "cannot be read"),
        (lambda: b"", "authority"),
    ],
    ids=[
        "another's",
        "authority",
        "signer",
        "name",
        "no certificate",
        "no key",
        "bad",
        "low order",
        "garbage",
        "empty",
    ],
)
def test_a_card_that_is_not_in_order_is_refused(told: Callable[[], bytes], words: str) -> None:
    with refused(words):
        sealed.read_card(told(), "B", trust())


@pytest.mark.parametrize("now", [EARLIER, LATER], ids=["too early", "too late"])
def test_a_card_and_an_opening_need_a_certificate_that_is_in_force(now: dt.datetime) -> None:
    begun = pair().begun
    with refused("in force"):
        sealed.read_card(key_of("B").card, "B", trust(now))
    with refused("in force"):
        sealed.accept(key_of("B"), "A", begun.session, begun.opening, trust(now))


# --- openings


def test_an_opening_is_good_for_one_site_one_key_and_one_session() -> None:
    begun = pair().begun
    for key, session, asker in (
        (key_of("C"), begun.session, "A"),  # another site
        (sealed.fresh_key(site("B"), "B"), begun.session, "A"),  # the same site after a restart
        (key_of("B"), pair(1).begun.session, "A"),  # another session's name
        (key_of("B"), begun.session, "C"),  # another asking site, as a hub might say
        (key_of("B"), begun.session[:-1], "A"),
        (key_of("B"), b"", "A"),
    ):
        with refused():
            sealed.accept(key, asker, session, begun.opening, trust())


@pytest.mark.filterwarnings("ignore:Parsed a")  # a certificate that breaks a rule, and is refused for its signature
@pytest.mark.parametrize("bit", range(8))
def test_an_opening_with_a_flipped_bit_begins_no_other_session(bit: int) -> None:
    begun = pair().begun
    for place in range(len(begun.opening)):
        with contextlib.suppress(RefusedError):
            same = sealed.accept(key_of("B"), "A", begun.session, flipped(begun.opening, 8 * place + bit), trust())
            assert same.bound == pair().answering.bound


def test_a_hub_that_puts_its_own_secret_into_an_opening_is_refused() -> None:
    """It knows the key that others seal to, and everything but A's private key."""
    begun = pair().begun
    own = sealed._named("A", "B", key_of("B").public, begun.session)
    forged = pb.Opening.FromString(begun.opening)
    forged.sealed = sealed._sealed_secret(bytes(32), key_of("B").public, own)
    with refused("signature"):
        sealed.accept(key_of("B"), "A", begun.session, forged.SerializeToString(), trust())


def test_a_site_cannot_take_over_the_session_of_another_by_signing_its_opening() -> None:
    begun = pair().begun
    taken = pb.Opening.FromString(begun.opening)
    taken.certificate = site("C").certificate
    named = sealed._named("C", "B", key_of("B").public, begun.session)
    taken.signature = identity.sign(site("C").key, sealed._joined(named, taken.sealed))
    with refused("does not open"):
        sealed.accept(key_of("B"), "C", begun.session, taken.SerializeToString(), trust())


def test_what_is_too_large_is_not_sealed() -> None:
    with refused("64 KiB"):
        sealed.frame_query(FramedQuery(bytes(protocol.MAX_QUERY_BYTES + 1), 0))
    with refused("1 MiB"):
        sealed.seal_answer(pair().answering, 0, bytes(protocol.MAX_ANSWER_BYTES + 1), 0)


@given(parts=st.lists(st.binary(max_size=8), max_size=4), others=st.lists(st.binary(max_size=8), max_size=4))
def test_what_is_signed_can_be_read_in_one_way_only(parts: list[bytes], others: list[bytes]) -> None:
    assert (sealed._joined(*parts) == sealed._joined(*others)) == (parts == others)
