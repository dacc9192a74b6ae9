"""The work that messages of the hub start: it runs beside the connection, and a failure ends that work alone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import grpc

from ynet.errors import UserError

log = logging.getLogger("ynet.session")


class BackgroundWork:
    """The coroutines that run at the moment."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether anything runs."""
        return bool(self._running)

    def start(self, coroutine: Awaitable[None]) -> asyncio.Task[None]:
        """Start a coroutine. Its errors are shown to the site's people and logged, never raised."""
        task = asyncio.ensure_future(self._guarded(coroutine))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _guarded(self, coroutine: Awaitable[None]) -> None:
        try:
            await coroutine
        except UserError as error:
            self._say(str(error))
        except grpc.aio.AioRpcError as error:
            log.warning("a call to the hub failed: %s", error.code())
        except Exception:
            log.exception("what the hub sent could not be worked on")
            self._say("a fault of ynet; this site's log has it")
