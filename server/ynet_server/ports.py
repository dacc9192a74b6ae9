"""The server's ports, open as long as it runs: the hub, enrolment, the status page, the metrics, the control socket."""

import contextlib
import datetime as dt
import errno
import gc
import os
import resource
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

import grpc
from starlette.routing import Route

from ynet import __version__
from ynet.errors import UserError
from ynet.federation import protocol
from ynet.federation.countersigned import SERVER, Witness
from ynet.runtime import control_server
from ynet.runtime.address import Address
from ynet.trust import identity
from ynet.web import prometheus
from ynet_server.assembly import ServerParts
from ynet_server.authority import enrolment, renewal, rotation
from ynet_server.clock import now
from ynet_server.control_routes import routes
from ynet_server.hub import witness as witnesses
from ynet_server.hub.front import Front
from ynet_server.hub.hub import service
from ynet_server.hub.peers import CertificateCheck
from ynet_server.hub.traffic import Traffic
from ynet_server.settings import remember
from ynet_server.status.serving import serving
from ynet_server.status.snapshot import snapshot

# With an ECDSA certificate, this leaves TLS 1.2 without a common cipher suite, so that only TLS 1.3 connects. Python's
# gRPC has no setting for the version.
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"

MAX_STREAMS, MAX_CONNECTIONS, HANDSHAKE_MS = 1024, 2048, 20_000
"""Calls of one connection; connections of gRPC in all; how long a connection may be without a certificate. A site has
one connection, and for a moment a second one. front.py limits the connections of strangers before gRPC sees them."""
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_time_ms", protocol.PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", protocol.PING_ANSWER_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", protocol.PING_EVERY_MS // 2),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", 4 * protocol.CHUNK_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
]
STOP_GRACE_S = 2.0


class Addresses(NamedTuple):
    """Where the server can be reached."""

    hub: str
    enrolment: str
    fingerprint: str  # SHA-256 of the authority
    page: list[str]  # lines about the status page; empty when it is off


@contextlib.asynccontextmanager
async def opened(
    parts: ServerParts, known: Mapping[str, str], interceptors: Sequence[grpc.aio.ServerInterceptor] = ()
) -> AsyncIterator[Addresses]:
    """Open all ports, and close them at the end. Raises UserError when one cannot be opened.

    `known` says where each setting came from; it is stored with the settings for the next start.
    """
    advertise = parts.settings.advertise
    _allow_files(4 * MAX_CONNECTIONS)
    async with contextlib.AsyncExitStack() as stack:
        hub_port = await stack.enter_async_context(_hub(parts, interceptors))
        hub = str(Address(advertise, hub_port))
        enrolment_port = await stack.enter_async_context(_enrolment(parts, hub))
        remember(parts.home, parts.settings, hub_port, enrolment_port, known)
        at = Addresses(
            hub=hub,
            enrolment=str(Address(advertise, enrolment_port)),
            fingerprint=identity.fingerprint(parts.authority.certificate).hex(),
            page=await stack.enter_async_context(
                serving(
                    parts.home,
                    parts.settings.status,
                    lambda: snapshot(parts.state, parts.audit_view, now()),
                    dt.datetime.now(dt.UTC),
                )
            ),
        )
        await stack.enter_async_context(prometheus.serving(parts.settings.metrics, parts.metrics))
        control = await control_server.serve(parts.home, _control_routes(parts, at))
        stack.push_async_callback(control.end)
        yield at


@contextlib.asynccontextmanager
async def _hub(parts: ServerParts, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> AsyncIterator[int]:
    """Serve the hub; yields its port. The front takes the connections and passes them on to gRPC."""
    listen = parts.settings.listen
    front = Front(listen.host, listen.hub_port)
    try:
        port = front.listen()
    except OSError as error:
        raise _port_fault("hub_port", listen.hub_port, error) from None
    around = [
        Traffic(parts.metrics, parts.counters.refused),
        CertificateCheck(parts.registry, front.know),
        parts.limits,
        *interceptors,
    ]
    server = grpc.aio.server(interceptors=around, options=OPTIONS)
    server.add_generic_rpc_handlers(_services(parts))
    server.add_secure_port(front.target, parts.own.grpc_credentials())
    await server.start()
    front.begin()
    try:
        yield port
    finally:
        await server.stop(STOP_GRACE_S)
        await front.end()
        del server
        gc.collect()  # gRPC's server needs the running loop when it is collected


def _services(parts: ServerParts) -> list[grpc.GenericRpcHandler]:
    """The methods of the hub, of renewals and of witnesses."""
    renewing = renewal.service(
        parts.registry,
        parts.authority,
        audit=parts.write,
        successor_for=parts.rotation.successor_for,
        is_connected=lambda site: site in parts.hub.connected(),
    )
    witness = Witness(parts.home, SERVER, lambda: parts.own.identity, lambda: parts.authority.trusted)
    return [service(parts.hub), renewing, witnesses.service(witness, parts.audit, parts.write)]


@contextlib.asynccontextmanager
async def _enrolment(parts: ServerParts, hub: str) -> AsyncIterator[int]:
    """Serve enrolment; yields its port. `hub`: the address that enrolled sites are given."""
    listen = parts.settings.listen
    app = enrolment.application(
        parts.registry, parts.authority, hub, parts.hub.dismiss, parts.write, parts.authority.successions
    )
    try:
        https, port = await enrolment.serve(app, parts.own.tls(), listen.host, listen.enrolment_port)
    except OSError as error:
        raise _port_fault("enrolment_port", listen.enrolment_port, error) from None
    try:
        yield port
    finally:
        await https.end()


def _control_routes(parts: ServerParts, at: Addresses) -> list[Route]:
    about: dict[str, object] = {
        "federation": parts.settings.federation,
        "version": __version__,
        "hub": at.hub,
        "enrolment": at.enrolment,
        "fingerprint": at.fingerprint,
    }
    listed = routes(
        parts.registry, parts.hub, parts.runs, parts.authority, parts.own, about, parts.revocations, parts.write
    )
    return [*listed, *rotation.routes(parts.rotation)]


def _allow_files(wanted: int) -> None:
    """Raise this process's limit of open files, as far as the system allows: each connection is a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _port_fault(key: str, port: int, error: OSError) -> UserError:
    taken = error.errno == errno.EADDRINUSE
    return UserError(
        f"the server cannot listen on port {port}",
        "another process listens there" if taken else (error.strerror or "the address cannot be listened on"),
        f"{'stop that process' if taken else 'mend listen.host'}, or set another listen.{key} in the server's config",
    )
