"""The door on loopback by which commands reach a running server or site: HTTP, opened by a token in its home.

How it is reached: `ynet/calling.py`.
"""

import asyncio
import json
import logging
import os
import secrets
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet import disk_faults
from ynet.calling import FILE, call
from ynet.errors import UserError
from ynet.home import write_private

__all__ = ["FILE", "QuietServer", "application", "call", "quiet_config", "serve", "show_user_error"]
log = logging.getLogger("ynet.control")
SHOWN = (UserError, sqlite3.Error, OSError)
"""What a command may be told of in three lines: all of the first, of the others what the disk is to blame for."""
Endpoint = Callable[[Request], Awaitable[Response]]


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


def application(routes: Sequence[Route], token: str) -> Starlette:
    """The routes, each behind the token."""

    def guarded(endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            given = request.headers.get("authorization", "")
            if not secrets.compare_digest(given.encode(), f"Bearer {token}".encode()):
                return Response(status_code=401)
            return await endpoint(request)

        return checked

    inner = [Route(route.path, guarded(route.endpoint), methods=list(route.methods or ())) for route in routes]
    return Starlette(routes=inner, exception_handlers=dict.fromkeys(SHOWN, show_user_error))


def quiet_config(app: Starlette, host: str, port: int) -> uvicorn.Config:
    """No log of its own, no websockets; who calls is whose connection it is, whatever a header says."""
    return uvicorn.Config(
        app,
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

    async def begin(self) -> int:
        """Listen; the port. Raises OSError when it cannot."""
        listening = socket.create_server((self.config.host, self.config.port))
        self._task = asyncio.create_task(self._serve(sockets=[listening]))
        while not self.started:
            if self._task.done():
                listening.close()
                self._task.result()
            await asyncio.sleep(0.005)
        return int(listening.getsockname()[1])

    async def end(self) -> None:
        """Stop, and wait for it."""
        self.should_exit = True
        if self._task:
            await self._task


async def serve(home: Path, routes: Sequence[Route]) -> QuietServer:
    """Open the door for this process, and write where it is into `home`."""
    token = secrets.token_urlsafe(32)
    server = QuietServer(quiet_config(application(routes, token), "127.0.0.1", 0))
    port = await server.begin()
    door = {"url": f"http://127.0.0.1:{port}", "token": token, "pid": os.getpid()}
    write_private(home / FILE, json.dumps(door).encode())
    return server
