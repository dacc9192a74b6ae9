"""The parts of a running server, put together before a port is open."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from ynet.runtime import private_files
from ynet.runtime.home import Lock
from ynet.runtime.reserve import Reserve
from ynet.web import prometheus
from ynet_server import metrics
from ynet_server.audit import ServerAudit, Write
from ynet_server.authority.authorities import Authorities
from ynet_server.authority.certificates import HubCertificate
from ynet_server.authority.revocations import Revocations
from ynet_server.authority.rotation import Rotation
from ynet_server.hub.hub import Hub
from ynet_server.hub.limits import Limits
from ynet_server.metrics import ServerCounters, ServerState
from ynet_server.registry import Registry
from ynet_server.rounds.run_progress import RunProgressReader
from ynet_server.rounds.runs import Runs
from ynet_server.settings import ServerSettings
from ynet_server.status.audit_view import AuditView


@dataclass(frozen=True)
class ServerParts:
    """What a running server consists of."""

    home: Path
    settings: ServerSettings
    authority: Authorities
    own: HubCertificate
    reserve: Reserve
    registry: Registry
    audit: ServerAudit
    write: Write  # adds to `audit`, and counts
    metrics: CollectorRegistry
    counters: ServerCounters
    hub: Hub
    runs: Runs
    rotation: Rotation
    revocations: Revocations
    limits: Limits
    state: ServerState
    audit_view: AuditView


@contextlib.contextmanager
def assembled(home: Path, settings: ServerSettings) -> Iterator[ServerParts]:
    """Lock the home folder and put a server's parts together; close its files at the end. Raises UserError."""
    with Lock(home, "ynet-server"), contextlib.ExitStack() as stack:
        now = dt.datetime.now(dt.UTC)
        authority = Authorities(home, settings.federation, now)
        own = HubCertificate(home, authority, now, lambda: authority.trusted)
        reserve = Reserve(home)
        registry = stack.enter_context(contextlib.closing(Registry(home / "registry.sqlite")))
        audit = stack.enter_context(contextlib.closing(ServerAudit(home, reserve.give_up)))
        measured = prometheus.new_registry()
        counters = ServerCounters(measured)
        write = counters.audited(audit.write)
        hub = Hub(
            registry,
            settings.federation,
            private_files.empty_folder(home / "spool"),
            settings.max_model_mb << 20,
            write,
            takes_askers=settings.asking_sites == "accept",
        )
        runs = Runs(registry, hub, asyncio.get_running_loop(), home, write, counters.event)
        progress = RunProgressReader()
        state = ServerState(settings.federation, home, registry, hub, runs, progress, authority.life, own.life)
        measured.register(metrics.gauges(state))
        yield ServerParts(
            home=home,
            settings=settings,
            authority=authority,
            own=own,
            reserve=reserve,
            registry=registry,
            audit=audit,
            write=write,
            metrics=measured,
            counters=counters,
            hub=hub,
            runs=runs,
            rotation=Rotation(authority, registry, hub, own, write),
            revocations=Revocations(registry, hub, write, reserve),
            limits=Limits(write, reserve),
            state=state,
            audit_view=AuditView(home, audit, lambda: (authority.trusted, authority.past)),
        )
