"""Serve the workbench while the site is joined, where the settings enable it; answer commands with its address."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.errors import UserError
from ynet.web import certificate
from ynet.web.https_server import MAX_CONNECTIONS, HttpsServer
from ynet.web.public_address import PublicAddress, names_of_machine
from ynet.web.web import Web
from ynet_client.agent import Agent
from ynet_client.connection.session import Session
from ynet_client.settings import WorkbenchSettings
from ynet_client.workbench.cases import OwnCases
from ynet_client.workbench.history import FILE, History
from ynet_client.workbench.recent_answers import RecentAnswers
from ynet_client.workbench.routes import MAX_AT_A_TIME, Bench, routes

LIFE_S = 300.0
"""The longest life of one connection; the browser opens another."""
MOST_OF_ONE = 64
"""Connections from one address; behind a terminal server's are many people."""
OFF = {"enabled": False, "address": None, "fingerprint": None, "own_certificate": None}


@contextlib.asynccontextmanager
async def serving(
    home: Path,
    settings: WorkbenchSettings,
    site: str,
    agent: Agent,
    session: Session,
    spool: Path,
    say: Callable[[str], None],
) -> AsyncIterator[Route]:
    """Serve the page inside the context; the route answers the site's commands with its address. Raises UserError."""
    state = dict[str, object](OFF)

    async def where(_: Request) -> Response:
        return JSONResponse(state)

    route = Route("/workbench", where)
    if not settings.enabled:
        with _kept_history(home, agent):
            yield route
        return
    presented = certificate.present(home, settings.certificate, settings.key, settings.host, dt.datetime.now(dt.UTC))
    with contextlib.closing(History(home)) as history:
        names = (*presented.names, settings.host, *names_of_machine(settings.host))
        outside = PublicAddress(settings.outer_name, settings.trusted_proxies, names)
        web = Web(home, f"site-{site}", f"ynet · site {site}", Path(__file__).parent, outside=outside)
        answers = RecentAnswers()
        agent.forgetting.listeners += [history.forget, answers.forget]
        history.tidy(web.accounts.all())
        bench = Bench(site, agent, session, spool, web, history, OwnCases(), answers, asyncio.Semaphore(MAX_AT_A_TIME))
        most = MAX_CONNECTIONS if settings.trusted_proxies else MOST_OF_ONE
        app = web.application(routes(bench))
        server = HttpsServer(app, presented.context, settings.host, settings.port, LIFE_S, most)
        address = certificate.address(settings.host, await _begin(server, settings))
        state.update(
            enabled=True,
            address=address,
            fingerprint=presented.fingerprint,
            own_certificate=presented.is_own,
        )
        say(f"workbench: {address}")
        if settings.outer_name:
            say(f"behind a reverse proxy: https://{settings.outer_name}/")
        if presented.is_own:
            say(f"its certificate was made here, SHA-256 {presented.fingerprint}")
        if not web.accounts.all():
            say("it has no account yet: ynet-client user add NAME --role radiologist")
        try:
            yield route
        finally:
            await server.end()


@contextlib.contextmanager
def _kept_history(home: Path, agent: Agent) -> Iterator[None]:
    """Keep the history of a page that is off now: patients are forgotten in it too."""
    with contextlib.ExitStack() as stack:
        if (home / FILE).exists():
            agent.forgetting.listeners.append(stack.enter_context(contextlib.closing(History(home))).forget)
        yield


async def _begin(server: HttpsServer, settings: WorkbenchSettings) -> int:
    try:
        return await server.begin()
    except OSError as error:
        what = f"the workbench cannot listen on {settings.host}, port {settings.port}"
        do = "set another workbench.port or workbench.host in the settings, or stop what listens there"
        raise UserError(what, error.strerror or "", do) from None
