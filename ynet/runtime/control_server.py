"""The control server of a running process: HTTP on a Unix domain socket in its home folder, for its owner only.

Its client is `ynet/runtime/control_client.py`.
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
"""Errors that a command shows in three lines; the last two only where the disk caused them."""


async def show_user_error(_: Request, error: Exception) -> Response:
    """Return a UserError as JSON for the owner's commands."""
    fault = error if isinstance(error, UserError) else disk_faults.in_words(error)
    if fault is None:
        raise error
    if fault is not error:
        log.warning("a command failed", exc_info=error)
    error = fault
    body = {"what": error.what, "why": error.why, "do": error.do, "exit_code": error.exit_code}
    return JSONResponse({"error": body}, status_code=409)


def application(routes: Sequence[Route]) -> Starlette:
    """Return an app of the routes that reports a user's errors as JSON."""
    return Starlette(routes=list(routes), exception_handlers=dict.fromkeys(SHOWN, show_user_error))


def quiet_config(
    app: Starlette, host: str, port: int, protocol: type[asyncio.Protocol] = H11Protocol
) -> uvicorn.Config:
    """Configure uvicorn without logs and websockets. Proxy headers are ignored."""
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
    """A uvicorn server that installs no signal handlers and returns from `begin` once it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._task: asyncio.Task[None] | None = None

    async def begin(self, listening: socket.socket | None = None) -> int:
        """Serve on `listening`, or on the config's port; return the port, 0 for a Unix domain socket.

        Raises:
            OSError: The port cannot be listened on.
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
        """Stop, and wait until it has stopped."""
        self.should_exit = True
        if self._task:
            await self._task


class OwnersProtocol(H11Protocol):
    """HTTP for processes of this process's user or root; other connections are closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Check the user at the other end."""
        super().connection_made(transport)
        uid = unix_socket.peer(transport.get_extra_info("socket"))
        if not unix_socket.may_tell(uid, os.geteuid()):
            log.warning("a command of another user (uid %d) was refused", uid)
            transport.abort()


class ControlServer:
    """The running control server of a home folder."""

    def __init__(self, home: Path, server: QuietServer) -> None:
        self._home, self._server = home, server

    async def end(self) -> None:
        """Stop it and remove its socket."""
        unix_socket.remove(self._home)
        await self._server.end()


async def serve(home: Path, routes: Sequence[Route]) -> ControlServer:
    """Start the control server of `home`. This process holds the folder's lock.

    Raises:
        UserError: The file system has no sockets.
    """
    listening = unix_socket.listen(home)
    (home / OLD).unlink(missing_ok=True)  # older commands would send its token to whoever has that port now
    server = QuietServer(quiet_config(application(routes), "", 0, OwnersProtocol))
    await server.begin(listening)
    return ControlServer(home, server)
