"""A site's certificate is renewed over its connection; a fault at any point leaves the site able to connect."""

import asyncio
import datetime as dt
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from loopback import Consortium, Joined, Site, control_server_in, play, until

from ynet.errors import RefusedError
from ynet.federation import content, protocol
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.federation.sealed import Trust, read_card
from ynet.trust import identity
from ynet_client.connection import retries
from ynet_client.connection import session as sessions
from ynet_client.connection.doctor import examine, failure
from ynet_client.membership import membership, renewal
from ynet_client.membership.membership import FILE, KEY, NEXT_KEY, Membership
from ynet_server.authority import renewal as renewals
from ynet_server.hub.peers import GrpcPeer

DAY = dt.timedelta(days=1)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_S", 0.05)
    monkeypatch.setattr(sessions, "RENEWAL_EVERY_S", 0.1)
    monkeypatch.setattr(sessions, "IDLE_EVERY_S", 0.01)


def enrolled(consortium: Consortium, name: str, age: dt.timedelta) -> tuple[Path, Membership]:
    """Return a site that enrolled some time ago, with its home folder."""
    today, consortium.now = consortium.now, consortium.now - age
    member = consortium.enrol(name)
    consortium.now = today
    home = consortium.folder / f"home-{name}"
    home.mkdir()
    (home / KEY).write_bytes(member.key)
    return home, membership.keep(home, member)


def serials(consortium: Consortium, *members: Membership) -> list[str]:
    return [consortium.registry.standing(m.site, identity.read_leaf(m.certificate).serial) for m in members]


async def renewed(joined: Joined, old: Membership) -> Membership:
    await until(lambda: joined.session.connected and joined.session.member != old)
    return joined.session.member


