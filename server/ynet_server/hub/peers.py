"""The calling site: its name is read from its certificate on every call, never from a message."""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from ynet.federation import protocol
from ynet.trust import identity
from ynet.trust.identity import Leaf
from ynet_server.hub.interception import Around, AroundCalls, Context
from ynet_server.registry import Registry

log = logging.getLogger("ynet.hub.peers")
AGAIN_AFTER_S = 1.0
"""A call that is under way is checked again before its next message, at most this often."""
_peer: ContextVar["GrpcPeer"] = ContextVar("peer")


class GrpcPeer(NamedTuple):
    """The site that makes a call."""

    site: str
    leaf: Leaf
    certificate: bytes  # PEM


def calling_site() -> str:
    """The site whose call is being served."""
    return _peer.get().site


def peer() -> GrpcPeer:
    """The site whose call is being served, with its certificate."""
    return _peer.get()


def refusal(registry: Registry, site: str, leaf: Leaf, now: dt.datetime) -> str | None:
    """The reason why a site's certificate is not valid, for the site to read; None when it is valid."""
    if not leaf.begins <= now <= leaf.ends:
        return "the certificate is out of its time"
    standing = registry.standing(site, leaf.serial)
    if standing == "revoked":
        return "the certificate was revoked"
    if standing == "retired":
        return "the certificate is of an authority that was retired"
    return None if standing in ("current", "next") else "the certificate is no longer in use"


class CertificateCheck(AroundCalls):
    """Admits a call when its certificate belongs to a site, is within its validity, and is in use.

    TLS checks the chain once, at the handshake. A channel, and a call, may last much longer.
    """

    def __init__(self, registry: Registry, known: Callable[[str, str], None] = lambda *_: None) -> None:
        """Call `known` for each admitted call, with gRPC's name of the connection and the site."""
        self._registry, self._known = registry, known

    def around(self, method: str) -> Around:  # noqa: ARG002 (every method is checked)
        """The check before every call, and again while it streams; of a call that streams both ways, its responses."""
        return Around(self._checked, requests=self._while_good, responses=self._while_good)

    @asynccontextmanager
    async def _checked(self, context: Context) -> AsyncIterator[None]:
        await self._admit(context)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (it goes to the log)
            await _hide(error, context)

    async def _admit(self, context: Context) -> None:
        pem = next(iter(context.auth_context().get("x509_pem_cert", [])), b"")
        try:
            leaf = identity.read_leaf(pem)
        except ValueError:
            leaf = None
        if leaf is None or leaf.site is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate names no site")
            raise AssertionError
        _peer.set(GrpcPeer(leaf.site, leaf, pem))
        await self._check(context)
        self._known(context.peer(), leaf.site)

    async def _check(self, context: Context) -> None:
        site, leaf, _ = peer()
        if why := refusal(self._registry, site, leaf, dt.datetime.now(dt.UTC)):
            log.warning("a call of site %s was refused: %s", site, why)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, why)

    async def _while_good(self, parts: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        """Pass the messages of a call on as long as its certificate is valid."""
        due = time.monotonic() + AGAIN_AFTER_S
        async for part in parts:
            if time.monotonic() >= due:
                await self._check(context)
                due = time.monotonic() + AGAIN_AFTER_S
            yield part


async def _hide(error: Exception, context: Context) -> None:
    """End a failed call without details: gRPC would send the error's text, which may contain paths, to the site."""
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError | grpc.RpcError):
        raise error
    if isinstance(error, DecodeError):
        log.warning("site %s sent a message that cannot be read", calling_site())
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a message cannot be read: update the site")
    if isinstance(error, grpc.aio.InternalError):  # the caller is gone; gRPC lets only a cancelled call end quietly
        log.info("the line of a call of site %s broke", calling_site())
        raise asyncio.CancelledError from None
    log.error("a call of site %s failed", calling_site(), exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, protocol.SERVER_FAILED)
