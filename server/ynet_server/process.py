"""The server's process: it puts its parts together, opens its ports, resumes the interrupted run, and waits to stop."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import grpc

from ynet import __version__
from ynet.runtime import listening, systemd
from ynet.runtime.address import Address, is_loopback
from ynet.runtime.reserve import Reserve
from ynet.web import prometheus
from ynet_server.assembly import ServerParts, assembled
from ynet_server.authority import certificates, rotation
from ynet_server.authority.revocations import Revocations
from ynet_server.ports import Addresses, opened
from ynet_server.settings import ServerSettings, places

log = logging.getLogger("ynet.process")
WATCH_DISK_S = 10.0


async def serve(
    home: Path,
    settings: ServerSettings,
    say: Callable[[str], None],
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    known: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run the server until SIGINT or SIGTERM. Raises UserError when it cannot start.

    `known` says where each setting came from.
    """
    listening.check(places(settings))
    with assembled(home, settings) as parts:
        parts.runs.publish_newest()
        async with opened(parts, known, interceptors) as at:
            parts.runs.resume()
            for line in _announcement(settings, at):
                say(line)
            async with _watching(parts, say), systemd.told(lambda: _summary(parts)):
                await _until_stopped()
            say("stopping")
            parts.runs.stop()
            parts.hub.close()
        await parts.audit_view.close()
        parts.limits.flush()


def _announcement(settings: ServerSettings, at: Addresses) -> Iterator[str]:
    """The lines that the server prints when it is ready."""
    yield f"ynet-server {__version__}, federation {settings.federation}"
    yield f"  sites connect to   {at.hub} (mutual TLS 1.3)"
    yield f"  sites enrol at     {at.enrolment} (HTTPS)"
    yield f"  authority          SHA-256 {at.fingerprint}"
    yield from at.page
    if settings.metrics.port:
        where = Address(settings.metrics.host or "0.0.0.0", settings.metrics.port)  # noqa: S104 (as it is set)
        yield f"  metrics            http://{where}{prometheus.PATH} (no login)"
    if is_loopback(settings.advertise) and not is_loopback(settings.listen.host):
        yield "  other machines     cannot reach these addresses: set 'advertise' in the config to this machine's name"
    yield "ready. Next: ynet-server invite SITE"


@contextlib.asynccontextmanager
async def _watching(parts: ServerParts, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Run the background checks: certificates, a rotation, refused calls, the disk."""
    trusted = lambda: parts.authority.trusted  # noqa: E731
    watching = [
        asyncio.create_task(one)
        for one in (
            certificates.watch(parts.hub, parts.registry, parts.own, trusted, say),
            rotation.watch(parts.rotation),
            parts.limits.keep_reporting(),
            _watch_disk(parts.reserve, parts.revocations, say),
        )
    ]
    try:
        yield
    finally:
        for one in watching:
            one.cancel()


async def _watch_disk(reserve: Reserve, revocations: Revocations, say: Callable[[str], None]) -> None:
    """Restore the reserve and write pending revocations whenever the disk has room, until cancelled."""
    was_low = False
    while True:
        try:
            revocations.settle(say)
            reserve.keep()
            if (is_low := reserve.is_low()) and not was_low:
                say("the disk is nearly full: questions of sites are refused until there is room")
            was_low = is_low
        except Exception:
            log.exception("the disk check failed")
        await asyncio.sleep(WATCH_DISK_S)


def _summary(parts: ServerParts) -> str:
    """What the service manager shows of this server, without names."""
    newest = next(iter(parts.registry.training.runs()), None)
    return f"{len(parts.hub.connected())} sites connected; " + (
        f"run {newest.id}: {newest.status}" if newest else "no run yet"
    )


async def _until_stopped() -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
