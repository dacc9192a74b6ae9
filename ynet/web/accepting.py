"""Taking connections from a listening socket, each served by a task of its own."""

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("ynet.accepting")
AGAIN_S = 0.1
"""Until the next try, where a connection could not be taken."""


async def accept(
    listening: socket.socket,
    serve: Callable[[socket.socket, str], Coroutine[Any, Any, None]],
    tasks: set[asyncio.Task[None]],
) -> None:
    """Serve each connection, given with its address, for ever; `tasks` holds those that are being served."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, address = await loop.sock_accept(listening)
        except OSError as error:  # no more files, or who came is gone already
            log.warning("a connection could not be taken: %s", error.strerror)
            await asyncio.sleep(AGAIN_S)
            continue
        task = asyncio.create_task(serve(connection, str(address[0])))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
