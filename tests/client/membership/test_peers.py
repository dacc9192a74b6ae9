"""A site asks and answers only sites whose lasting keys its admin has confirmed."""

import datetime as dt
from pathlib import Path

import pytest
from loopback import Consortium, Site, play, until

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import retrieval_pb2 as pb
from ynet.federation import sealed
from ynet.federation.sealed import Trust
from ynet.trust import identity, lasting_key
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.membership.membership import Membership
from ynet_client.membership.peers import Peer, Peers

X, Y = "0123456789abcdef" * 2, "f" * 32


def own(member: Membership) -> Membership:
    return member._replace(lasting=lasting_key.new_key())


def known_as(member: Membership) -> str:
    return lasting_key.fingerprint_of(member.site, lasting_key.public_of(member.lasting))


def counting() -> tuple[list[bytes], Site]:
    seen = list[bytes]()

    async def answer(_: str, body: bytes) -> bytes:
        seen.append(body)
        return b"answer"

    return seen, Site(answer=answer)


async def join(consortium: Consortium, member: Membership, peers: Peers, work: Site) -> Session:
    spool = consortium.folder / f"spool-{member.site}"
    spool.mkdir(exist_ok=True)
    session = Session(member, spool, work, lambda _: None, SessionHooks(peers=peers))
    consortium.run(session)
    await until(lambda: session.connected)
    return session


def test_unconfirmed_site_is_neither_asked_nor_answered(
    tmp_path: Path,
) -> None:
    async def story(consortium: Consortium) -> None:
        shown, work = counting()
        members = {name: own(consortium.enrol(name)) for name in "AB"}
        peers = {name: Peers(tmp_path / name) for name in "AB"}
        a = await join(consortium, members["A"], peers["A"], Site())
        await join(consortium, members["B"], peers["B"], work)
        # 1. A has confirmed nobody: B is not asked.
        found = await a.ask(b"q", 5)
        assert (list(found.unconfirmed), list(found.answers), shown) == (["B"], [], [])
        (seen,) = peers["A"].listed()
        assert (seen.site, seen.state, seen.fingerprint) == ("B", "new", known_as(members["B"]))
        # 2. A has confirmed B, and B nobody: A is told that, and nothing was read.
        peers["A"].trust("B", lasting_key.spoken(known_as(members["B"])))
        (answer,) = (await a.ask(b"q", 5)).answers
        assert pb.Reply.FromString(answer.body).refused.reason == pb.Refused.NOT_CONFIRMED
        assert not shown
        # 3. Both have.
        assert peers["B"].trust("A").trusted == known_as(members["A"])
        (answer,) = (await a.ask(b"q", 5)).answers
        assert (answer.body, shown) == (b"answer", [b"q"])
        # 4. B's admin takes it back, in the midst of a session.
        peers["B"].distrust("A")
        (answer,) = (await a.ask(b"q", 5)).answers
        assert pb.Reply.FromString(answer.body).refused.reason == pb.Refused.NOT_CONFIRMED
        assert shown == [b"q"]

    play(tmp_path, story)


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_sealing_key_that_the_server_made_in_a_sites_name_is_not_sealed_to(tmp_path: Path, is_silent: bool) -> None:
    """The server holds the authority's key, so it can issue itself a certificate of B, with any lasting key or none."""

    async def story(consortium: Consortium) -> None:
        shown, work = counting()
        members = {name: own(consortium.enrol(name)) for name in "AB"}
        peers = Peers(tmp_path / "A", {"B": known_as(members["B"])})
        a = await join(consortium, members["A"], peers, Site())
        await join(consortium, members["B"], Peers(tmp_path / "B", {"A": known_as(members["A"])}), work)
        assert (await a.ask(b"q", 5)).answers
        false_key = identity.new_key()
        request = identity.signing_request(false_key, "B")
        false = identity.Identity(
            false_key,
            identity.issue_site(consortium.authority, "B", request, consortium.now),
            b"" if is_silent else lasting_key.new_key(),
        )
        consortium.hub._connections.of("B").card = sealed.fresh_key(false, "B").card
        a._asking._known.clear()
        a._asking._cards.clear()  # as after a restart of A
        found = await a.ask(b"secret", 5)
        assert (list(found.unconfirmed), list(found.answers), shown) == (["B"], [], [b"q"])
        (seen,) = peers.listed()
        assert (seen.state, seen.trusted) == ("changed", known_as(members["B"]))
        with pytest.raises(UserError, match="not confirmed"):
            peers.trust("B")  # the settings name another

    play(tmp_path, story)


