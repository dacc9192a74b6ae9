"""Enrolment: the server must match the invitation's fingerprint before anything of it is used."""

import asyncio
import datetime as dt
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.trust import identity, invitation
from ynet.trust.identity import Identity
from ynet.trust.invitation import Invitation
from ynet_client.membership import membership
from ynet_client.membership.membership import FILE, KEY, LASTING
from ynet_server.authority import certificates, enrolment
from ynet_server.registry import Registry

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)
HUB = identity.issue_hub(AUTHORITY, NOW)


class Door:
    """A real enrolment port in its own thread; `posted` has what was sent to /enrol."""

    def __init__(self, registry: Registry) -> None:
        self.registry, self.port = registry, 0
        self.posted: list[bytes] = []

    def invite(self, site: str) -> Invitation:
        secret = invitation.new_secret()
        self.registry.invite(site, secret, dt.datetime.now(dt.UTC).timestamp(), replace=True)
        return Invitation(f"127.0.0.1:{self.port}", secret, identity.fingerprint(AUTHORITY.certificate))


@contextmanager
def serving(app: Starlette, hub: Identity, authority: Identity) -> Iterator[int]:
    """Serve `app` on a real HTTPS port; yield the port."""
    begun, stop = threading.Event(), asyncio.Event()
    port: list[int] = []
    loop = asyncio.new_event_loop()

    async def main() -> None:
        server, number = await enrolment.serve(app, certificates.tls(hub, authority), "127.0.0.1", 0)
        port.append(number)
        begun.set()
        await stop.wait()
        await server.end()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert begun.wait(10)
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    registry = Registry(tmp_path / "registry")
    opened = Door(registry)
    app = enrolment.application(registry, AUTHORITY, "hub:1", lambda _: None)
    real = next(route.endpoint for route in app.routes if isinstance(route, Route) and route.path == "/enrol")

    async def enrol(request: Request) -> Response:
        opened.posted.append(await request.body())
        return await real(request)

    watched = Starlette(
        routes=[app.routes[0], Route("/enrol", enrol, methods=["POST"])], exception_handlers=app.exception_handlers
    )
    with serving(watched, HUB, AUTHORITY) as opened.port:
        yield opened
    registry.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


def assert_no_member(home: Path) -> None:
    assert {path.name for path in home.iterdir()} <= {KEY}
    assert membership.load(home) is None


def test_a_site_joins_and_is_a_member_from_then_on(door: Door, home: Path) -> None:
    member = membership.enrol(home, "A", door.invite("A").to_text())
    assert membership.load(home) == member
    assert (member.site, member.hub, member.authority) == ("A", "hub:1", AUTHORITY.certificate)
    assert identity.read_leaf(member.certificate).site == "A"
    assert door.registry.holds("A", identity.read_leaf(member.certificate).serial)
    assert identity.same_key(member.certificate, identity.public_key_of(identity.signing_request(member.key, "A")))


def test_the_key_and_the_membership_can_be_read_by_their_owner_alone(door: Door, home: Path) -> None:
    membership.enrol(home, "A", door.invite("A").to_text())
    assert {path.name: path.stat().st_mode & 0o777 for path in home.iterdir()} == {
        FILE: 0o600,
        KEY: 0o600,
        LASTING: 0o600,
    }


def test_neither_the_key_nor_the_secret_leaves_the_site(door: Door, home: Path) -> None:
    invited = door.invite("A")
    member = membership.enrol(home, "A", invited.to_text())
    sent = door.posted[0]
    assert member.key.splitlines()[1] not in sent
    for form in (invited.secret, invited.secret.hex().encode(), invitation.verifier(invited.secret).hex().encode()):
        assert form not in sent


def test_a_lost_answer_is_asked_for_again_with_the_same_key(door: Door, home: Path) -> None:
    text = door.invite("A").to_text()
    first = membership.enrol(home, "A", text)
    (home / FILE).unlink()
    assert membership.enrol(home, "A", text) == first


def test_a_repeat_with_the_invitation_that_it_enrolled_with_changes_nothing(door: Door, home: Path) -> None:
    text = door.invite("A").to_text()
    member = membership.enrol(home, "A", text)
    posted = len(door.posted)
    assert membership.enrol(home, "A", text) == member
    assert len(door.posted) == posted


