"""Enrolment: an invitation makes one member, and nothing else does."""

import asyncio
import datetime as dt
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from ynet.errors import RefusedError
from ynet.trust import identity, invitation
from ynet.web.https_server import HttpsServer
from ynet_server.authority import certificates, enrolment
from ynet_server.authority.rate_limit import MAX_ADDRESSES, EnrolmentAttempts
from ynet_server.registry import Registry

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)
SECRET = b"s" * 16


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(tmp_path / "r")
    opened.invite("A", SECRET, NOW.timestamp(), replace=False)
    yield opened
    opened.close()


def issue(registry: Registry, key: bytes, site: str = "A", secret: bytes = SECRET, now: dt.datetime = NOW) -> bytes:
    csr = identity.signing_request(key, site)
    proof = invitation.proof(invitation.verifier(secret), site, csr)
    return enrolment.issue(registry, AUTHORITY, site, csr, proof, now)


def test_who_holds_the_invitation_becomes_the_site(registry: Registry) -> None:
    leaf = identity.read_leaf(issue(registry, identity.new_key()))
    assert leaf.site == "A"
    assert registry.holds("A", leaf.serial)


def test_the_same_key_may_ask_again_and_gets_the_same_certificate(registry: Registry) -> None:
    key = identity.new_key()
    assert issue(registry, key) == issue(registry, key)


def test_another_key_cannot_use_a_used_invitation(registry: Registry) -> None:
    first = issue(registry, identity.new_key())
    with pytest.raises(RefusedError, match="used already"):
        issue(registry, identity.new_key())
    assert registry.holds("A", identity.read_leaf(first).serial)


def test_an_invitation_ends_after_a_day(registry: Registry) -> None:
    with pytest.raises(RefusedError, match="no open invitation"):
        issue(registry, identity.new_key(), now=NOW + dt.timedelta(hours=24, seconds=1))
    assert not registry.sites()
    issue(registry, identity.new_key(), now=NOW + dt.timedelta(hours=24))


def test_invitation_made_while_clock_was_ahead_is_open_only_then(registry: Registry) -> None:
    registry.invite("A", SECRET, (NOW + dt.timedelta(days=60)).timestamp(), replace=True)
    with pytest.raises(RefusedError, match="no open invitation"):
        issue(registry, identity.new_key())
    registry.invite("A", SECRET, (NOW + dt.timedelta(minutes=10)).timestamp(), replace=True)
    issue(registry, identity.new_key())


def test_an_invitation_is_for_one_name(registry: Registry) -> None:
    with pytest.raises(RefusedError, match="no open invitation"):
        issue(registry, identity.new_key(), site="B")
    registry.invite("B", b"t" * 16, NOW.timestamp(), replace=False)
    with pytest.raises(RefusedError, match="not the one made for this site"):
        issue(registry, identity.new_key(), site="B")
    assert not registry.sites()


def test_the_proof_is_for_one_request(registry: Registry) -> None:
    mine, others = (identity.signing_request(identity.new_key(), "A") for _ in range(2))
    proof = invitation.proof(invitation.verifier(SECRET), "A", mine)
    with pytest.raises(RefusedError, match="not the one made for this site"):
        enrolment.issue(registry, AUTHORITY, "A", others, proof, NOW)


def test_a_replaced_sites_old_certificate_ends_when_the_new_one_is_given(registry: Registry) -> None:
    old = identity.read_leaf(issue(registry, identity.new_key())).serial
    registry.invite("A", b"t" * 16, NOW.timestamp(), replace=True)
    assert registry.holds("A", old)
    new = identity.read_leaf(issue(registry, identity.new_key(), secret=b"t" * 16)).serial
    assert (registry.holds("A", old), registry.holds("A", new)) == (False, True)


