"""A site opens each sealed query once, in bounded memory."""

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loopback import Consortium

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import sealed
from ynet.federation.sealed import FramedQuery
from ynet_client.connection.question import MAX_TOTAL_BYTES, Question, _to_wire
from ynet_client.connection.sealed_answering import KEY_S, MAX_SESSIONS, OPEN_SESSIONS, WINDOW, Answering, ReplayWindow
from ynet_client.connection.sealed_asking import SESSION_S, Asking, Sent
from ynet_client.membership.membership import Membership

FRAMED = sealed.frame_query(FramedQuery(b"query", 0))


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Two:
    """A asks and B answers; the test acts as the hub."""

    def __init__(self, folder: Path) -> None:
        consortium = Consortium(folder)
        self.members: dict[str, Membership] = {name: consortium.enrol(name) for name in "ABC"}
        consortium.registry.close()
        self.now, self.clock = dt.datetime.now(dt.UTC), Clock()
        self.asking, self.answering = (
            Asking(self.members["A"], self.clock),
            Answering(self.members["B"], self.clock),
        )
        self.learn()

    def learn(self) -> None:
        assert self.asking.learn("B", self.answering.card(), self.now)

    def restart_asker(self) -> None:
        self.asking = Asking(self.members["A"], self.clock)
        self.learn()

    def seal(self) -> Sent:
        return self.asking.seal(FRAMED, ["B"], self.now)["B"]

    def open(self, sent: Sent, from_site: str = "A") -> bytes:
        opened = self.answering.open(from_site, sent.envelope, self.now)
        assert opened.body == b"query"
        return opened.seal(b"answer")

    def exchange(self) -> Sent:
        sent = self.seal()
        assert self.asking.open(sent, self.open(sent)) == b"answer"
        return sent


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def refused(words: str) -> "pytest.RaisesExc[RefusedError]":
    return pytest.RaisesExc(RefusedError, check=lambda error: words in error.why)


# --- replay


@given(numbers=st.lists(st.integers(0, 4 * WINDOW) | st.integers(2**63, 2**63 + 2 * WINDOW), max_size=200))
def test_replay_window_admits_each_number_once(numbers: list[int]) -> None:
    window, seen = ReplayWindow(), set[int]()
    for number in numbers:
        newest = max(seen, default=-1)
        assert window.is_new(number) == (number not in seen and number > newest - WINDOW)
        if window.is_new(number):
            window.see(number)
            seen.add(number)
        assert window._seen < 1 << WINDOW


def test_a_query_is_answered_once_in_whatever_order_they_come(two: Two) -> None:
    sent = [two.seal() for _ in range(20)]
    for one in reversed(sent):
        two.open(one)
    for one in sent:
        with refused("received before"):
            two.open(one)
    two.exchange()


def test_a_query_that_was_spoilt_on_its_way_may_still_come_whole(two: Two) -> None:
    sent = two.seal()
    spoilt = pb.Envelope.FromString(sent.envelope)
    spoilt.ciphertext = spoilt.ciphertext[:-1] + bytes([spoilt.ciphertext[-1] ^ 1])
    with refused("not sealed for"):
        two.answering.open("A", spoilt.SerializeToString(), two.now)
    two.open(sent)


def test_a_closed_session_is_not_opened_again(two: Two) -> None:
    first = two.seal()
    two.open(first)
    second = two.seal()  # never arrives
    for _ in range(OPEN_SESSIONS):
        two.restart_asker()
        two.exchange()
    for one in (first, second):
        with refused("closed"):
            two.open(one)


def test_a_flood_of_sessions_is_refused_and_ends_with_the_key(two: Two) -> None:
    for _ in range(MAX_SESSIONS):
        two.restart_asker()
        two.exchange()
    two.restart_asker()
    with refused("too many sessions"):
        two.exchange()
    assert len(two.answering._sessions["A"]) == OPEN_SESSIONS
    two.clock.now += KEY_S
    two.learn()
    two.exchange()


def test_what_was_sealed_to_an_older_key_opens_no_more(two: Two) -> None:
    sent, old = two.exchange(), two.answering.card()
    waiting = two.seal()
    two.clock.now += KEY_S - 1
    assert two.answering.card() == old
    two.clock.now += 1
    assert two.answering.card() != old
    for one, words in ((sent, "signature"), (waiting, "never opened")):
        with refused(words):
            two.open(one)
    two.learn()
    two.exchange()