def test_site_with_lost_disk_enrols_again_and_old_key_is_refused(door: Door, home: Path, tmp_path: Path) -> None:
    lost = membership.enrol(home, "A", door.invite("A").to_text())
    (tmp_path / "new disk").mkdir()
    found = membership.enrol(tmp_path / "new disk", "A", door.invite("A").to_text())
    for member, standing in ((lost, "replaced"), (found, "current")):
        assert door.registry.standing("A", identity.read_leaf(member.certificate).serial) == standing


def test_a_revoked_site_that_enrols_anew_does_so_with_a_new_key(door: Door, home: Path) -> None:
    old = membership.enrol(home, "A", door.invite("A").to_text())
    door.registry.revoke("A", 1.0)
    text = door.invite("A").to_text()
    new = membership.enrol(home, "A", text)
    assert new.key != old.key
    assert new.lasting != old.lasting  # the others' admins say yes again
    assert membership.load(home) == new == membership.enrol(home, "A", text)
    assert {path.name for path in home.iterdir()} == {FILE, KEY, LASTING}


def test_lost_answer_of_second_enrolment_keeps_old_membership_and_is_repeated(
    door: Door, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = membership.enrol(home, "A", door.invite("A").to_text())
    text = door.invite("A").to_text()

    def lose(_: object) -> tuple[str, bytes]:
        raise ConnectionResetError

    with monkeypatch.context() as patch:
        patch.setattr(membership, "_granted", lose)
        with pytest.raises(ConnectionResetError):
            membership.enrol(home, "A", text)
    assert membership.load(home) == old
    new = membership.enrol(home, "A", text)
    assert membership.load(home) == new
    assert door.registry.standing("A", identity.read_leaf(new.certificate).serial) == "current"


def test_a_used_invitation_is_refused_for_another_home(door: Door, home: Path, tmp_path: Path) -> None:
    text = door.invite("A").to_text()
    membership.enrol(home, "A", text)
    (tmp_path / "other").mkdir()
    with pytest.raises(RefusedError, match="used already"):
        membership.enrol(tmp_path / "other", "A", text)
    assert_no_member(tmp_path / "other")


def test_an_invitation_for_another_name_is_refused(door: Door, home: Path) -> None:
    door.invite("B")
    with pytest.raises(RefusedError, match="not the one made for this site"):
        membership.enrol(home, "B", door.invite("A").to_text())
    with pytest.raises(RefusedError, match="no open invitation"):
        membership.enrol(home, "C", door.invite("A").to_text())
    assert_no_member(home)


def test_other_authority_than_invited_is_refused_before_secret_is_used(door: Door, home: Path) -> None:
    forged = door.invite("A")._replace(fingerprint=bytes(32)).to_text()
    with pytest.raises(RefusedError, match="not the one in the invitation"):
        membership.enrol(home, "A", forged)
    assert door.posted == []
    assert list(home.iterdir()) == []


def between(answer: bytes, posted: list[bytes]) -> Starlette:
    """An interception: it sends `answer` as the authority and records requests."""

    async def authority(_: Request) -> Response:
        return PlainTextResponse(answer)

    async def enrol(request: Request) -> Response:
        posted.append(await request.body())
        return PlainTextResponse("{}")

    return Starlette(routes=[Route("/authority", authority), Route("/enrol", enrol, methods=["POST"])])


OTHER = identity.make_authority("test", NOW)
SHOWN = {
    "the true authority": AUTHORITY.certificate,
    "the true one, then another": AUTHORITY.certificate + OTHER.certificate,
    "another, then the true one": OTHER.certificate + AUTHORITY.certificate,
    "another": OTHER.certificate,
    "nothing": b"",
    "no certificate": b"<html>\xff",
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN.keys())
def test_somebody_between_gets_nothing_whatever_they_show(shown: bytes, door: Door, home: Path) -> None:
    posted: list[bytes] = []
    invited = door.invite("A")
    serve = serving(between(shown, posted), identity.issue_hub(OTHER, NOW), OTHER)
    with serve as port, pytest.raises(RefusedError, match="an interception"):
        membership.enrol(home, "A", invited._replace(address=f"127.0.0.1:{port}").to_text())
    assert posted == []
    assert_no_member(home)


def test_a_sites_certificate_does_not_make_a_server(door: Door, home: Path) -> None:
    key = identity.new_key()
    certificate = identity.issue_site(AUTHORITY, "R", identity.signing_request(key, "R"), NOW)
    posted: list[bytes] = []
    serve = serving(between(AUTHORITY.certificate, posted), Identity(key, certificate), AUTHORITY)
    with serve as port, pytest.raises(RefusedError, match="an interception"):
        membership.enrol(home, "A", door.invite("A")._replace(address=f"127.0.0.1:{port}").to_text())
    assert posted == []


def test_a_server_that_speaks_no_tls_1_3_is_unreachable(home: Path, tmp_path: Path) -> None:
    (tmp_path / "pem").write_bytes(HUB.key + HUB.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    with socket.create_server(("127.0.0.1", 0)) as listening:

        def greet() -> None:
            connection, _ = listening.accept()
            with connection, pytest.raises((ssl.SSLError, ConnectionError)):
                context.wrap_socket(connection, server_side=True)

        thread = threading.Thread(target=greet)
        thread.start()
        invited = Invitation(f"127.0.0.1:{listening.getsockname()[1]}", bytes(16), bytes(32))
        with pytest.raises(UnreachableError):
            membership.enrol(home, "A", invited.to_text())
        thread.join()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:8441", "::1:8441", "host:99999", "host:port", ":"])
def test_an_address_where_nobody_is_or_that_is_none_is_unreachable(home: Path, address: str) -> None:
    with pytest.raises(UnreachableError, match="could not be reached") as caught:
        membership.enrol(home, "A", Invitation(address, bytes(16), bytes(32)).to_text())
    assert address in caught.value.why
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("status", "body"), [(403, "<html>a proxy</html>"), (403, "[]"), (500, ""), (200, "<html>")])
def test_a_door_that_answers_in_another_way_is_told_in_three_lines(
    door: Door, home: Path, status: int, body: str
) -> None:
    async def authority(_: Request) -> Response:
        return PlainTextResponse(AUTHORITY.certificate)

    async def enrol(_: Request) -> Response:
        return PlainTextResponse(body, status_code=status)

    app = Starlette(routes=[Route("/authority", authority), Route("/enrol", enrol, methods=["POST"])])
    with serving(app, HUB, AUTHORITY) as port, pytest.raises(UserError) as caught:
        membership.enrol(home, "A", door.invite("A")._replace(address=f"127.0.0.1:{port}").to_text())
    assert len(str(caught.value).splitlines()) == 3
    assert_no_member(home)


@pytest.mark.parametrize("text", ["", "ynet1.", "ynet2.AAAA", "hello", "ynet1." + "A" * 80])
def test_what_is_no_invitation_is_refused_before_anything_is_made(home: Path, text: str) -> None:
    with pytest.raises(UserError, match="invitation cannot be read"):
        membership.enrol(home, "A", text)
    assert list(home.iterdir()) == []


def test_a_name_that_cannot_name_a_site_is_refused_before_anything_is_made(door: Door, home: Path) -> None:
    with pytest.raises(UserError, match="cannot name a site"):
        membership.enrol(home, "../A", door.invite("A").to_text())
    assert list(home.iterdir()) == []


def test_a_membership_that_cannot_be_read_is_the_users_to_mend(door: Door, home: Path) -> None:
    membership.enrol(home, "A", door.invite("A").to_text())
    whole = (home / FILE).read_text()
    for spoilt in ("", whole[:-5], "[]", json.dumps({"site": "A"})):
        (home / FILE).write_text(spoilt)
        with pytest.raises(UserError, match="membership"):
            membership.load(home)
    (home / FILE).write_text(whole)
    (home / KEY).unlink()
    with pytest.raises(UserError, match="membership"):
        membership.load(home)


@pytest.mark.parametrize("off", [dt.timedelta(days=70), dt.timedelta(days=-100)])
def test_a_server_whose_certificate_is_of_another_time_is_no_other_server(off: dt.timedelta, home: Path) -> None:
    authority = identity.make_authority("test", NOW - dt.timedelta(days=365))
    app = Starlette(routes=[Route("/authority", lambda _: PlainTextResponse(authority.certificate))])
    with serving(app, identity.issue_hub(authority, NOW + off), authority) as port:
        invited = Invitation(f"127.0.0.1:{port}", b"s" * 16, identity.fingerprint(authority.certificate))
        with pytest.raises(RefusedError) as caught:
            membership.enrol(home, "A", invited.to_text())
    assert "clock" in caught.value.why
    assert "NTP" in caught.value.do
    assert_no_member(home)