def test_a_bad_request_with_a_good_proof_uses_nothing_up(registry: Registry) -> None:
    proof = invitation.proof(invitation.verifier(SECRET), "A", b"no request")
    with pytest.raises(RefusedError, match="cannot be read"):
        enrolment.issue(registry, AUTHORITY, "A", b"no request", proof, NOW)
    issue(registry, identity.new_key())


def test_of_many_keys_that_race_for_one_invitation_one_is_enrolled(registry: Registry) -> None:
    keys = [identity.new_key() for _ in range(8)]
    outcomes: list[bytes | str] = []
    ready = threading.Barrier(len(keys))

    def try_it(key: bytes) -> None:
        ready.wait()
        try:
            outcomes.append(issue(registry, key))
        except RefusedError as error:
            outcomes.append(error.why)

    threads = [threading.Thread(target=try_it, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = [one for one in outcomes if isinstance(one, bytes)]
    assert [one for one in outcomes if one != won] == ["the invitation was used already"] * 7
    assert registry.holds("A", identity.read_leaf(won).serial)
    (winner,) = [key for key in keys if identity.has_key(won, key)]
    assert issue(registry, winner) == won


def test_a_revocation_voids_the_invitation_too(registry: Registry) -> None:
    key = identity.new_key()
    issue(registry, key)
    registry.revoke("A", NOW.timestamp())
    with pytest.raises(RefusedError, match="no open invitation"):
        issue(registry, key)


# --- attempts


def test_after_ten_refusals_an_address_waits_until_the_oldest_is_ten_minutes_old() -> None:
    attempts = EnrolmentAttempts()
    for second in range(10):
        attempts.check("192.0.2.1", float(second))
        attempts.failed("192.0.2.1", float(second))
    for now, refused in ((10.0, True), (599.0, True), (600.0, False)):
        with pytest.raises(RefusedError, match="10 attempts from this address") if refused else nullcontext():
            attempts.check("192.0.2.1", now)
        attempts.check("192.0.2.2", now)


def test_of_ipv6_a_whole_customers_network_counts_as_one_address() -> None:
    attempts = EnrolmentAttempts()
    for number in range(10):
        attempts.failed(f"2001:db8::{number:x}", 0.0)
    with pytest.raises(RefusedError):
        attempts.check("2001:db8::ffff", 1.0)
    attempts.check("2001:db8:0:1::1", 1.0)


def test_attempts_from_any_number_of_addresses_are_kept_in_bounded_memory() -> None:
    attempts = EnrolmentAttempts()
    for number in range(3 * MAX_ADDRESSES):
        attempts.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(attempts._failures) == MAX_ADDRESSES


# --- over HTTP


def door(registry: Registry, enrolled: list[str]) -> Starlette:
    return enrolment.application(registry, AUTHORITY, "hub:1", enrolled.append)


def call(app: Starlette, method: str, path: str, **request: Any) -> httpx.Response:
    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://door") as client:
            return await client.request(method, path, **request)

    return asyncio.run(main())


def body(key: bytes, **changed: Any) -> dict[str, Any]:
    csr = identity.signing_request(key, "A")
    proof = invitation.proof(invitation.verifier(SECRET), "A", csr)
    return {"site": "A", "csr": csr.decode(), "proof": proof.hex(), **changed}


def test_the_door_gives_the_certificate_and_the_hubs_address_and_tells_who_has_come(registry: Registry) -> None:
    enrolled: list[str] = []
    app = door(registry, enrolled)
    assert call(app, "GET", "/authority").content == AUTHORITY.certificate
    answer = call(app, "POST", "/enrol", json=body(identity.new_key()))
    assert (answer.status_code, answer.json()["hub"]) == (200, "hub:1")
    assert identity.read_leaf(answer.json()["certificate"].encode()).site == "A"
    assert enrolled == ["A"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"\xff",
        b"[" * 10_000,
        b"{}",
        json.dumps(body(identity.new_key(), site=7)).encode(),
        json.dumps(body(identity.new_key(), site="../A")).encode(),
        json.dumps(body(identity.new_key(), csr=None)).encode(),
        json.dumps(body(identity.new_key(), csr="\ud800")).encode(),
        json.dumps(body(identity.new_key(), proof="xyz")).encode(),
        json.dumps(body(identity.new_key(), proof="é")).encode(),
        json.dumps(body(identity.new_key(), proof="")).encode(),
        json.dumps(body(identity.new_key(), site="B")).encode(),
        json.dumps(body(identity.new_key(), pad="x" * enrolment.MAX_REQUEST_BYTES)).encode(),
    ],
    ids=range(16),
)
def test_whatever_else_is_sent_is_refused_in_words_and_nobody_is_enrolled(registry: Registry, sent: bytes) -> None:
    enrolled: list[str] = []
    answer = call(door(registry, enrolled), "POST", "/enrol", content=sent)
    assert answer.status_code == 403
    assert set(answer.json()) == {"what", "why", "do"}
    assert (enrolled, registry.sites()) == ([], [])


def test_who_guesses_is_slowed_down_and_the_invitation_stays_good_for_who_has_it(registry: Registry) -> None:
    enrolled: list[str] = []
    app = door(registry, enrolled)

    def wrong(number: int) -> str:
        guess = invitation.proof(invitation.verifier(bytes([number]) * 16), "A", b"csr")
        return str(call(app, "POST", "/enrol", json=body(identity.new_key(), proof=guess.hex())).json()["why"])

    assert [wrong(number) for number in range(12)] == [
        *["the invitation is not the one made for this site"] * 10,
        *["10 attempts from this address were refused"] * 2,
    ]
    refused = call(app, "POST", "/enrol", json=body(identity.new_key()))
    assert refused.json()["why"] == "10 attempts from this address were refused"
    elsewhere = httpx.ASGITransport(app, client=("192.0.2.7", 1))

    async def from_elsewhere() -> int:
        async with httpx.AsyncClient(transport=elsewhere, base_url="https://door") as client:
            return (await client.post("/enrol", json=body(identity.new_key()))).status_code

    assert asyncio.run(from_elsewhere()) == 200
    assert enrolled == ["A"]


def test_nothing_else_is_behind_the_door(registry: Registry) -> None:
    app = door(registry, [])
    assert {call(app, "GET", path).status_code for path in ("/", "/status", "/invitations", "/docs")} == {404}
    assert call(app, "GET", "/enrol").status_code == 405


def test_the_https_port_speaks_tls_1_3_with_the_hubs_certificate_and_nothing_older(registry: Registry) -> None:
    hub = identity.issue_hub(AUTHORITY, NOW)

    async def serve() -> tuple[HttpsServer, int]:
        return await enrolment.serve(door(registry, []), certificates.tls(hub, AUTHORITY), "127.0.0.1", 0)

    def context(authority: bytes) -> ssl.SSLContext:
        made = ssl.create_default_context(cadata=authority.decode())
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        return made

    async def main() -> None:
        server, port = await serve()
        url, named = f"https://127.0.0.1:{port}/authority", {"sni_hostname": identity.HUB_NAME}
        try:
            async with httpx.AsyncClient(verify=context(AUTHORITY.certificate), trust_env=False) as client:
                answer = await client.get(url, extensions=named)
                assert answer.content == AUTHORITY.certificate
                assert answer.extensions["network_stream"].get_extra_info("ssl_object").version() == "TLSv1.3"
            good, old = context(AUTHORITY.certificate), context(AUTHORITY.certificate)
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            other = context(identity.make_authority("test", NOW).certificate)
            for verify, extensions in ((good, {}), (old, named), (other, named)):  # the first asks for an address
                async with httpx.AsyncClient(verify=verify, trust_env=False) as client:
                    with pytest.raises(httpx.ConnectError):
                        await client.get(url, extensions=extensions)
        finally:
            await server.end()

    asyncio.run(main())
