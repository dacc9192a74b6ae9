"""Who calls: the site's name, read from its certificate on every call, never from a message."""

import asyncio
import datetime as dt
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError

from ynet.federation import protocol
from ynet.trust import identity
from ynet.trust.identity import Leaf
from ynet_server.registry import Registry

log = logging.getLogger("ynet.callers")
AGAIN_AFTER_S = 1.0
"""A call that goes on is checked again before what it moves next, this often at most."""
_caller: ContextVar["Caller"] = ContextVar("caller")


class Caller(NamedTuple):
    """Who calls."""

    site: str
    leaf: Leaf
    certificate: bytes  # PEM


def calling_site() -> str:
    """The site whose call is being served."""
    return _caller.get().site


def caller() -> Caller:
    """Whose call is being served, with the certificate."""
    return _caller.get()


def refusal(registry: Registry, site: str, leaf: Leaf, now: dt.datetime) -> str | None:
    """Why a site's certificate does not count, in words for the site; None when it does."""
    if not leaf.begins <= now <= leaf.ends:
        return "the certificate is out of its time"
    standing = registry.standing(site, leaf.serial)
    if standing == "revoked":
        return "the certificate was revoked"
    if standing == "retired":
        return "the certificate is of an authority that was retired"
    return None if standing in ("current", "next") else "the certificate is no longer in use"


def behaviour(handler: Any) -> str:
    """Which of its four functions a gRPC handler has."""
    names = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    return next(name for name in names if getattr(handler, name) is not None)


class CertificateCheck(grpc.aio.ServerInterceptor):
    """Lets a call through when its certificate is a site's, is in its time, and in use.

    TLS has checked the chain once, at the handshake; a channel outlives that by far, and so may a call.
    """

    def __init__(self, registry: Registry, known: Callable[[str, str], None] = lambda *_: None) -> None:
        """`known` is told of each call that is let through: gRPC's name of its connection, and the site."""
        self._registry, self._known = registry, known

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the check before the handler, whichever kind it is."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler
        name = behaviour(handler)
        inner = getattr(handler, name)
        if handler.response_streaming:

            async def streaming(request: Any, context: grpc.aio.ServicerContext) -> Any:
                await self._admit(context)
                try:
                    async with aclosing(inner(request, context)) as answers:
                        async for answer in self._while_good(answers, context):
                            yield answer
                except Exception as error:  # noqa: BLE001 (told to the log)
                    await _hide(error, context)

            return handler._replace(**{name: streaming})

        async def single(request: Any, context: grpc.aio.ServicerContext) -> Any:
            await self._admit(context)
            try:
                return await inner(
                    self._while_good(request, context) if handler.request_streaming else request, context
                )
            except Exception as error:  # noqa: BLE001 (told to the log)
                await _hide(error, context)

        return handler._replace(**{name: single})

    async def _admit(self, context: grpc.aio.ServicerContext) -> None:
        pem = next(iter(context.auth_context().get("x509_pem_cert", [])), b"")
        try:
            leaf = identity.read_leaf(pem)
        except ValueError:
            leaf = None
        if leaf is None or leaf.site is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate names no site")
            raise AssertionError
        _caller.set(Caller(leaf.site, leaf, pem))
        await self._check(context)
        self._known(context.peer(), leaf.site)

    async def _check(self, context: grpc.aio.ServicerContext) -> None:
        site, leaf, _ = caller()
        if why := refusal(self._registry, site, leaf, dt.datetime.now(dt.UTC)):
            log.warning("a call of site %s was refused: %s", site, why)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, why)

    async def _while_good(self, parts: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        """The parts that a call moves, as long as its certificate counts."""
        due = time.monotonic() + AGAIN_AFTER_S
        async for part in parts:
            if time.monotonic() >= due:
                await self._check(context)
                due = time.monotonic() + AGAIN_AFTER_S
            yield part


async def _hide(error: Exception, context: grpc.aio.ServicerContext) -> None:
    """End a call that failed: gRPC would tell the caller the error's text, with paths in it."""
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
