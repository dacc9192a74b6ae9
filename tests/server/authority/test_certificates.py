"""The consortium's certificates while the server runs: revoked, ended, renewed, and running out."""

import asyncio
import contextlib
import datetime as dt
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from loopback import Consortium, play, sha256, until
from starlette.applications import Starlette

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust import expiry, identity
from ynet.web.https_server import HttpsServer
from ynet_client.membership.membership import Membership
from ynet_server import ports
from ynet_server.authority import certificates, renewal
from ynet_server.authority.authorities import Authorities
from ynet_server.authority.certificates import HubCertificate
from ynet_server.hub.hub import service
from ynet_server.hub.peers import CertificateCheck, GrpcPeer
from ynet_server.hub.tasks import TaskError

DAY = dt.timedelta(days=1)


@asynccontextmanager
async def watched(consortium: Consortium, said: list[str] | None = None) -> AsyncIterator[None]:
    """The server's own loop over the certificates."""
    own = HubCertificate(consortium.folder, consortium.authority, consortium.now)
    say = said.append if said is not None else print
    watching = asyncio.ensure_future(
        certificates.watch(consortium.hub, consortium.registry, own, lambda: consortium.authority.certificate, say)
    )
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


# --- revocation


def test_a_revoked_site_is_cut_off_within_five_seconds_and_told_why_and_what_to_do(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        async with watched(consortium):
            begun = time.monotonic()
            consortium.registry.revoke("A", begun)  # nobody tells the hub: the loop finds it
            with pytest.raises(RefusedError) as caught:
                await asyncio.wait_for(joined.task, 5)
            assert time.monotonic() - begun < 5
        assert caught.value.why == "the certificate was revoked"
        assert "ynet-server invite SITE --replace" in caught.value.do
        assert not consortium.hub.connected()

    play(tmp_path, story)


def test_a_task_of_a_revoked_site_ends_at_once_with_the_reason(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        async with consortium.wire(consortium.enrol("A")) as wire, watched(consortium):
            call = await wire.attached()
            working = asyncio.ensure_future(consortium.task("A"))
            task = (await call.read()).task
            consortium.registry.revoke("A", 1.0)
            with pytest.raises(TaskError, match="revoked"):
                await asyncio.wait_for(working, 5)
            with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
                await wire.upload(pb.UploadHeader(task_id=task.id, sha256=sha256(b""), size_bytes=0))

    play(tmp_path, story)


async def rest(download: Any) -> None:
    while await download.read():
        pass


def test_transfers_under_way_end_too(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        big = tmp_path / "big"
        big.write_bytes(bytes(64 << 20))
        blob = consortium.hub.offer(big, "", 64 << 20)
        async with consortium.wire(consortium.enrol("A")) as wire:
            download = wire.downloading(blob.name)
            await download.read()
            call = await wire.attached()
            working = asyncio.ensure_future(consortium.task("A"))
            task = (await call.read()).task
            upload = wire.uploading()
            await upload.write(
                pb.UploadPart(header=pb.UploadHeader(task_id=task.id, sha256=sha256(b"xy"), size_bytes=2))
            )
            consortium.registry.revoke("A", 1.0)
            await asyncio.sleep(1.1)
            with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
                await rest(download)
            with contextlib.suppress(asyncio.InvalidStateError):  # it has ended by then
                await upload.write(pb.UploadPart(data=b"xy"))
                await upload.done_writing()
            assert (await upload.code(), await upload.details()) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "the certificate was revoked",
            )
            consortium.hub.dismiss("A")
            with pytest.raises(TaskError):
                await working

    play(tmp_path, story)


def test_only_a_new_invitation_lets_a_revoked_site_in_again_with_another_certificate(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        registry, now = consortium.registry, consortium.now.timestamp()
        old = consortium.enrol("A")
        assert registry.revoke("A", now + 1) == registry.revoke("A", now + 2) == now + 1
        with pytest.raises(RefusedError, match="no open invitation"):
            registry.invited("A", now)
        with pytest.raises(UserError, match="enrolled already"):
            registry.invite("A", b"s" * 16, now, replace=False)
        assert registry.sites()[0].revoked == now + 1
        new = consortium.enrol("A")
        assert registry.sites()[0].revoked is None
        for member, standing in ((old, "revoked"), (new, "current")):
            assert registry.standing("A", identity.read_leaf(member.certificate).serial) == standing
        joined = consortium.session(new)
        await until(lambda: joined.session.connected)
        with pytest.raises(RefusedError, match="does not let"):
            await asyncio.wait_for(consortium.session(old).task, 5)

    play(tmp_path, story)


def test_a_renewal_that_was_not_used_yet_is_revoked_with_the_certificate(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        consortium.enrol("A")
        consortium.registry.renew("A", 77, b"c", 1.0, 2.0)
        consortium.registry.revoke("A", 3.0)
        assert consortium.registry.standing("A", 77) == "revoked"
        with pytest.raises(RefusedError):
            consortium.registry.renew("A", 78, b"c", 4.0, 5.0)

    play(tmp_path, story)


def test_who_never_enrolled_cannot_be_revoked(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        with pytest.raises(UserError, match="no site 'B'"):
            consortium.registry.revoke("B", 1.0)

    play(tmp_path, story)


# --- streams that are open


def test_a_connection_is_closed_when_its_certificate_ends(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        consortium.hub.dismiss_ended(joined.session.member.ends - dt.timedelta(seconds=1))
        assert "A" in consortium.hub.connected()
        consortium.hub.dismiss_ended(joined.session.member.ends + dt.timedelta(seconds=1))
        assert not consortium.hub.connected()

    play(tmp_path, story)


def test_a_connection_is_closed_when_its_certificate_was_replaced(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        old = await consortium.join("A")
        async with watched(consortium):
            consortium.enrol("A")
            with pytest.raises(RefusedError, match="does not let this site in") as caught:
                await asyncio.wait_for(old.task, 5)
            assert "no longer in use" in caught.value.why

    play(tmp_path, story)


# --- the hub's own


def shown(port: int, authority: bytes) -> int:
    """The serial number of the certificate that a port shows now."""
    return serial(port, ssl.create_default_context(cadata=authority.decode()))


def serial(port: int, context: ssl.SSLContext) -> int:
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        context.wrap_socket(plain, server_hostname=identity.HUB_NAME) as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_hub_certificate_is_renewed_on_both_ports_under_open_connections(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.stop()
        own = HubCertificate(tmp_path, consortium.authority, consortium.now)
        first = identity.read_leaf(own.identity.certificate).serial
        consortium.server = grpc.aio.server(interceptors=[CertificateCheck(consortium.registry)], options=ports.OPTIONS)
        consortium.server.add_generic_rpc_handlers([service(consortium.hub)])
        consortium.port = consortium.server.add_secure_port("127.0.0.1:0", own.grpc_credentials())
        await consortium.server.start()
        joined = await consortium.join("A")
        door = HttpsServer(Starlette(), own.tls(), "127.0.0.1", 0)
        both = (consortium.port, await door.begin())
        authority = consortium.authority.certificate
        assert [await asyncio.to_thread(shown, port, authority) for port in both] == [first, first]
        assert not own.renew(consortium.now + 59 * DAY)
        assert own.renew(consortium.now + 61 * DAY)
        second = identity.read_leaf(own.identity.certificate).serial
        # Its life begins in 61 days: a client of today takes it for one of the future, so only the number is looked at.
        assert [await asyncio.to_thread(unverified, port) for port in both] == [second, second]
        assert first != second
        assert joined.session.connected
        assert HubCertificate(tmp_path, consortium.authority, consortium.now + 62 * DAY).identity == own.identity
        await door.end()

    play(tmp_path, story)


def unverified(port: int) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return serial(port, context)


def test_an_identity_file_that_was_cut_off_is_the_users_to_mend(tmp_path: Path) -> None:
    made = certificates.authority_of(tmp_path, "test", dt.datetime.now(dt.UTC))
    assert certificates.authority_of(tmp_path, "test", dt.datetime.now(dt.UTC)) == made
    (tmp_path / "authority" / "identity.pem").write_bytes(made.key)
    with pytest.raises(UserError, match="cannot be read"):
        certificates.authority_of(tmp_path, "test", dt.datetime.now(dt.UTC))


# --- running out


def test_each_certificate_is_warned_about_once_for_each_threshold(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        for name in ("A", "B", "R"):
            consortium.enrol(name)
        consortium.registry.revoke("R", 1.0)
        warnings = expiry.Warnings()

        def told(day: float) -> list[str]:
            at = consortium.now + day * DAY
            return certificates.running_out(consortium.registry, consortium.authority.certificate, warnings, at)

        assert told(59) == []
        assert [line.split(":")[0] for line in told(61)] == [
            "the certificate of site A",
            "the certificate of site B",
        ]
        assert told(70) == []
        consortium.enrol("B")  # a new certificate, which ends in 90 days
        assert [len(told(day)) for day in (84, 88, 89.5, 91)] == [2, 0, 2, 2]
        (line,) = told(3640)
        assert line.startswith("the authority's certificate: good until")

    play(tmp_path, story)


# --- a clock that was months ahead, or back

MONTHS = 70 * DAY


@pytest.mark.parametrize("off", [MONTHS, -MONTHS])
def test_hub_certificate_out_of_its_time_is_replaced_at_start_and_at_run_time(
    off: dt.timedelta, tmp_path: Path
) -> None:
    now = dt.datetime.now(dt.UTC)
    authority = identity.make_authority("test", now - 400 * DAY)
    HubCertificate(tmp_path, authority, now)
    running = HubCertificate(tmp_path, authority, now + off)  # started once with a wrong clock
    assert HubCertificate(tmp_path, authority, now).life().has(now)  # a restart helps
    running.renew(now)  # and so does the right time alone
    assert running.life().has(now)
    assert ["not in force before" in line for line in running.news] == [True]


def test_clock_change_is_reported_at_once_with_invalid_certificates(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        right = consortium.now
        consortium.now = right + MONTHS
        consortium.enrol("A")
        ahead = identity.make_authority("test", right + MONTHS)
        own = HubCertificate(tmp_path, ahead, right + MONTHS)
        at, said = [right + MONTHS], list[str]()
        watching = asyncio.ensure_future(
            certificates.watch(
                consortium.hub, consortium.registry, own, lambda: ahead.certificate, said.append, lambda: at[0]
            )
        )
        await asyncio.sleep(0.1)
        assert said == []
        at[0] = right
        await until(lambda: len(said) >= 4, 5)
        watching.cancel()
        assert said[0] == "this machine's clock was put back by 70 days"
        assert said[1].startswith("the hub's certificate was not in force before")
        assert "authority's certificate: not in force before" in said[2]
        assert "ynet-server authority rotate --now" in said[2]
        assert "site A: not in force before" in said[3]
        assert "(ynet-server invite A --replace)" in said[3]

    play(tmp_path, story)


def test_a_renewal_made_while_the_clock_was_ahead_is_not_given_again(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        member, right = consortium.enrol("A"), consortium.now
        asked = GrpcPeer("A", identity.read_leaf(member.certificate), member.certificate)
        csr = identity.signing_request(identity.new_key(), "A")
        early = renewal.renew(consortium.registry, consortium.authority, asked, csr, right + MONTHS)
        assert renewal.renew(consortium.registry, consortium.authority, asked, csr, right + MONTHS) == early
        late = renewal.renew(consortium.registry, consortium.authority, asked, csr, right + 65 * DAY)
        assert late != early
        assert identity.read_leaf(late).life.has(right + 65 * DAY)

    play(tmp_path, story)


def test_a_successor_that_is_not_in_force_can_be_made_anew(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC)
    authorities = Authorities(tmp_path, "test", now)
    authorities.rotate(now + MONTHS)
    assert not authorities.life().has(now)
    authorities.rotate(now)
    assert authorities.life().has(now)
    with pytest.raises(UserError, match="not rotated"):
        authorities.rotate(now)


# --- how things stand


def test_a_probe_tells_the_calling_site_and_the_hubs_clock_and_changes_nothing(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        member: Membership = joined.session.member
        async with consortium.wire(member) as wire:
            probe = wire._channel.unary_unary(
                f"/{protocol.SERVICE}/Probe", pb.ProbeRequest.SerializeToString, pb.ProbeReply.FromString
            )
            reply = await probe(pb.ProbeRequest())
            assert (reply.site, reply.protocol) == ("A", protocol.VERSION)
            assert reply.time == consortium.now.timestamp()
        assert joined.session.connected
        assert list(consortium.hub.connected()) == ["A"]

    play(tmp_path, story)
