"""The site's gauges for Prometheus: they are read at scrape time. Counters are in `counts`.

Label values come from short lists in the code, the data set's name in the ledger, and the site's own name: no metric
names a patient, a file, a user or another site.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from ynet import __version__
from ynet.errors import UserError
from ynet.trust import ledger
from ynet.web import prometheus
from ynet_client.settings import PrivacySettings

if TYPE_CHECKING:
    from ynet_client.agent import Agent
    from ynet_client.connection.session import Session

SHORT_ID = 12
WAIT_S, READ_EVERY_S = 2.0, 60.0


class Spent:
    """The newest summary of the privacy ledger.

    The accountant needs seconds for a summary. It computes one when the ledger has grown, at most every READ_EVERY_S;
    until it is done, the summary before stays.
    """

    def __init__(self, home: Path, settings: PrivacySettings) -> None:
        self._home, self._settings = home, settings
        self._seen: tuple[int, int] | None = None
        self._due = 0.0
        self._reading: asyncio.Task[None] | None = None
        self.summary: dict[str, Any] | None = None

    async def refresh(self, within_s: float = WAIT_S) -> None:
        """Read the ledger if it has grown, and wait for at most `within_s`."""
        try:
            found = (self._home / ledger.LEDGER).stat()
        except OSError:
            return
        now, is_idle = (found.st_size, found.st_mtime_ns), self._reading is None or self._reading.done()
        if now != self._seen and is_idle and time.monotonic() >= self._due:
            self._seen, self._due = now, time.monotonic() + READ_EVERY_S
            self._reading = asyncio.create_task(self._take())
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=within_s)

    async def _take(self) -> None:
        self.summary = await asyncio.to_thread(self._read)

    def _read(self) -> dict[str, Any] | None:
        from ynet_client.training.ledger_report import (
            summary,  # the accountant: seconds, where there is something to account
        )

        try:
            return summary(ledger.read(self._home), self._settings)
        except UserError:  # the ledger was changed: training and `ynet-client ledger` report it
            return None


class GaugeSources(NamedTuple):
    """The sources of the gauges."""

    site: str
    home: Path
    session: "Session"
    agent: "Agent"
    spent: Spent


def state(known: GaugeSources) -> prometheus.LookedUp:
    """Return a collector that reads the gauges in the client's event loop at each scrape."""
    return prometheus.LookedUp(lambda: _now(known))


def _now(known: GaugeSources) -> Iterator[Metric]:
    site, home, session, agent, spent = known
    yield InfoMetricFamily("ynet_client", "Which site this is.", {"version": __version__, "site": site})
    yield GaugeMetricFamily("ynet_client_connected", "1: the server is there.", float(session.connected))
    yield GaugeMetricFamily("ynet_client_cases", "Training cases.", agent.cases())
    yield GaugeMetricFamily("ynet_client_tasks_held", "Messages of runs that are worked on.", session.tasks_held)
    begins, ends = (at.timestamp() for at in session.member.life)
    yield GaugeMetricFamily("ynet_client_certificate_ends_timestamp_seconds", "When the site's certificate ends.", ends)
    name = "ynet_client_certificate_begins_timestamp_seconds"
    yield GaugeMetricFamily(name, "When the site's certificate begins.", begins)
    yield from _gallery(agent)
    yield from _epsilon(spent.summary)
    yield from _gpu() if agent.archive_if_ready() else ()
    yield from prometheus.disk("ynet_client", home)


def _gallery(agent: "Agent") -> Iterator[Metric]:
    model = InfoMetricFamily("ynet_client_model", "The model in use.", labels=["model", "plan"])
    codes = GaugeMetricFamily("ynet_client_gallery_codes", "Cases that answers are searched in.")
    damaged = GaugeMetricFamily("ynet_client_gallery_damaged_parts", "Damaged parts of its file, to be encoded again.")
    if archive := agent.archive_if_ready():
        codes.add_metric([], archive.gallery.indexed)
        damaged.add_metric([], archive.gallery.damaged_parts)
        if archive.model_id:
            used = archive.active()
            model.add_metric([used.id[:SHORT_ID], used.plan.id[:SHORT_ID]], {})
    yield from (model, codes, damaged)


def _epsilon(summary: dict[str, Any] | None) -> Iterator[Metric]:
    for key, text in {
        "spent": "Of the patients' privacy, what training has spent.",
        "reserved": "What the runs that have begun will still spend.",
        "left": "What may still be spent.",
    }.items():
        epsilon = GaugeMetricFamily(f"ynet_client_epsilon_{key}", text, labels=["data"])
        if summary:
            epsilon.add_metric([summary["data"]], summary[key])
        yield epsilon


def _gpu() -> Iterator[Metric]:
    """Yield the GPU's memory, where the process has loaded torch and uses CUDA."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    used = GaugeMetricFamily("ynet_client_gpu_memory_used_bytes", "In tensors.", labels=["device"])
    reserved = GaugeMetricFamily("ynet_client_gpu_memory_reserved_bytes", "Held for them.", labels=["device"])
    size = GaugeMetricFamily("ynet_client_gpu_memory_size_bytes", "All of the GPU's.", labels=["device"])
    if cuda is not None and cuda.is_available() and cuda.is_initialized():
        for device in range(cuda.device_count()):
            used.add_metric([str(device)], cuda.memory_allocated(device))
            reserved.add_metric([str(device)], cuda.memory_reserved(device))
            size.add_metric([str(device)], cuda.get_device_properties(device).total_memory)
    yield from (used, reserved, size)
