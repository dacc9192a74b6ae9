"""The door by which commands reach a running server or site: HTTP on a socket in its home, for its user alone.

How it is reached: `ynet/runtime/control_client.py`.
"""

import asyncio
import logging
import os
import socket
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from ynet.errors import UserError
from ynet.runtime import address, disk_faults, unix_socket
from ynet.runtime.control_client import OLD, call

__all__ = ["ControlServer", "QuietServer", "application", "call", "quiet_config", "serve", "show_user_error"]
log = logging.getLogger("ynet.runtime.control_server")
SHOWN = (UserError, sqlite3.Error, OSError)
"""What a command may be told of in three lines: all of the first, of the others what the disk is to blame for."""


async def show_user_error(_: Request, error: Exception) -> Response:
    """A UserError as JSON, so that the command can show its three lines. For the owner's own commands only."""
    fault = error if isinstance(error, UserError) else disk_faults.in_words(error)
    if fault is None:
        raise error
    if fault is not error:
        log.warning("a command was not done", exc_info=error)
    error = fault
    body = {"what": error.what, "why": error.why, "do": error.do, "exit_code": error.exit_code}
    return JSONResponse({"error": body}, status_code=409)


def application(routes: Sequence[Route]) -> Starlette:
    """The routes, and a user's errors as JSON."""
    return Starlette(routes=list(routes), exception_handlers=dict.fromkeys(SHOWN, show_user_error))


def quiet_config(
    app: Starlette, host: str, port: int, protocol: type[asyncio.Protocol] = H11Protocol
) -> uvicorn.Config:
    """No log of its own, no websockets; who calls is whose connection it is, whatever a header says."""
    return uvicorn.Config(
        app,
        http=protocol,
        host=host,
        port=port,
        ws="none",
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
    )


class QuietServer(uvicorn.Server):
    """A uvicorn server that leaves the process's signals alone and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._task: asyncio.Task[None] | None = None

    async def begin(self, listening: socket.socket | None = None) -> int:
        """Serve what comes over `listening`, else over the config's port; the port, 0 of a socket that has none.

        Raises OSError when it cannot.
        """
        listening = listening or address.listen(self.config.host, self.config.port)
        self._task = asyncio.create_task(self._serve(sockets=[listening]))
        while not self.started:
            if self._task.done():
                listening.close()
                self._task.result()
            await asyncio.sleep(0.005)
        return 0 if listening.family == socket.AF_UNIX else int(listening.getsockname()[1])

    async def end(self) -> None:
        """Stop, and wait for it."""
        self.should_exit = True
        if self._task:
            await self._task


class OwnersProtocol(H11Protocol):
    """HTTP with a process of this process's user, or root's; no other is listened to."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Look who is there, first."""
        super().connection_made(transport)
        uid = unix_socket.peer(transport.get_extra_info("socket"))
        if not unix_socket.may_tell(uid, os.geteuid()):
            log.warning("a command of another user (uid %d) was not listened to", uid)
            transport.abort()


class ControlServer:
    """The open door of a home folder."""

    def __init__(self, home: Path, server: QuietServer) -> None:
        self._home, self._server = home, server

    async def end(self) -> None:
        """Close it, and leave nothing behind."""
        unix_socket.remove(self._home)
        await self._server.end()


async def serve(home: Path, routes: Sequence[Route]) -> ControlServer:
    """Open the door of `home`, whose lock this process holds. Raises UserError where it can have no socket."""
    listening = unix_socket.listen(home)
    (home / OLD).unlink(missing_ok=True)  # it would tell an older command, and its token, to whoever has that port now
    server = QuietServer(quiet_config(application(routes), "", 0, OwnersProtocol))
    await server.begin(listening)
    return ControlServer(home, server)
