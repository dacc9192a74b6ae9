"""Who calls: the site's name, read from its certificate on every call, never from a message."""

import datetime as dt
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc

from ynet.federation import identity
from ynet_server.registry import Registry

log = logging.getLogger("ynet.callers")
_site: ContextVar[str] = ContextVar("site")


def calling_site() -> str:
    """The site whose call is being served."""
    return _site.get()


class CertificateCheck(grpc.aio.ServerInterceptor):
    """Lets a call through when its certificate is a site's, is in its time, and is the one enrolled last.

    TLS has checked the chain once, at the handshake; a channel outlives that by far.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the check before the handler, whichever kind it is."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return handler
        if handler.response_streaming:
            inner_stream = handler.stream_stream or handler.unary_stream

            async def streaming(request: Any, context: grpc.aio.ServicerContext) -> Any:
                await self._admit(context)
                try:
                    async for answer in inner_stream(request, context):
                        yield answer
                except Exception as error:  # noqa: BLE001 (told to the log)
                    await _hide(error, context)

            kind = "stream_stream" if handler.request_streaming else "unary_stream"
            return handler._replace(**{kind: streaming})
        inner = handler.stream_unary or handler.unary_unary

        async def single(request: Any, context: grpc.aio.ServicerContext) -> Any:
            await self._admit(context)
            try:
                return await inner(request, context)
            except Exception as error:  # noqa: BLE001 (told to the log)
                await _hide(error, context)

        return handler._replace(**{"stream_unary" if handler.request_streaming else "unary_unary": single})

    async def _admit(self, context: grpc.aio.ServicerContext) -> None:
        pem = next(iter(context.auth_context().get("x509_pem_cert", [])), b"")
        try:
            leaf = identity.read_leaf(pem)
        except ValueError:
            leaf = None
        if leaf is None or leaf.site is None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate names no site")
        elif not leaf.begins <= dt.datetime.now(dt.UTC) <= leaf.ends:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate is out of its time")
        elif not self._registry.holds(leaf.site, leaf.serial):
            log.warning("a certificate of site %s that is no longer in use was refused", leaf.site)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the certificate is no longer in use")
        else:
            _site.set(leaf.site)


async def _hide(error: Exception, context: grpc.aio.ServicerContext) -> None:
    """End a call that failed: gRPC would tell the caller the error's text, with paths in it."""
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError | grpc.RpcError):
        raise error
    log.error("a call of site %s failed", calling_site(), exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "the server failed; its log says why")
