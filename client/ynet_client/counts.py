"""A site's counters and histograms for Prometheus, incremented as events happen.

Label values come from short lists in the code: no metric names a patient, a file, a user or another site.
"""

import contextlib
import time
from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from ynet_client.audit import Entry
from ynet_client.connection.tasks import OF_KIND
from ynet_client.egress import Class

REPLIES = (
    "found",
    "empty",
    "suppressed",
    "refused",
    "other_model",
    "missing",
    "late",
    "busy",
    "unreadable",
    "unconfirmed",
)
ANSWERS = ("found", "empty", "suppressed", "refused", "other_model", "unreadable")
TASKS = ("done", "refused", "failed", "called off", "awaited")
REFUSALS = ("query", "consult", "consult-check", "task", "model")
METHODS = ("attach", "download", "upload", "resume", "ask", "renew", "witness")
SHORT_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
LONG_BUCKETS_S = (0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 4 * 3_600.0)
OTHER = "other"


class Counts:
    """The counters and histograms. They start from zero with the process, as Prometheus expects."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, label: str, known: tuple[str, ...]) -> Counter:
            made = Counter(f"ynet_client_{name}", text, [label], registry=registry)
            for value in known:
                made.labels(value)
            return made

        kinds = tuple(OF_KIND)
        self._tasks = Counter(
            "ynet_client_tasks", "Messages of runs, by outcome.", ["kind", "outcome"], registry=registry
        )
        for kind in kinds:
            for outcome in TASKS:
                self._tasks.labels(kind, outcome)
        self._task_seconds = Histogram(
            "ynet_client_task_seconds",
            "Work on a message of a run that was done.",
            ["kind"],
            registry=registry,
            buckets=LONG_BUCKETS_S,
        )
        for kind in kinds:
            self._task_seconds.labels(kind)
        self._sent = counter("sent_bytes", "Messages to the server, unencrypted.", "of", get_args(Class))
        self._received = counter("received_bytes", "Messages from the server, unencrypted.", "method", METHODS)
        self._queries = counter(
            "queries", "Questions of this site's people; a batch is one.", "outcome", ("done", "failed")
        )
        self._replies = counter("query_replies", "Outcomes of these queries at each other site.", "outcome", REPLIES)
        self._query_seconds = Histogram(
            "ynet_client_query_seconds",
            "A question, from the image to all sites' hits.",
            registry=registry,
            buckets=SHORT_BUCKETS_S,
        )
        self._answers = counter("answers", "Queries of other sites, by outcome.", "outcome", ANSWERS)
        self._answer_seconds = Histogram(
            "ynet_client_answer_seconds", "Answering another site.", registry=registry, buckets=SHORT_BUCKETS_S
        )
        self._refusals = counter("refusals", "Requests of others that this site refused, by kind.", "kind", REFUSALS)

    def sent(self, of: Class, size_bytes: int) -> None:
        """Count a message to the server."""
        self._sent.labels(of).inc(size_bytes)

    def received(self, method: str, size_bytes: int) -> None:
        """Count a message from the server."""
        self._received.labels(_known(method, METHODS)).inc(size_bytes)

    def entered(self, entry: Entry) -> None:
        """Count an entry of the audit log."""
        outcomes = list(entry.outcomes.values())
        if (entry.direction, entry.kind) == ("asked", "query"):
            for outcome in outcomes:
                self._replies.labels(_known(outcome, REPLIES)).inc()
        if entry.direction == "answered" and entry.kind in ("query", "unreadable"):
            self._answers.labels(_known(outcomes[0], ANSWERS)).inc()
        if entry.direction != "asked" and outcomes == ["refused"]:
            self._refusals.labels(_known(entry.kind, REFUSALS)).inc()

    def task(self, kind: str, outcome: str, seconds: float) -> None:
        """Count work on a message of a run."""
        name = _known(kind, tuple(OF_KIND))
        self._tasks.labels(name, outcome).inc()
        if outcome == "done":
            self._task_seconds.labels(name).observe(seconds)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Count and time a query of this site's people."""
        begun, outcome = time.monotonic(), "failed"
        try:
            yield
            outcome = "done"
            self._query_seconds.observe(time.monotonic() - begun)
        finally:
            self._queries.labels(outcome).inc()

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Time an answer to another site."""
        with self._answer_seconds.time():
            yield


def _known(value: str, words: tuple[str, ...]) -> str:
    return value if value in words else OTHER
