"""The workbench while the site is joined: opened where the settings say so, and told to who asks for its address."""

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
from ynet.web.https_door import MAX_CONNECTIONS, HttpsDoor
from ynet.web.outside import Outside, names_of_machine
from ynet.web.web import Web
from ynet_client.agent import Duties
from ynet_client.connection.session import Session
from ynet_client.settings import WorkbenchSettings
from ynet_client.workbench.cases import OwnCases
from ynet_client.workbench.history import FILE, History
from ynet_client.workbench.recent_answers import RecentAnswers
from ynet_client.workbench.routes import MAX_AT_A_TIME, Bench, routes

LIFE_S = 300.0
"""Of one connection of a browser; it opens another."""
MOST_OF_ONE = 64
"""Connections from one address, behind which may be many people: a terminal server's."""
OFF = {"enabled": False, "address": None, "fingerprint": None, "own_certificate": None}


@contextlib.asynccontextmanager
async def serving(
    home: Path,
    settings: WorkbenchSettings,
    site: str,
    duties: Duties,
    session: Session,
    spool: Path,
    say: Callable[[str], None],
) -> AsyncIterator[Route]:
    """The page is open inside; the route tells the site's own commands where. Raises UserError."""
    told = dict[str, object](OFF)

    async def where(_: Request) -> Response:
        return JSONResponse(told)

    route = Route("/workbench", where)
    if not settings.enabled:
        with _kept_history(home, duties):
            yield route
        return
    presented = certificate.present(home, settings.certificate, settings.key, settings.host, dt.datetime.now(dt.UTC))
    with contextlib.closing(History(home)) as history:
        names = (*presented.names, settings.host, *names_of_machine(settings.host))
        outside = Outside(settings.outer_name, settings.trusted_proxies, names)
        web = Web(home, f"site-{site}", f"ynet · site {site}", Path(__file__).parent, outside=outside)
        answers = RecentAnswers()
        duties.forgetting += [history.forget, answers.forget]
        history.tidy(web.accounts.all())
        bench = Bench(site, duties, session, spool, web, history, OwnCases(), answers, asyncio.Semaphore(MAX_AT_A_TIME))
        most = MAX_CONNECTIONS if settings.trusted_proxies else MOST_OF_ONE
        app = web.application(routes(bench))
        door = HttpsDoor(app, presented.context, settings.host, settings.port, LIFE_S, most)
        address = certificate.address(settings.host, await _begin(door, settings))
        told.update(
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
            await door.end()


@contextlib.contextmanager
def _kept_history(home: Path, duties: Duties) -> Iterator[None]:
    """What was asked while the page was on: a patient is forgotten there too."""
    with contextlib.ExitStack() as stack:
        if (home / FILE).exists():
            duties.forgetting.append(stack.enter_context(contextlib.closing(History(home))).forget)
        yield


async def _begin(door: HttpsDoor, settings: WorkbenchSettings) -> int:
    try:
        return await door.begin()
    except OSError as error:
        what = f"the workbench cannot listen on {settings.host}, port {settings.port}"
        do = "set another workbench.port or workbench.host in the settings, or stop what listens there"
        raise UserError(what, error.strerror or "", do) from None
