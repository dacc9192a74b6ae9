"""A site trusts a new authority only if the one that it trusts has signed it."""

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from loopback import Consortium, Site, hello, play, until

from ynet.errors import RefusedError
from ynet.federation import countersigned
from ynet.federation import hub_pb2 as pb
from ynet.federation.countersigned import SERVER, Witness
from ynet.trust import identity, succession
from ynet.trust.identity import Identity
from ynet_client import audit
from ynet_client.audit import Audit
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership
from ynet_client.membership.renewal import renewing
from ynet_client.membership.succession import ended, followed, following, is_behind, pinned

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FIRST, SECOND, THIRD, STRANGER = (identity.make_authority("test", NOW) for _ in range(4))


def site(of: Identity, trusts: bytes) -> Membership:
    key = identity.new_key()
    return Membership("A", "hub:1", key, identity.issue_site(of, "A", identity.signing_request(key, "A"), NOW), trusts)


def told(*in_force: Identity, by: Identity | None = None, named: Identity | None = None) -> pb.Authorities:
    """Build a hub's announcement; the successor is the last authority in force by default."""
    message = pb.Authorities(in_force=[identity.fingerprint(one.certificate) for one in in_force])
    if by is not None:
        successor = (named or in_force[-1]).certificate
        message.successor.certificate, message.successor.signature = successor, succession.sign(by, successor)
    return message


def test_a_successor_that_the_pinned_one_has_signed_is_pinned_beside_it() -> None:
    member = site(FIRST, FIRST.certificate)
    both = followed(member, told(FIRST, SECOND, by=FIRST), NOW)
    assert both == member._replace(authority=FIRST.certificate + SECOND.certificate)
    assert followed(both, told(FIRST, SECOND, by=FIRST), NOW) == both  # told again, nothing changes
    assert is_behind(both)
    assert not is_behind(member)


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (told(STRANGER, by=STRANGER), "not signed"),
        (told(FIRST, STRANGER, by=STRANGER), "not signed"),
        (told(FIRST, STRANGER, by=SECOND), "not signed"),
        (pb.Authorities(successor=pb.Successor(certificate=SECOND.certificate)), "not signed"),
        (pb.Authorities(successor=pb.Successor(certificate=b"x")), "read"),
        (pb.Authorities(successor=pb.Successor(certificate=b"x" * 1_000_000)), "read"),
        (told(FIRST, by=FIRST, named=identity.issue_hub(FIRST, NOW)), "not an authority's"),
        (told(FIRST, by=FIRST, named=Identity(b"", site(SECOND, b"").certificate)), "not an authority's"),
        (told(FIRST, by=FIRST, named=identity.make_authority("t", NOW - dt.timedelta(days=5000))), "in force"),
    ],
)
def test_any_other_is_refused_and_nothing_that_was_pinned_changes(message: pb.Authorities, word: str) -> None:
    with pytest.raises(RefusedError) as caught:
        followed(site(FIRST, FIRST.certificate), message, NOW)
    assert word in caught.value.why


def test_only_newest_authority_can_name_a_successor() -> None:
    member = site(SECOND, FIRST.certificate + SECOND.certificate)
    with pytest.raises(RefusedError):
        followed(member, told(FIRST, STRANGER, by=FIRST), NOW)
    assert pinned(followed(member, told(SECOND, THIRD, by=SECOND), NOW)) == [
        identity.fingerprint(one.certificate) for one in (SECOND, THIRD)
    ]


def test_old_authority_is_dropped_when_ended_and_not_needed() -> None:
    both = FIRST.certificate + SECOND.certificate
    moved, behind = site(SECOND, both), site(FIRST, both)
    after = followed(moved, told(SECOND), NOW)
    assert (after.authority, after.past) == (SECOND.certificate, ((FIRST.certificate, NOW.timestamp()),))
    assert followed(behind, told(SECOND), NOW) == behind
    for lie in (told(FIRST), told(), told(STRANGER)):
        assert SECOND.certificate in followed(moved, lie, NOW).authority
    assert followed(site(FIRST, FIRST.certificate), told(STRANGER), NOW).authority == FIRST.certificate


def test_signature_is_valid_only_before_the_authority_ended(tmp_path: Path) -> None:
    log = Audit(tmp_path)
    log.did(NOW.timestamp(), "joined")
    log.close()
    head = audit.verify(tmp_path)
    (tmp_path / "server").mkdir()
    server = Witness(tmp_path / "server", SERVER, lambda: identity.issue_hub(FIRST, NOW), FIRST.certificate)
    own = Witness(tmp_path, "A", lambda: Identity(b"", b""), FIRST.certificate)
    own.keep(server.sign("A", head, NOW), SERVER)

    def verified(until_s: float) -> int:
        past = [succession.Past(FIRST.certificate, NOW.timestamp() + until_s)]
        return countersigned.verify(tmp_path, audit.read(tmp_path), SECOND.certificate, past)

    assert verified(1) == 1
    with pytest.raises(audit.AuditError):
        verified(-1)


