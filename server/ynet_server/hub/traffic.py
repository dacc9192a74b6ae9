"""What goes through the hub, counted: bytes by method, calls that were refused, queries by what became of them."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from ynet.federation import hub_pb2 as pb
from ynet_server.hub.peers import behaviour

REFUSALS = {
    grpc.StatusCode.UNAUTHENTICATED: "certificate",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "limit",
    grpc.StatusCode.FAILED_PRECONDITION: "precondition",
    grpc.StatusCode.INVALID_ARGUMENT: "malformed",
}
"""The kinds of refused calls, by the status that they end with."""
METHODS = ("attach", "download", "upload", "resume", "ask", "renew", "witness")
SILENCES = ("missing", "late", "busy", "unreadable")
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Traffic(grpc.aio.ServerInterceptor):
    """Goes before the check of certificates, so that it sees what that one refuses. It changes nothing."""

    def __init__(self, registry: CollectorRegistry, refused: Callable[[str], None]) -> None:
        """`refused` is told the kind of each refused call."""
        self._refused = refused
        self._received = Counter(
            "ynet_server_received_bytes", "Messages from sites, unencrypted.", ["method"], registry=registry
        )
        self._sent = Counter("ynet_server_sent_bytes", "Messages to sites, unencrypted.", ["method"], registry=registry)
        self._queries = Counter("ynet_server_queries", "Questions that sites had passed on.", registry=registry)
        self._replies = Counter(
            "ynet_server_query_replies",
            "What became of a question at each site that it was for.",
            ["outcome"],
            registry=registry,
        )
        self._seconds = Histogram(
            "ynet_server_query_seconds", "A question, to its last answer.", registry=registry, buckets=BUCKETS_S
        )
        for method in METHODS:
            self._received.labels(method)
            self._sent.labels(method)
        for outcome in ("answered", *SILENCES):
            self._replies.labels(outcome)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the counting around a handler, whichever kind it is."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method).rpartition("/")[2].lower()
        handler = handler._replace(
            request_deserializer=_counted_in(handler.request_deserializer, self._received.labels(method).inc),
            response_serializer=_counted_out(handler.response_serializer, self._sent.labels(method).inc),
        )
        name = behaviour(handler)
        inner = getattr(handler, name)
        if not handler.response_streaming:

            async def single(request: Any, context: grpc.aio.ServicerContext) -> Any:
                try:
                    return await inner(request, context)
                finally:
                    self._ended(context)

            return handler._replace(**{name: single})

        async def streaming(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            begun = time.monotonic()
            try:
                async with aclosing(inner(request, context)) as answers:
                    async for answer in answers:
                        if method == "ask":
                            self._count(answer)
                        yield answer
            finally:
                self._ended(context)
            if method == "ask":
                self._queries.inc()
                self._seconds.observe(time.monotonic() - begun)

        return handler._replace(**{name: streaming})

    def _count(self, part: pb.Answers) -> None:
        self._replies.labels("answered").inc(len(part.answers))
        for outcome in SILENCES:
            self._replies.labels(outcome).inc(len(getattr(part, outcome)))

    def _ended(self, context: grpc.aio.ServicerContext) -> None:
        code = context.code()
        for status, kind in REFUSALS.items():
            if code in (status, status.value[0]):
                self._refused(kind)


def _counted_in(read: Callable[[bytes], Any], count: Callable[[int], None]) -> Callable[[bytes], Any]:
    def reading(data: bytes) -> Any:
        count(len(data))
        return read(data)

    return reading


def _counted_out(write: Callable[[Any], bytes], count: Callable[[int], None]) -> Callable[[Any], bytes]:
    def writing(message: Any) -> bytes:
        data = write(message)
        count(len(data))
        return data

    return writing
