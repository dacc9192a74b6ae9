"""The server's process: makes its certificates, opens its three doors, goes on with what was under way."""

import asyncio
import contextlib
import datetime as dt
import errno
import gc
import logging
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import grpc

from ynet import __version__
from ynet.errors import UserError
from ynet.federation import protocol
from ynet.federation.countersigned import SERVER, Witness
from ynet.runtime import control_server, listening, private_files, systemd
from ynet.runtime.address import Address, is_loopback
from ynet.runtime.home import Lock
from ynet.runtime.reserve import Reserve
from ynet.trust import identity
from ynet.web import prometheus
from ynet_server import metrics
from ynet_server.audit import Audit
from ynet_server.authority import certificates, enrolment, renewal, rotation
from ynet_server.authority.authorities import Authorities
from ynet_server.authority.certificates import HubCertificate
from ynet_server.authority.revocations import Revocations
from ynet_server.authority.rotation import Rotation
from ynet_server.control_routes import routes
from ynet_server.hub import witness as witnesses
from ynet_server.hub.front import Front
from ynet_server.hub.hub import Hub, service
from ynet_server.hub.limits import Limits
from ynet_server.hub.peers import CertificateCheck
from ynet_server.hub.traffic import Traffic
from ynet_server.registry import Registry
from ynet_server.registry import now as registry_now
from ynet_server.rounds.run_progress import Courses
from ynet_server.rounds.runs import Runs
from ynet_server.settings import ServerSettings, places, remember
from ynet_server.status.books import Books
from ynet_server.status.serving import serving
from ynet_server.status.snapshot import snapshot

# With an ECDSA certificate, this leaves TLS 1.2 no cipher suite in common: only 1.3 connects. (Python's gRPC has no
# setting for the version.)
os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES128-GCM-SHA256"

log = logging.getLogger("ynet.start")
MAX_STREAMS, MAX_CONNECTIONS, HANDSHAKE_MS = 1024, 2048, 20_000
"""Calls of one connection; connections that gRPC is given in all; how long one may be without a certificate. A site
has one connection, and a second one for a moment. Strangers' are bounded before (front.py)."""
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
WATCH_DISK_S = 10.0


