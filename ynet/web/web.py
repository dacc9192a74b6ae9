"""Web apps with a sign-in: protected routes, pages with a common frame, and readable errors."""

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ynet.errors import EXIT_REFUSED, EXIT_UNREACHABLE, RefusedError, UserError
from ynet.runtime import disk_faults
from ynet.web.accounts import LONGEST, NAME, Accounts, Role
from ynet.web.assets_folder import Assets
from ynet.web.attempts import Attempts
from ynet.web.csrf import SAFE, CsrfMiddleware
from ynet.web.https_server import signed_in
from ynet.web.public_address import PublicAddress
from ynet.web.sessions import IDLE_S, LONGEST_S, Sessions, Visitor, elapsed

log = logging.getLogger("ynet.web")
HERE = Path(__file__).parent
MAX_FORM_BYTES = 8 << 10
MAX_HASHING = 2  # passwords that are checked at the same time
Endpoint = Callable[[Request], Awaitable[Response]]
WRONG = "The name or the password is not right."


class Web:
    """One app's accounts, sessions, templates and assets."""

    def __init__(
        self,
        home: Path,
        cookie: str,
        title: str,
        folder: Path,
        *,
        clock: Callable[[], float] = elapsed,
        idle_s: float = IDLE_S,
        longest_s: float = LONGEST_S,
        outside: PublicAddress = PublicAddress(),  # noqa: B008 (it is frozen)
    ) -> None:
        """Configure the app.

        Args:
            home: Holds the accounts.
            cookie: Part of the cookie's name, unique on a host: all ports of a host share cookies.
            title: Title of the pages.
            folder: Holds the app's `templates` and `assets`.
            clock: Monotonic seconds.
            idle_s: A session ends this long after its last use.
            longest_s: A session ends this long after its beginning.
            outside: The names under which clients reach the page.
        """
        self.accounts, self._attempts, self._clock = Accounts(home), Attempts(), clock
        self._sessions = Sessions(self.accounts, idle_s, longest_s)
        self._cookie = "__Host-ynet-" + "".join(char if char.isascii() and char.isalnum() else "-" for char in cookie)
        self._title, self._outside = title, outside
        self.assets = Assets([HERE / "assets", folder / "assets"])
        self._templates = Environment(
            loader=FileSystemLoader([folder / "templates", HERE / "templates"]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._hashing = asyncio.Semaphore(MAX_HASHING)

    def application(self, routes: Sequence[Route]) -> Starlette:
        """Return the app: `routes` behind the sign-in, and the sign-in itself."""
        own = [
            Route("/login", self._login_page, methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._guarded(self._logout), methods=["POST"]),
            self.assets.route(),
        ]
        inner = [Route(one.path, self._guarded(one.endpoint), methods=sorted(one.methods or ())) for one in routes]
        handlers: dict[Any, Any] = {
            UserError: self._user_error,
            sqlite3.Error: self._user_error,
            OSError: self._user_error,
            ClientDisconnect: _nobody,
            404: self._gone,
            405: self._gone,
            500: self._fault,
        }
        return Starlette(
            routes=[*own, *inner], exception_handlers=handlers, middleware=[Middleware(CsrfMiddleware, self._outside)]
        )

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Render a template as a page."""
        base = request.scope.get("root_path", "")
        visitor = getattr(request.state, "visitor", None)
        shared = {"base": base, "assets": base + self.assets.place, "title": self._title, "visitor": visitor}
        shared["csrf_field"] = _field(visitor)
        return HTMLResponse(self._templates.get_template(template).render(**shared, **values), status)

    # --- authentication

    def _guarded(self, endpoint: Endpoint) -> Endpoint:
        async def checked(request: Request) -> Response:
            is_use = request.headers.get("x-background") != "1"
            token = request.cookies.get(self._cookie, "")
            visitor = self._sessions.find(token, self._clock(), is_use=is_use) if token else None
            if visitor is None:
                return self._ask_to_sign_in(request)
            request.state.visitor = visitor
            signed_in(request)
            if request.method not in SAFE and not await _carries_token(request, visitor):
                return _refused("the page is from another session", "reload the page")
            return await endpoint(request)

        return checked

    def _ask_to_sign_in(self, request: Request) -> Response:
        if _wants_page(request):
            there = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"{_base(request)}/login?next={quote(there)}", 303)
        return _error_json("the session has ended", "nobody is signed in", "sign in again", 401)

    # --- sign in, sign out

    async def _login_page(self, request: Request) -> Response:
        return self._sign_in(request, _next(request, request.query_params.get("next", "")), "")

    async def _login(self, request: Request) -> Response:
        form = await _form(request)
        if form is None:
            return self._sign_in(request, _next(request, ""), "The form is too large.", 413)
        name, password, there = form.get("name", "").strip().lower(), form.get("password", ""), form.get("next", "")
        there = _next(request, there)
        peer, now = request.client.host if request.client else "", self._clock()
        address = self._outside.asker(peer, request.headers.getlist("x-forwarded-for"))
        wait_s = self._attempts.begin(name[:64], address, now)
        if wait_s > 0:
            log.warning("a sign-in from %s was refused: too many failed", address)
            said = f"Too many attempts failed. Try again in {int(wait_s // 60) + 1} minutes."
            answer = self._sign_in(request, there, said, 429)
            answer.headers["retry-after"] = str(int(wait_s) + 1)
            return answer
        async with self._hashing:
            account = await asyncio.to_thread(self.accounts.verify, name[:64], password[: LONGEST + 1])
        if account is None:
            known = name if NAME.fullmatch(name) and self.accounts.find(name) else "an unknown name"
            log.warning("a sign-in as %s from %s failed", known, address)  # an unknown name may be a password
            return self._sign_in(request, there, WRONG, 401)
        self._attempts.succeeded(name[:64], address)
        log.info("%s signed in from %s", account.name, address)
        self._sessions.end(request.cookies.get(self._cookie, ""))
        answer = RedirectResponse(there, 303)
        token = self._sessions.begin(account, now)
        answer.set_cookie(self._cookie, token, path="/", secure=True, httponly=True, samesite="strict")
        return answer

    async def _logout(self, request: Request) -> Response:
        self._sessions.end(request.cookies.get(self._cookie, ""))
        answer = RedirectResponse(f"{_base(request)}/login", 303)
        answer.delete_cookie(self._cookie, path="/", secure=True, httponly=True, samesite="strict")
        answer.headers["clear-site-data"] = '"storage"'
        return answer

    def _sign_in(self, request: Request, there: str, said: str, status: int = 200) -> Response:
        return self.page(request, "login.html", status, next=there, said=said, has_accounts=bool(self.accounts.all()))

    # --- errors

    async def _user_error(self, request: Request, error: Exception) -> Response:
        fault = error if isinstance(error, UserError) else disk_faults.in_words(error)
        if fault is None:
            raise error
        error = fault
        if _wants_page(request):
            return self.page(request, "fault.html", 409, what=error.what, why=error.why, do=error.do)
        return _error_json(error.what, error.why, error.do, 409, error.exit_code)

    async def _gone(self, request: Request, _: Exception) -> Response:
        what, why, do = "there is no such page", "the address is unknown here", "go back to the start page"
        if _wants_page(request):
            return self.page(request, "fault.html", 404, what=what, why=why, do=do)
        return _error_json(what, why, do, 404)

    async def _fault(self, _: Request, error: Exception) -> Response:
        log.error("a page failed", exc_info=error)
        return _error_json("a fault of ynet", "its log says more", "tell the site's admin", 500)


async def _nobody(_: Request, __: Exception) -> Response:
    """Answer a client that has disconnected."""
    return Response(status_code=400)


def visitor_of(request: Request) -> Visitor:
    """Return the signed-in person of a request to a route of `Web.application`."""
    visitor: Visitor = request.state.visitor
    return visitor


def need(visitor: Visitor, *roles: Role) -> None:
    """Require one of these roles.

    Raises:
        RefusedError: The person has another role.
    """
    if visitor.role not in roles:
        why = f"the account {visitor.name} has the role {visitor.role}"
        raise RefusedError("your role does not allow this", why, f"ask somebody with the role {' or '.join(roles)}")


def _field(visitor: Visitor | None) -> Markup:
    token = visitor.csrf if visitor else ""
    return Markup('<input type="hidden" name="csrf" value="{}">').format(token)


async def _carries_token(request: Request, visitor: Visitor) -> bool:
    given = request.headers.get("x-csrf", "")
    if not given and request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        given = (await _form(request) or {}).get("csrf", "")
    return secrets.compare_digest(given.encode(), visitor.csrf.encode())


async def _form(request: Request) -> dict[str, str] | None:
    """Read the fields of a small form; None for one that is too large. May be called again."""
    kept: dict[str, str] | None = getattr(request.state, "form", None)
    if kept is not None:
        return kept
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_FORM_BYTES:
            return None
    try:
        fields = parse_qs(data.decode(), max_num_fields=16)
    except ValueError:
        return {}
    request.state.form = {name: values[0] for name, values in fields.items()}
    return dict(request.state.form)


def _base(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _next(request: Request, there: str) -> str:
    """Return the target after the sign-in: a path of this app only."""
    base = _base(request)
    is_path = there.startswith(f"{base}/") and not there.startswith(("//", "/\\"))
    is_plain = there.isascii() and there.isprintable() and "\\" not in there
    return there if is_path and is_plain and not there.startswith(f"{base}/log") else f"{base}/"


def _wants_page(request: Request) -> bool:
    return request.method in SAFE and "text/html" in request.headers.get("accept", "")


def _refused(why: str, do: str) -> Response:
    return _error_json("the request was refused", why, do, 403, EXIT_REFUSED)


def _error_json(what: str, why: str, do: str, status: int, exit_code: int = 0) -> Response:
    kind: Mapping[int, str] = {EXIT_REFUSED: "refused", EXIT_UNREACHABLE: "unreachable"}
    body = {"what": what, "why": why, "do": do, "kind": kind.get(exit_code, "yours" if status < 500 else "fault")}
    return JSONResponse({"error": body}, status)
