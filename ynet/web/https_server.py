"""An HTTPS server for untrusted clients, with limits on the lifetime and the number of connections.

uvicorn handles HTTP on each connection, but would keep a silent or half-finished one open forever. When the port is
full, a new connection replaces an anonymous one (`connection_limit.py`); connections with a sign-in stay.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from ynet.runtime import address as addresses
from ynet.runtime.address import neighbourhood
from ynet.runtime.control_server import quiet_config
from ynet.web.accepting import accept
from ynet.web.connection_limit import ConnectionLimit, LimitedConnection

CONNECTION_S = 20.0
"""Lifetime of a connection without a sign-in, including its handshake. Enrolment takes far less."""
HANDSHAKE_S = 10.0
MAX_CONNECTIONS = 128
SIGN_IN = "sign_in"
MAX_OF_ONE = 16
"""Connections from one address. Beyond that, the oldest is closed, silent ones first."""
DRAIN_S = 60.0
"""Time for a running request after the end of a connection's lifetime, if that is not CONNECTION_S."""


class SignIn(NamedTuple):
    """Marks the connection of a request as one with a sign-in."""

    mark: Callable[[], None]


def signed_in(request: Request) -> None:
    """Mark the request's connection as one with a sign-in: anonymous connections do not replace it."""
    if isinstance(sign_in := getattr(request.state, SIGN_IN, None), SignIn):
        sign_in.mark()


class HttpsServer:
    """Serves `app` on a port."""

    def __init__(
        self,
        app: Starlette,
        tls: ssl.SSLContext | None,
        host: str,
        port: int,
        life_s: float | None = None,
        most_of_one: int = MAX_OF_ONE,
    ) -> None:
        """Configure the server.

        Args:
            app: Handles the requests.
            tls: None serves plain HTTP.
            host: Where to listen.
            port: 0 is any free port.
            life_s: Lifetime of a connection with a sign-in; a running request then has DRAIN_S more. All other
                connections, and with None all connections, live CONNECTION_S.
            most_of_one: Connections from one address. A page behind a proxy or a tunnel needs more.
        """
        self.room = ConnectionLimit(MAX_CONNECTIONS, most_of_one, most_of_one)
        self._config, self._tls, self._life_s = quiet_config(app, host, port), tls, life_s
        self._state = ServerState()
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> int:
        """Listen; return the port.

        Raises:
            OSError: The port cannot be listened on.
        """
        self._config.load()
        self._listening = addresses.listen(self._config.host, self._config.port)
        self._listening.setblocking(False)
        self._accepting = asyncio.create_task(accept(self._listening, self._serve, self._tasks))
        return int(self._listening.getsockname()[1])

    async def end(self) -> None:
        """Close the port and all connections."""
        for task in (self._accepting, *self._tasks):
            task.cancel()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        self._listening.close()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    async def _serve(self, connection: socket.socket, address: str) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        guest = LimitedConnection(address, task.cancel if task else connection.close)
        self.room.enter(guest)
        sign_in = SignIn(lambda: self.room.know(guest, neighbourhood(address)))
        protocol = H11Protocol(self._config, self._state, {SIGN_IN: sign_in})
        transport: asyncio.BaseTransport | None = None
        try:
            # OSError: the handshake failed; CancelledError: another connection replaced this one
            with contextlib.suppress(TimeoutError, OSError, asyncio.CancelledError):
                async with asyncio.timeout(CONNECTION_S) as life:
                    transport, _ = await loop.connect_accepted_socket(
                        lambda: protocol,
                        connection,
                        ssl=self._tls,
                        ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_S,
                    )
                    await self._until_closed(protocol, guest, life)
        finally:
            if isinstance(transport, asyncio.Transport):
                transport.abort()
            connection.close()
            self.room.leave(guest)

    async def _until_closed(self, protocol: H11Protocol, guest: LimitedConnection, life: asyncio.Timeout) -> None:
        loop, last = asyncio.get_running_loop(), None
        begun = loop.time()
        while protocol in self._state.connections:
            guest.has_spoken = guest.has_spoken or protocol.cycle is not None
            if self._life_s is not None and guest.name is not None and last is None:
                last = begun + self._life_s
                life.reschedule(last + DRAIN_S)
            if last is not None and loop.time() > last:
                protocol.shutdown()  # at once if it is idle, else after the current response
                last = float("inf")
            await asyncio.sleep(0.05)
