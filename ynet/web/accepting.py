"""Accept connections from a listening socket and serve each in its own task."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("ynet.accepting")
AGAIN_S = 0.1
"""Delay after a failed accept."""


async def accept(
    listening: socket.socket,
    serve: Callable[[socket.socket, str], Coroutine[Any, Any, None]],
    tasks: set[asyncio.Task[None]],
) -> None:
    """Serve each connection, forever. `serve` receives the connection and its address; `tasks` holds the open ones."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, address = await loop.sock_accept(listening)
        except OSError as error:  # no more file descriptors, or the peer has gone
            log.warning("a connection could not be accepted: %s", error.strerror)
            await asyncio.sleep(AGAIN_S)
            continue
        task = asyncio.create_task(serve(connection, str(address[0])))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
