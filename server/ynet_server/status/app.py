"""The status page's app: one page, and the state that it polls; all open pages share one computed state."""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ynet.web.public_address import PublicAddress
from ynet.web.sessions import LONGEST_S
from ynet.web.web import Web

AT_MOST_EVERY_S = 1.0
"""The state is computed at most this often, for any number of pages."""
TITLE = "ynet status"


class StateCache:
    """The state as JSON with its digest, so that a page which has it already gets an empty 304."""

    def __init__(self, look: Callable[[], dict[str, Any]], clock: Callable[[], float] = time.monotonic) -> None:
        """`look` returns the current state."""
        self._look, self._clock = look, clock
        self._until, self._data, self._tag = 0.0, b"", ""

    def now(self) -> tuple[bytes, str]:
        """The state, at most AT_MOST_EVERY_S old, and its tag."""
        if self._clock() >= self._until:
            self._data = json.dumps(self._look(), separators=(",", ":")).encode()
            self._tag = f'"{hashlib.sha256(self._data).hexdigest()[:24]}"'
            self._until = self._clock() + AT_MOST_EVERY_S
        return self._data, self._tag


def application(home: Path, look: Callable[[], dict[str, Any]], outside: PublicAddress) -> Starlette:
    """GET /: the page. GET /state: what it shows; 304 where `if-none-match` has its tag.

    An open page may be left on a wall: a session lasts as long without use as it may last at all.
    """
    web = Web(home, "status", TITLE, Path(__file__).parent, idle_s=LONGEST_S, outside=outside)
    kept = StateCache(look)

    async def page(request: Request) -> Response:
        data, tag = kept.now()
        # A block of data is no script to a browser, and the policy allows it; no '<' ends it early.
        state = Markup(data.decode().replace("<", "\\u003c"))  # noqa: S704
        return web.page(request, "status.html", state=state, tag=tag)

    async def state(request: Request) -> Response:
        data, tag = kept.now()
        headers = {"etag": tag, "cache-control": "no-cache"}
        if request.headers.get("if-none-match", "").removeprefix("W/") == tag:  # a proxy that compresses weakens it
            return Response(status_code=304, headers=headers)
        return Response(data, media_type="application/json", headers=headers)

    return web.application([Route("/", page), Route("/state", state)])
