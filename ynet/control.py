"""The door on loopback by which commands reach a running server or site: HTTP, opened by a token in its home."""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.errors import EXIT_REFUSED, EXIT_UNREACHABLE, RefusedError, UnreachableError, UserError
from ynet.home import write_private

FILE = "control.json"
Endpoint = Callable[[Request], Awaitable[Response]]


async def show_user_error(_: Request, error: Exception) -> Response:
    """A UserError as JSON, so that the command can show its three lines. For the owner's own commands only."""
    if not isinstance(error, UserError):
        raise error
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
    return Starlette(routes=inner, exception_handlers={UserError: show_user_error})


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


def call(home: Path, method: str, path: str, what: str, start: str, timeout_s: float = 60.0, **request: Any) -> Any:
    """Call the process that runs in `home`; its JSON. Raises UserError, UnreachableError when none runs there."""
    gone = UnreachableError(
        f"{what} is not running", f"nothing answers for the home folder {home}", f"start it: {start}"
    )
    try:
        door = json.loads((home / FILE).read_bytes())
        headers = {"authorization": f"Bearer {door['token']}"}
        answer = httpx.request(
            method, door["url"] + path, headers=headers, timeout=timeout_s, trust_env=False, **request
        )
    except httpx.TimeoutException:
        raise UnreachableError(f"{what} did not answer", f"it took more than {timeout_s:g} s", "try again") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, httpx.TransportError, httpx.InvalidURL):
        raise gone from None
    if answer.status_code == 401:
        raise gone
    if answer.status_code == 409:
        raise _user_error(answer.json()["error"])
    if answer.is_error:
        raise RuntimeError(f"{what} answered {answer.status_code}; its log says why")
    return answer.json()


def _user_error(error: dict[str, Any]) -> UserError:
    kinds: dict[int, type[UserError]] = {EXIT_REFUSED: RefusedError, EXIT_UNREACHABLE: UnreachableError}
    return kinds.get(error["exit_code"], UserError)(error["what"], error["why"], error["do"])
