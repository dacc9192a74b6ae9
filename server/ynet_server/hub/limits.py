"""How often a site may call the hub: held before a call is worked on, and before anything of it is written."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

import grpc

from ynet.runtime.rates import FLUSH_EVERY_S, Rate, Restraint
from ynet.runtime.reserve import Reserve
from ynet_server.audit import Write
from ynet_server.hub.peers import behaviour, calling_site

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
"""Of one site, by method: those whose calls are written down somewhere. Transfers are bounded by what they are of."""
TOGETHER = 50.0
"""All sites together may do so many times what one may."""


class Limits(grpc.aio.ServerInterceptor):
    """Goes after the check of certificates, which says whose call it is."""

    def __init__(
        self,
        audit: Write,
        reserve: Reserve,
        rates: Mapping[str, Rate] = RATES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """What was refused stands in `audit`, a line for each site, method and minute."""
        self._reserve, self._restraints = reserve, dict[str, Restraint]()
        for method, rate in rates.items():
            together = Rate(rate.burst * TOGETHER, rate.per_s * TOGETHER)
            self._restraints[method] = Restraint(rate, together, _telling(audit, method), clock)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the limit before the handler, where its method has one."""
        handler: Any = await continuation(handler_call_details)
        method = str(handler_call_details.method).rpartition("/")[2]
        if handler is None or method not in self._restraints:
            return handler
        name = behaviour(handler)
        inner = getattr(handler, name)
        if handler.response_streaming:

            async def streaming(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
                await self._admit(method, context)
                async for answer in inner(request, context):
                    yield answer

            return handler._replace(**{name: streaming})

        async def single(request: Any, context: grpc.aio.ServicerContext) -> Any:
            await self._admit(method, context)
            return await inner(request, context)

        return handler._replace(**{name: single})

    async def keep_telling(self, every_s: float = FLUSH_EVERY_S) -> None:
        """Write down what was refused, now and then; for ever."""
        while True:
            await asyncio.sleep(every_s)
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Write down what was refused."""
        for restraint in self._restraints.values():
            restraint.flush()

    async def _admit(self, method: str, context: grpc.aio.ServicerContext) -> None:
        site, restraint = calling_site(), self._restraints[method]
        if not restraint.admits(site):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the site calls too often: wait a while")
        if method == ASK and self._reserve.is_low():
            restraint.refused(site)
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the server's disk is nearly full")


def _telling(audit: Write, method: str) -> Callable[[str, int], None]:
    about = f"calls of {method} that were refused unheard"
    return lambda site, count: audit("too-many", site, about, count)