async def serve(
    home: Path,
    settings: ServerSettings,
    say: Callable[[str], None],
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    known: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run the server until it is told to stop (SIGINT, SIGTERM). Raises UserError when it cannot start.

    `known`: where the settings came from, by key.
    """
    _allow_files(4 * MAX_CONNECTIONS)
    listening.check(places(settings))
    with Lock(home, "ynet-server"), contextlib.ExitStack() as stack:
        now = dt.datetime.now(dt.UTC)
        authority = Authorities(home, settings.federation, now)
        own = HubCertificate(home, authority, now, lambda: authority.trusted)
        reserve = Reserve(home)
        registry = stack.enter_context(contextlib.closing(Registry(home / "registry.sqlite")))
        audit = stack.enter_context(contextlib.closing(Audit(home, reserve.give_up)))
        spool = private_files.empty_folder(home / "spool")
        measured = prometheus.new_registry()
        counts = metrics.Counts(measured)
        write = counts.audited(audit.write)
        takes_askers = settings.asking_sites == "accept"
        hub = Hub(registry, settings.federation, spool, settings.max_model_mb << 20, write, takes_askers=takes_askers)
        runs = Runs(registry, hub, asyncio.get_running_loop(), home, write, counts.event)
        runs.publish_newest()

        witness = Witness(home, SERVER, lambda: own.identity, lambda: authority.trusted)
        following = Rotation(authority, registry, hub, own, write)
        renewing = renewal.service(
            registry,
            authority,
            audit=write,
            successor_for=following.successor_for,
            is_connected=lambda site: site in hub.connected(),
        )
        beside = [renewing, witnesses.service(witness, audit, write)]
        limits, front = Limits(write, reserve), Front(settings.listen.host, settings.listen.hub_port)
        around = [Traffic(measured, counts.refused), CertificateCheck(registry, front.know), limits, *interceptors]
        revocations = Revocations(registry, hub, write, reserve)
        server, hub_port = await _open_hub([service(hub), *beside], front, settings, own, around)
        address, past = str(Address(settings.advertise, hub_port)), authority.successions
        app = enrolment.application(registry, authority, address, hub.dismiss, write, past)
        try:
            https, enrolment_port = await enrolment.serve(
                app, own.tls(), settings.listen.host, settings.listen.enrolment_port
            )
        except OSError as error:
            await asyncio.gather(front.end(), server.stop(None))
            raise _port_fault("enrolment_port", settings.listen.enrolment_port, error) from None
        remember(home, settings, hub_port, enrolment_port, known)

        fingerprint = identity.fingerprint(authority.certificate).hex()
        about: dict[str, object] = {
            "federation": settings.federation,
            "version": __version__,
            "hub": address,
            "enrolment": str(Address(settings.advertise, enrolment_port)),
            "fingerprint": fingerprint,
        }
        listed = routes(registry, hub, runs, authority, own, about, revocations, write)
        listed += rotation.routes(following)
        measures = metrics.Known(settings.federation, home, registry, hub, runs, Courses(), authority.life, own.life)
        measured.register(metrics.state(measures))
        books = Books(home, audit, lambda: (authority.trusted, authority.past))
        pages = contextlib.AsyncExitStack()
        try:
            page = await pages.enter_async_context(
                serving(home, settings.status, lambda: snapshot(measures, books, registry_now()), now)
            )
            await pages.enter_async_context(prometheus.serving(settings.metrics, measured))
        except UserError:
            await asyncio.gather(pages.aclose(), https.end(), front.end(), server.stop(None))
            raise
        door = await control_server.serve(home, listed)
        runs.resume()
        for line in (
            f"ynet-server {__version__}, federation {settings.federation}",
            f"  sites connect to   {about['hub']} (mutual TLS 1.3)",
            f"  sites enrol at     {about['enrolment']} (HTTPS)",
            f"  authority          SHA-256 {fingerprint}",
            *page,
            *_metrics_at(settings),
            *_only_here(settings),
            "ready. Next: ynet-server invite SITE",
        ):
            say(line)

        beside_it = (
            certificates.watch(hub, registry, own, lambda: authority.trusted, say),
            rotation.watch(following),
            limits.keep_telling(),
            _watch_disk(reserve, revocations, say),
        )
        watching = [asyncio.create_task(one) for one in beside_it]
        async with systemd.told(lambda: _doing(hub, registry)):
            await _until_told_to_stop()
        for one in watching:
            one.cancel()
        say("stopping")
        runs.stop()
        hub.close()
        await asyncio.gather(pages.aclose(), door.end(), https.end(), server.stop(STOP_GRACE_S))
        await front.end()
        await books.close()
        limits.flush()
        del server
        gc.collect()  # gRPC's server ends itself when it is collected, and needs the loop for it
        await asyncio.sleep(0)


async def _watch_disk(reserve: Reserve, revocations: Revocations, say: Callable[[str], None]) -> None:
    """Hold the reserve again, and write down what could not be written, as soon as there is room; for ever."""
    was_low = False
    while True:
        try:
            revocations.settle(say)
            reserve.keep()
            if (is_low := reserve.is_low()) and not was_low:
                say("the disk is nearly full: questions of sites are refused until there is room")
            was_low = is_low
        except Exception:
            log.exception("the disk could not be looked at")
        await asyncio.sleep(WATCH_DISK_S)


def _doing(hub: Hub, registry: Registry) -> str:
    """What the service manager shows of this server: nobody's name."""
    newest = next(iter(registry.runs()), None)
    return f"{len(hub.connected())} sites connected; " + (
        f"run {newest.id}: {newest.status}" if newest else "no run yet"
    )


def _metrics_at(settings: ServerSettings) -> list[str]:
    at = settings.metrics
    where = Address(at.host or "0.0.0.0", at.port)  # noqa: S104 (as it is set)
    return [f"  metrics            http://{where}{prometheus.PATH} (no login)"] if at.port else []


def _only_here(settings: ServerSettings) -> list[str]:
    """A hint, where the server listens for other machines and tells them an address of this one alone."""
    if is_loopback(settings.advertise) and not is_loopback(settings.listen.host):
        return [
            "  other machines     cannot reach these addresses: set 'advertise' in the config to this machine's name"
        ]
    return []


async def _open_hub(
    services: Sequence[grpc.GenericRpcHandler],
    front: Front,
    settings: ServerSettings,
    own: HubCertificate,
    interceptors: Sequence[grpc.aio.ServerInterceptor],
) -> tuple[grpc.aio.Server, int]:
    try:
        port = front.listen()
    except OSError as error:
        raise _port_fault("hub_port", settings.listen.hub_port, error) from None
    server = grpc.aio.server(interceptors=interceptors, options=OPTIONS)
    server.add_generic_rpc_handlers(services)
    server.add_secure_port(front.target, own.grpc_credentials())
    await server.start()
    front.begin()
    return server, port


def _allow_files(wanted: int) -> None:
    """Let this process have that many files open, as far as the system lets it: connections are files too."""
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


async def _until_told_to_stop() -> None:
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await told.wait()