# --- whose it is


def test_the_opening_is_sent_until_the_site_has_answered_and_no_longer(two: Two) -> None:
    first, second = two.seal(), two.seal()
    assert len(second.envelope) == len(first.envelope) + 2  # its number, in protobuf
    two.asking.open(second, two.open(second))
    third = two.seal()
    assert len(third.envelope) < len(second.envelope) - 1000
    two.asking.open(third, two.open(third))


def test_a_query_in_another_sites_name_is_refused_also_in_an_open_session(two: Two) -> None:
    sent = two.seal()
    with refused("another site's"):
        two.open(sent, from_site="C")
    two.asking.open(sent, two.open(sent))
    with refused("never opened"):
        two.open(two.seal(), from_site="C")


def test_a_query_for_another_site_is_refused(two: Two) -> None:
    other = Answering(two.members["C"], two.clock)
    with refused("signature"):
        other.open("A", two.seal().envelope, two.now)


def test_a_session_ends_with_the_certificate_of_either_site(two: Two) -> None:
    sent = two.exchange()
    two.now += dt.timedelta(days=91)
    assert not two.asking.seal(FRAMED, ["B"], two.now)
    two.now -= dt.timedelta(days=91)
    two.learn()
    late = two.asking.seal(FRAMED, ["B"], two.now)["B"]
    two.open(late)
    late = two.asking.seal(FRAMED, ["B"], two.now)["B"]
    with refused("not in force"):
        two.answering.open("A", late.envelope, two.now + dt.timedelta(days=91))
    assert sent.session is not late.session


def test_of_made_up_sites_nothing_is_kept(two: Two) -> None:
    sent = two.seal()
    for number in range(20):
        with refused("another site's"):
            two.open(sent, from_site=f"made-up-{number}")
    assert not two.answering._names
    assert not two.answering._sessions
    two.open(sent)


@pytest.mark.parametrize("envelope", [b"", b"\xff", b"\x0a\x10" + bytes(16)], ids=["empty", "garbage", "no opening"])
def test_an_envelope_that_is_none_is_refused(two: Two, envelope: bytes) -> None:
    with refused("envelope" if envelope == b"\xff" else "never opened"):
        two.answering.open("A", envelope, two.now)


# --- the asking side


def test_a_question_that_is_too_large_for_so_many_sites_is_not_sent(two: Two) -> None:
    sent = two.seal()._replace(envelope=bytes(MAX_TOTAL_BYTES // 2))
    asked = Question(FRAMED, [], 0, lambda _: None)
    assert len(_to_wire(asked, {"B": sent, "C": sent}, 1.0).queries) == 2
    with refused("too large for so many sites"):
        _to_wire(asked, {"B": sent, "C": sent, "D": sent}, 1.0)


def test_a_session_is_used_for_an_hour_and_then_a_new_one_begun(two: Two) -> None:
    first = two.exchange()
    two.clock.now += SESSION_S - 1
    assert two.exchange().session is first.session
    two.clock.now += 1
    assert two.exchange().session is not first.session


def test_no_two_queries_of_a_session_have_one_number(two: Two) -> None:
    assert [two.seal().number for _ in range(5)] == [0, 1, 2, 3, 4]


def test_an_answer_to_another_query_or_of_another_site_does_not_open(two: Two) -> None:
    first, second = two.seal(), two.seal()
    answer, _ = two.open(first), two.open(second)
    with refused("not sealed for"):
        two.asking.open(second, answer)
    assert two.asking.open(first, answer) == b"answer"


def test_a_card_in_another_sites_name_or_ones_own_is_not_learnt(two: Two) -> None:
    for name, card in (
        ("C", two.answering.card()),
        ("A", Answering(two.members["A"]).card()),
        ("\x1b[2J", two.answering.card()),
        ("C", b"x" * 10_000),
        ("C", b""),
    ):
        assert not two.asking.learn(name, card, two.now)
    assert two.asking.known() == ["B"]


def test_two_who_find_the_same_session_unreadable_begin_one_new_one(two: Two) -> None:
    first, second = two.seal(), two.seal()
    two.asking.end("B", first)
    renewed = two.seal()
    two.asking.end("B", second)
    assert two.seal().session is renewed.session
