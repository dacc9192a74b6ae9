"""A port for strangers: HTTPS with bounds on how long a connection lasts, and on how many there are.

uvicorn speaks HTTP on each connection, but would keep one open that says nothing, or half of something, for ever.
Where it is full, a stranger makes room for the next who comes (room.py); who has signed in stays.
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
"""A connection's whole life, its handshake included, where nobody has signed in over it: enrolling takes far less."""
HANDSHAKE_S = 10.0
MAX_CONNECTIONS = 128
SIGN_IN = "sign_in"
MAX_OF_ONE = 16
"""From one address. Beyond, the oldest is closed, first of those that have said nothing."""
DRAIN_S = 60.0
"""What a request that is under way is given to end, where a connection's life is not CONNECTION_S."""


class SignIn(NamedTuple):
    """What a page says of the connection that a request has come over: somebody has signed in."""

    told: Callable[[], None]


def signed_in(request: Request) -> None:
    """The request is of somebody who has signed in: its connection stays when strangers come in crowds."""
    if isinstance(door := getattr(request.state, SIGN_IN, None), SignIn):
        door.told()


class HttpsServer:
    """The open port. What comes over it is `app`'s to answer."""

    def __init__(
        self,
        app: Starlette,
        tls: ssl.SSLContext | None,
        host: str,
        port: int,
        life_s: float | None = None,
        most_of_one: int = MAX_OF_ONE,
    ) -> None:
        """`life_s`: of a connection over which somebody has signed in, before it takes no further request.

        Then it has DRAIN_S for the one under way. Any other, and with None every one, has CONNECTION_S in all.
        `most_of_one`: connections from one address; a page whose people come through one proxy or tunnel needs more.
        `tls`: None speaks plain HTTP.
        """
        self.room = ConnectionLimit(MAX_CONNECTIONS, most_of_one, most_of_one)
        self._config, self._tls, self._life_s = quiet_config(app, host, port), tls, life_s
        self._state = ServerState()
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> int:
        """Listen; the port. Raises OSError when it cannot."""
        self._config.load()
        self._listening = addresses.listen(self._config.host, self._config.port)
        self._listening.setblocking(False)
        self._accepting = asyncio.create_task(accept(self._listening, self._serve, self._tasks))
        return int(self._listening.getsockname()[1])

    async def end(self) -> None:
        """Close the port and every connection."""
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
            # OSError: what the handshake ended with; CancelledError: it made room
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
                protocol.shutdown()  # at once where it is idle, else after the answer that is under way
                last = float("inf")
            await asyncio.sleep(0.05)
