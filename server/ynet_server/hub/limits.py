"""How often a site may call the hub, checked before a call is served and before anything of it is written."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType

import grpc

from ynet.runtime.rates import FLUSH_EVERY_S, Rate, Restraint
from ynet.runtime.reserve import Reserve
from ynet_server.audit import Write
from ynet_server.hub.interception import Around, AroundCalls, Context
from ynet_server.hub.peers import calling_site

ASK = "Ask"
RATES: Mapping[str, Rate] = MappingProxyType(
    {
        ASK: Rate(1200, 2.0),
        "Attach": Rate(240, 1.0),
        "Witness": Rate(120, 0.5),
        "Renew": Rate(60, 0.05),
        "Probe": Rate(120, 1.0),
    }
)
"""Limits of one site, by method, for methods whose calls are stored somewhere. Transfers have limits of their own."""
TOGETHER = 50.0
"""The limit of all sites together is this many times the limit of one."""


class Limits(AroundCalls):
    """Refuses calls of a site that calls too often. Stands behind the check of certificates, which names the site."""

    def __init__(
        self,
        audit: Write,
        reserve: Reserve,
        rates: Mapping[str, Rate] = RATES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write refused calls to `audit`, one line for each site, method and minute."""
        self._reserve, self._restraints = reserve, dict[str, Restraint]()
        for method, rate in rates.items():
            together = Rate(rate.burst * TOGETHER, rate.per_s * TOGETHER)
            self._restraints[method] = Restraint(rate, together, _reporting(audit, method), clock)

    def around(self, method: str) -> Around | None:
        """The limit before the calls of a method that has one."""

        @asynccontextmanager
        async def admitted(context: Context) -> AsyncIterator[None]:
            await self._admit(method, context)
            yield

        return Around(admitted) if method in self._restraints else None

    async def keep_reporting(self, every_s: float = FLUSH_EVERY_S) -> None:
        """Write refused calls to the audit log at intervals, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write refused calls to the audit log."""
        for restraint in self._restraints.values():
            restraint.flush()

    async def _admit(self, method: str, context: Context) -> None:
        site, restraint = calling_site(), self._restraints[method]
        if not restraint.admits(site):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the site calls too often: wait a while")
        if method == ASK and self._reserve.is_low():
            restraint.refused(site)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server's disk is nearly full")


def _reporting(audit: Write, method: str) -> Callable[[str, int], None]:
    about = f"calls of {method} that were refused unheard"
    return lambda site, count: audit("too-many", site, about, count)