def test_certificate_is_renewed_in_its_last_third(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        joined = consortium.session(old, home=home)
        new = await renewed(joined, old)
        assert membership.load(home) == new
        assert new.key != old.key
        assert new.ends == (consortium.now + identity.LEAF_LIFE).replace(microsecond=0)
        assert serials(consortium, old, new) == ["replaced", "current"]
        assert [path.name for path in home.iterdir() if "key" in path.name] == [KEY]
        assert content.read(await consortium.task("A")).configs == {"got": {"kind": "train"}}
        assert any(line.startswith("the certificate was renewed: good until") for line in joined.said)
        assert not any("lost" in line for line in joined.said)

    play(tmp_path, story)


def test_before_that_nothing_is_renewed_and_the_hub_would_not(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 59 * DAY)
        joined = consortium.session(old, home=home)
        await until(lambda: joined.session.connected)
        await asyncio.sleep(0.3)
        assert joined.session.member == old
        csr = identity.signing_request(identity.new_key(), "A")
        asked = GrpcPeer("A", identity.read_leaf(old.certificate), old.certificate)
        with pytest.raises(RefusedError, match="last third"):
            renewals.renew(consortium.registry, consortium.authority, asked, csr, consortium.now)

    play(tmp_path, story)


def test_a_task_and_a_question_under_way_end_before_the_connection_is_changed(tmp_path: Path) -> None:
    going_on = asyncio.Event()

    async def slow(kind: str, received: Path) -> Content:
        await going_on.wait()
        return Content(configs={"got": {"kind": kind}})

    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        consortium.now -= 2 * DAY  # not due yet
        joined = consortium.session(old, Site(task=slow), home)
        await until(lambda: joined.session.connected)
        working = asyncio.ensure_future(consortium.task("A"))
        await until(lambda: joined.session.tasks_held)
        consortium.now += 2 * DAY
        await until(lambda: membership.load(home) != old)
        async with control_server_in(home):
            assert failure(await asyncio.to_thread(examine, home, consortium.now, {})) is None  # with the new one
        await asyncio.sleep(0.3)
        consortium.hub.dismiss_ended(consortium.now)
        assert "A" in consortium.hub.connected()
        assert joined.session.member == old
        going_on.set()
        assert content.read(await working).configs == {"got": {"kind": "train"}}
        await renewed(joined, old)

    play(tmp_path, story)


def test_the_other_sites_see_the_new_certificate_and_questions_go_both_ways(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        other = await consortium.join("B")
        home, old = enrolled(consortium, "A", 61 * DAY)
        consortium.now -= 2 * DAY
        joined = consortium.session(old, home=home)
        await until(lambda: joined.session.connected)
        for one, name in ((other, "A"), (joined, "B")):
            assert [a.site for a in (await one.session.ask(b"q", 5)).answers] == [name]
        consortium.now += 2 * DAY
        new = await renewed(joined, old)
        await until(lambda: "A" in consortium.hub.connected())
        trust = Trust(consortium.authority.certificate, consortium.now)
        card = read_card(consortium.hub._connections.of("A").card, "A", trust)
        assert card.fingerprint == identity.fingerprint(new.certificate).hex()
        for one, body in ((other, b"answer to B"), (joined, b"answer to A")):
            assert [a.body for a in (await one.session.ask(b"q", 5)).answers] == [body]

    play(tmp_path, story)


def test_both_certificates_count_until_the_site_connects_with_the_new_one(
    tmp_path: Path,
) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        async with consortium.wire(old) as wire:
            new = await renewal.renewed(home, old, wire._channel, consortium.now)
            assert new is not None
            await wire.ask(b"q")
            assert serials(consortium, old, new) == ["current", "next"]
            async with consortium.wire(new) as newer:
                await newer.ask(b"q")
                assert serials(consortium, old, new) == ["current", "next"]
                await newer.attached()
            assert serials(consortium, old, new) == ["replaced", "current"]
            with pytest.raises(grpc.aio.AioRpcError, match="no longer in use"):
                await wire.ask(b"q")

    play(tmp_path, story)


class PowerCut(BaseException):
    pass


def cut_at(monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """The process dies just before this call."""

    def die(*_: object, **__: object) -> None:
        raise PowerCut

    owner, _, name = place.rpartition(".")
    monkeypatch.setattr({"membership": membership, "Path": Path, "identity": identity}[owner], name, die)


@pytest.mark.parametrize(
    "place", ["membership.next_key", "identity.signing_request", "membership.keep", "membership.write_private"]
)
def test_crash_during_renewal_leaves_a_valid_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        async with consortium.wire(old) as wire:
            with monkeypatch.context() as patch:
                cut_at(patch, place)
                with pytest.raises(PowerCut):
                    await renewal.renewed(home, old, wire._channel, consortium.now)
        left = membership.load(home)
        assert left == old
        joined = consortium.session(left, home=home)
        new = await renewed(joined, old)
        assert membership.load(home) == new

    play(tmp_path, story)


def test_a_crash_between_certificate_and_key_leaves_the_new_pair(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        async with consortium.wire(old) as wire:
            new = await renewal.renewed(home, old, wire._channel, consortium.now)
            assert new is not None
        (home / KEY).rename(home / NEXT_KEY)
        (home / KEY).write_bytes(old.key)  # as it is when the key was not moved any more
        assert membership.load(home) == new
        joined = consortium.session(new, home=home)
        await until(lambda: joined.session.connected)
        assert membership.next_key(home) not in (old.key, new.key)
        assert membership.load(home) == new

    play(tmp_path, story)


def test_unused_renewal_is_not_requested_again(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        async with consortium.wire(old) as wire:
            new = await renewal.renewed(home, old, wire._channel, consortium.now)
        joined = consortium.session(old, home=home)
        assert await renewed(joined, old) == new

    play(tmp_path, story)


def test_a_lost_answer_is_given_again_for_the_same_key(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        asked = GrpcPeer("A", identity.read_leaf(old.certificate), old.certificate)
        csr = identity.signing_request(membership.next_key(home), "A")
        first = renewals.renew(consortium.registry, consortium.authority, asked, csr, consortium.now)
        again = identity.signing_request(membership.next_key(home), "A")
        assert renewals.renew(consortium.registry, consortium.authority, asked, again, consortium.now) == first

    play(tmp_path, story)


def test_the_new_certificate_is_for_the_site_that_calls_whatever_the_request_says(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        consortium.enrol("B")
        _, old = enrolled(consortium, "A", 61 * DAY)
        async with consortium.wire(old) as wire:
            ask = wire._channel.unary_unary(
                f"/{protocol.SERVICE}/Renew", pb.RenewRequest.SerializeToString, pb.Renewal.FromString
            )
            csr = identity.signing_request(identity.new_key(), "B")
            assert identity.read_leaf((await ask(pb.RenewRequest(csr=csr))).certificate).site == "A"
            for bad in (b"", b"x" * 9_000, csr[:-40]):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ask(pb.RenewRequest(csr=bad))
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    play(tmp_path, story)


def of_another_authority(consortium: Consortium, csr: bytes) -> bytes:
    other = identity.make_authority("test", consortium.now)
    return identity.issue_site(other, "A", csr, consortium.now)


def of_another_site(consortium: Consortium, csr: bytes) -> bytes:
    return identity.issue_site(consortium.authority, "B", csr, consortium.now)


def of_another_key(consortium: Consortium, csr: bytes) -> bytes:
    other = identity.signing_request(identity.new_key(), "A")
    return identity.issue_site(consortium.authority, "A", other, consortium.now)


def that_ends_sooner(consortium: Consortium, csr: bytes) -> bytes:
    return identity.issue_site(consortium.authority, "A", csr, consortium.now - 70 * DAY)


@pytest.mark.parametrize(
    "forge", [of_another_authority, of_another_site, of_another_key, that_ends_sooner, lambda *_: b"x"]
)
def test_foreign_certificate_in_renewal_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forge: Callable[[Consortium, bytes], bytes]
) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 61 * DAY)
        before = (home / FILE).read_bytes(), (home / KEY).read_bytes()
        monkeypatch.setattr(renewals, "renew", lambda _r, _a, _c, csr, _n: forge(consortium, csr))
        joined = consortium.session(old, home=home)
        await until(lambda: any("renewal has failed" in line for line in joined.said))
        assert joined.session.connected
        assert ((home / FILE).read_bytes(), (home / KEY).read_bytes()) == before

    play(tmp_path, story)


def test_site_stays_connected_when_hub_does_not_renew(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        home, old = enrolled(consortium, "A", 85 * DAY)
        await consortium.stop()
        consortium.renews = False
        joined = consortium.session(old, home=home)
        await consortium.open()
        await until(lambda: joined.session.connected)
        await until(lambda: any("renewal has failed" in line for line in joined.said))
        for days in (0, 1, 2, 3, 4):
            await asyncio.sleep(0.25)
            consortium.now = joined.session.member.ends - dt.timedelta(days=5 - days, hours=-1)
        await until(lambda: sum("renewal has failed" in line for line in joined.said) == 2)  # under 7 days, under 1
        assert joined.session.connected

    play(tmp_path, story)
