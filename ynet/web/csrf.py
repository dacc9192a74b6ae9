"""Middleware against CSRF and DNS rebinding: checks each request's host and origin, and adds security headers."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ynet.web.public_address import PublicAddress

SAFE = ("GET", "HEAD")
SETTING = "outer_name"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class CsrfMiddleware:
    """Refuses requests to other hosts and changes from other origins; adds HEADERS that a response does not set."""

    def __init__(self, app: ASGIApp, outside: PublicAddress) -> None:
        self._app, self._outside = app, outside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        if not self._outside.is_own(headers.get("host", "")):
            do = f"use the address that ynet prints; for a reverse proxy, put its name into the setting {SETTING}"
            await _refused(421, "it names another host", do)(scope, receive, sending)
        elif scope["method"] in SAFE or is_same_origin(headers, self._outside):
            await self._app(scope, receive, sending)
        else:
            await _refused(403, "it comes from another page", "reload the page")(scope, receive, sending)


def is_same_origin(headers: Headers, outside: PublicAddress) -> bool:
    """Return whether a request comes from a page of this origin. Browsers send the origin with every POST."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        return False
    is_own = origin is None or outside.is_own_origin(origin, headers.get("host", ""))
    return is_own and site in (None, "same-origin")


def _refused(status: int, why: str, do: str) -> JSONResponse:
    return JSONResponse({"error": {"what": "the request was refused", "why": why, "do": do}}, status)
