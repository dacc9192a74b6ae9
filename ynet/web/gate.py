"""What every answer carries, and what no request may lack: security headers, and the same origin for what changes."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE = ("GET", "HEAD")
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


class Gate:
    """Around an app: its answers with HEADERS (what an answer says itself goes before), strangers' requests refused."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["method"] in SAFE or is_same_origin(Headers(scope=scope)):
            await self._app(scope, receive, sending)
        else:
            body = {"what": "the request was refused", "why": "it comes from another page", "do": "load the page anew"}
            await JSONResponse({"error": body}, 403)(scope, receive, sending)


def is_same_origin(headers: Headers) -> bool:
    """Whether a request comes from a page of this very origin: browsers say so with every POST."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None and origin is None:
        return False
    is_own = origin is None or origin.lower() == f"https://{headers.get('host', '').lower()}"
    return is_own and site in (None, "same-origin")