def test_renewed_certificate_without_lasting_key_signature_is_refused(
    tmp_path: Path,
) -> None:
    consortium = Consortium(tmp_path)
    member, trust = own(consortium.enrol("B")), Trust(consortium.authority.certificate, consortium.now)
    card = sealed.fresh_key(member.identity, "B").card
    first = sealed.read_card(card, "B", trust).known_by
    key = identity.new_key()
    certificate = identity.issue_site(
        consortium.authority, "B", identity.signing_request(key, "B"), consortium.now + dt.timedelta(minutes=1)
    )
    renewed = member._replace(key=key, certificate=certificate)
    assert sealed.read_card(sealed.fresh_key(renewed.identity, "B").card, "B", trust).known_by == first
    # The server shows B's lasting key beside a certificate of its own making: B did not sign that.
    taken, shown = hub.Card.FromString(sealed.fresh_key(renewed._replace(lasting=b"").identity, "B").card), hub.Card()
    shown.ParseFromString(card)
    taken.lasting, taken.vouched = shown.lasting, shown.vouched
    with pytest.raises(RefusedError, match="lasting key"):
        sealed.read_card(taken.SerializeToString(), "B", trust)
    consortium.registry.close()
    consortium.audit.close()


def test_looking_round_shows_who_is_connected_and_asks_nobody(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        shown, work = counting()
        told = list[Peer]()
        peers = Peers(tmp_path / "A", tell=told.append)
        a = await join(consortium, own(consortium.enrol("A")), peers, Site())
        b = own(consortium.enrol("B"))
        await join(consortium, b, Peers(tmp_path / "B"), work)
        await consortium.join("C")  # of an older ynet: it has no lasting key
        await a.look_round(5)
        await a.look_round(5)
        assert {one.site: one.state for one in peers.listed()} == {"B": "new", "C": "new"}
        assert {one.site for one in told} == {"B", "C"}
        assert len(told) == 2
        assert not shown

    play(tmp_path, story)


def test_what_was_confirmed_outlives_the_process_and_a_no_goes_before(tmp_path: Path) -> None:
    peers = Peers(tmp_path)
    assert not peers.is_trusted("B", X)
    peers.trust("B")
    assert Peers(tmp_path).is_trusted("B", X)
    assert not Peers(tmp_path).is_trusted("B", Y)
    assert [one.state for one in peers.listed()] == ["changed"]
    with pytest.raises(UserError, match="not confirmed"):
        peers.trust("B", X)  # it shows Y now
    peers.trust("B")
    assert peers.is_trusted("B", Y)
    peers.distrust("B")
    assert not Peers(tmp_path, {"B": Y}).is_trusted("B", Y)


def test_a_site_that_was_never_seen_is_confirmed_by_its_fingerprint_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not confirmed"):
        Peers(tmp_path).trust("B")
    Peers(tmp_path).trust("B", lasting_key.spoken(X).upper())
    assert Peers(tmp_path).is_trusted("B", X)
    with pytest.raises(UserError, match="fingerprint"):
        Peers(tmp_path).trust("C", "0123")


def test_a_server_that_invents_sites_without_end_fills_no_disk(tmp_path: Path) -> None:
    peers = Peers(tmp_path)
    for number in range(1_040):
        assert not peers.is_trusted(f"site{number}", X)
    assert len(list((tmp_path / "peers").iterdir())) == 1_024
