"""A port for strangers: HTTPS with bounds on how long a connection lasts, and on how many there are.

uvicorn speaks HTTP on each connection, but would keep one open that says nothing, or half of something, for ever.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections import Counter

from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ynet.control import quiet_config

log = logging.getLogger("ynet.https_door")
CONNECTION_S = 20.0
"""A connection's whole life, its handshake included: enrolling takes far less, whatever else it does is cut off."""
HANDSHAKE_S = 10.0
MAX_CONNECTIONS = 128
MAX_OF_ONE = 16
"""From one address. Beyond, a connection is closed at once."""
DRAIN_S = 60.0
"""What a request that is under way is given to end, where a connection's life is not CONNECTION_S."""


class HttpsDoor:
    """The open port. What comes over it is `app`'s to answer."""

    def __init__(
        self,
        app: Starlette,
        tls: ssl.SSLContext,
        host: str,
        port: int,
        life_s: float | None = None,
        most_of_one: int = MAX_OF_ONE,
    ) -> None:
        """`life_s`: of a connection, before it takes no further request; then DRAIN_S for the one under way.

        None: CONNECTION_S, and not a moment for anything. `most_of_one`: connections from one address; a page whose
        people come through one proxy or tunnel needs more.
        """
        self._most_of_one = most_of_one
        self._config, self._tls, self._life_s = quiet_config(app, host, port), tls, life_s
        self._state = ServerState()
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> int:
        """Listen; the port. Raises OSError when it cannot."""
        self._config.load()
        family = socket.AF_INET6 if ":" in self._config.host else socket.AF_INET
        self._listening = socket.create_server((self._config.host, self._config.port), family=family)
        self._listening.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())
        return int(self._listening.getsockname()[1])

    async def end(self) -> None:
        """Close the port and every connection."""
        for task in (self._accepting, *self._tasks):
            task.cancel()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        self._listening.close()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listening)
            except OSError as error:  # no more files, or who came is gone already
                log.warning("a connection could not be taken: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            host = str(address[0])
            if self._open[host] >= self._most_of_one or self._open.total() >= MAX_CONNECTIONS:
                connection.close()
                continue
            self._open[host] += 1
            task = asyncio.create_task(self._serve(connection, host))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket, host: str) -> None:
        loop, protocol = asyncio.get_running_loop(), H11Protocol(self._config, self._state, {})
        transport: asyncio.BaseTransport | None = None
        try:
            with contextlib.suppress(TimeoutError, OSError):  # OSError: what the handshake ended with
                async with asyncio.timeout(CONNECTION_S if self._life_s is None else self._life_s + DRAIN_S):
                    transport, _ = await loop.connect_accepted_socket(
                        lambda: protocol, connection, ssl=self._tls, ssl_handshake_timeout=HANDSHAKE_S
                    )
                    await self._until_closed(protocol)
        finally:
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            connection.close()
            self._open[host] -= 1
            if not self._open[host]:
                del self._open[host]

    async def _until_closed(self, protocol: H11Protocol) -> None:
        loop = asyncio.get_running_loop()
        last = None if self._life_s is None else loop.time() + self._life_s
        while protocol in self._state.connections:
            if last is not None and loop.time() > last:
                protocol.shutdown()  # at once where it is idle, else after the answer that is under way
                last = None
            await asyncio.sleep(0.05)
