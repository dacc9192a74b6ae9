"""Counters of the hub's traffic: bytes by method, refused calls, and queries by outcome."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram

from ynet.federation import hub_pb2 as pb
from ynet_server.hub.interception import Around, AroundCalls, Context

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


class Traffic(AroundCalls):
    """Counts calls. Stands before the check of certificates, so that it counts what the check refuses."""

    def __init__(self, registry: CollectorRegistry, refused: Callable[[str], None]) -> None:
        """Call `refused` with the kind of each refused call."""
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

    def around(self, method: str) -> Around:
        """The counters around every call."""
        name = method.lower()
        around = Around(self._watched, received=self._received.labels(name).inc, sent=self._sent.labels(name).inc)
        return around._replace(responses=self._counted) if method == "Ask" else around

    @asynccontextmanager
    async def _watched(self, context: Context) -> AsyncIterator[None]:
        try:
            yield
        finally:
            code = context.code()
            for status, kind in REFUSALS.items():
                if code in (status, status.value[0]):
                    self._refused(kind)

    async def _counted(self, answers: AsyncIterator[pb.Answers], _: Context) -> AsyncIterator[pb.Answers]:
        """Count what becomes of a query; its duration when it is complete."""
        begun = time.monotonic()
        async for part in answers:
            self._count(part)
            yield part
        self._queries.inc()
        self._seconds.observe(time.monotonic() - begun)

    def _count(self, part: pb.Answers) -> None:
        self._replies.labels("answered").inc(len(part.answers))
        for outcome in SILENCES:
            self._replies.labels(outcome).inc(len(getattr(part, outcome)))
