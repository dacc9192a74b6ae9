"""Metrics for Prometheus: a registry of one process, served as plain HTTP at /metrics. There is no login."""

import errno
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ynet.config import STRICT
from ynet.errors import UserError
from ynet.runtime import address
from ynet.web.https_server import HttpsServer

PATH = "/metrics"


@dataclass(frozen=True, config=STRICT)
class MetricsSettings:
    """Where the process serves its [metrics]: plain HTTP without a login.

    Everyone who reaches the port reads them. They name sites, and no person.
    """

    host: Annotated[str, AfterValidator(address.host_or_all)] = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """0 serves no metrics."""


class LookedUp(Collector):
    """Gauges that are read at scrape time, in the process's event loop."""

    def __init__(self, look: Callable[[], Iterator[Metric]]) -> None:
        self._look = look

    def describe(self) -> list[Metric]:
        """Return nothing, so that the registry does not read the gauges on registration."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        return self._look()


def disk(program: str, home: Path) -> Iterator[Metric]:
    """Yield the size and the free space of the home folder's disk; `program` is the prefix of the names."""
    found = shutil.disk_usage(home)
    yield GaugeMetricFamily(f"{program}_disk_size_bytes", "The disk with the home folder.", found.total)
    yield GaugeMetricFamily(f"{program}_disk_free_bytes", "Free on that disk.", found.free)


async def nothing() -> None:
    """Do nothing, for metrics that need no preparation."""


def new_registry() -> CollectorRegistry:
    """Make a registry with the process metrics only (memory, CPU seconds, open files)."""
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    return registry


def application(registry: CollectorRegistry, before: Callable[[], Awaitable[None]] = nothing) -> Starlette:
    """Return an app that serves GET /metrics. It awaits `before` first, which collects slow metrics in a thread."""

    async def show(request: Request) -> Response:
        await before()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    return Starlette(routes=[Route(PATH, show)])


@asynccontextmanager
async def serving(
    settings: MetricsSettings, registry: CollectorRegistry, before: Callable[[], Awaitable[None]] = nothing
) -> AsyncIterator[None]:
    """Serve the metrics in the `with` block, unless they are off.

    Raises:
        UserError: The port cannot be listened on.
    """
    if not settings.port:
        yield
        return
    server = HttpsServer(application(registry, before), None, settings.host, settings.port)
    try:
        await server.begin()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "another process listens there" if taken else (error.strerror or "the address cannot be listened on")
        do = "set another metrics.port (0: off) in the config, or correct metrics.host"
        raise UserError(f"the metrics cannot be served on port {settings.port}", why, do) from None
    try:
        yield
    finally:
        await server.end()