def test_the_past_is_kept_with_the_membership_and_an_older_ynet_can_read_it(tmp_path: Path) -> None:
    member = site(FIRST, FIRST.certificate)
    (tmp_path / membership.KEY).write_bytes(member.key)
    membership.keep(tmp_path, member)
    assert "past" not in json.loads((tmp_path / membership.FILE).read_text())
    later = member._replace(authority=SECOND.certificate, past=(succession.Past(FIRST.certificate, 5.0),))
    membership.pin(tmp_path, later)
    assert membership.load(tmp_path) == later


def test_absent_site_learns_that_its_authority_ended() -> None:
    signature = succession.sign(FIRST, SECOND.certificate).hex()
    named = identity.fingerprint(SECOND.certificate).hex()
    good = {"successor": named, "signature": signature, "ended": NOW.timestamp()}
    assert ended(["x", {}, good], FIRST.certificate) == NOW
    for bad in (
        {**good, "signature": "00"},
        {**good, "successor": "00"},
        {**good, "ended": 1e300},
        {**good, "ended": ""},
    ):
        assert ended([bad], FIRST.certificate) is None
    assert ended([good], SECOND.certificate) is None


@contextmanager
def caplog_of(name: str) -> Iterator[list[str]]:
    """Return the messages of a log, with their exceptions."""
    lines, handler = list[str](), logging.Handler()
    formatter = logging.Formatter()
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    logging.getLogger(name).addHandler(handler)
    yield lines
    logging.getLogger(name).removeHandler(handler)


class Kept:
    """A real session of a site that keeps its membership and an audit log."""

    def __init__(self, consortium: Consortium, name: str) -> None:
        member, self.home = consortium.enrol(name), consortium.folder / name
        (self.home / "spool").mkdir(parents=True)
        (self.home / membership.KEY).write_bytes(member.key)
        membership.keep(self.home, member)
        self.said: list[str] = []
        self.log = Audit(self.home)
        follow = following(self.home, self.said.append, lambda *act: self.log.did(0.0, *act))
        renew = renewing(self.home, self.said.append, lambda: consortium.now)
        self.session = Session(member, self.home / "spool", Site(), self.said.append, SessionHooks(renew, follow))
        consortium.run(self.session)

    def acts(self) -> list[str]:
        return [entry.kind for entry in audit.read(self.home)]


def test_hub_announcing_its_own_root_is_refused_and_recorded(
    tmp_path: Path,
) -> None:
    async def story(consortium: Consortium) -> None:
        kept = Kept(consortium, "A")
        await until(lambda: kept.session.connected)
        before = (kept.home / membership.FILE).read_bytes()
        for number in range(30):
            consortium.hub.announce(told(STRANGER, by=STRANGER))
            await until(lambda number=number: len(kept.said) > min(number, 15))  # type: ignore[misc]
        await consortium.task("A")
        assert kept.session.connected
        assert kept.session.member.authority == consortium.authority.certificate
        assert (kept.home / membership.FILE).read_bytes() == before
        assert "authority was refused" in kept.said[1]
        assert kept.acts() == ["authority-refused"] * 16  # and no more: no hub fills a disk
        assert (await asyncio.to_thread(audit.verify, kept.home)).number == 16
        kept.log.close()

    play(tmp_path, story)


def test_site_reports_pinned_authorities_and_old_ynet_must_update(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        kept, new = Kept(consortium, "A"), identity.make_authority("test", consortium.now)
        await until(lambda: kept.session.connected)
        own = identity.fingerprint(consortium.authority.certificate)
        assert consortium.hub.pinned() == {"A": frozenset([own])}
        announced = told(consortium.authority, new, by=consortium.authority)
        consortium.hub.announce(announced)
        both = frozenset([own, identity.fingerprint(new.certificate)])
        await until(lambda: consortium.hub.pinned() == {"A": both})
        assert kept.acts() == ["authority-pinned"]
        member = membership.load(kept.home)
        assert member is not None
        assert frozenset(pinned(member)) == both
        # An older site names none, which it may as long as nobody has moved.
        older = consortium.enrol("B")
        async with consortium.wire(older) as wire:
            (await wire.attached()).cancel()
            announced.moves = True
            consortium.hub.announce(announced)
            call = wire.attach()
            await call.write(hello())
            with pytest.raises(grpc.aio.AioRpcError):
                await call.read()
            assert "cannot follow: update the site" in await call.details()
        kept.log.close()

    play(tmp_path, story)


def test_move_to_certificate_of_old_authority_is_refused(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        kept, new = Kept(consortium, "A"), identity.make_authority("test", consortium.now)
        await until(lambda: kept.session.connected)
        consortium.now += dt.timedelta(days=61)  # it is due as well, so that the hub gives one
        before, announced = kept.session.member, told(consortium.authority, new, by=consortium.authority)
        announced.moves = True
        with caplog_of("ynet.renewal") as lines:
            consortium.hub.announce(announced)
            await until(lambda: any("not of the new authority" in line for line in lines))
        assert kept.session.connected
        assert kept.session.member.certificate == before.certificate
        kept.log.close()

    play(tmp_path, story)
