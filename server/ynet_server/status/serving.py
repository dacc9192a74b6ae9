"""The status page's port, open while the server runs, if the settings enable it."""

import contextlib
import datetime as dt
import errno
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from ynet.errors import UserError
from ynet.web import certificate
from ynet.web.accounts import Accounts
from ynet.web.https_server import MAX_CONNECTIONS, HttpsServer
from ynet.web.public_address import PublicAddress, names_of_machine
from ynet_server.settings import StatusSettings
from ynet_server.status.app import application

LIFE_S = 600.0
"""The longest life of a page's connection; the page then opens another."""

MAX_OF_ONE = 96
"""Connections from one address, which a proxy or `ssh -L` may share."""


@contextlib.asynccontextmanager
async def serving(
    home: Path, settings: StatusSettings, look: Callable[[], dict[str, Any]], now: dt.datetime
) -> AsyncIterator[list[str]]:
    """Serve the page while the block runs. Yields lines about it, none when it is off. Raises UserError."""
    if not settings.enabled:
        yield []
        return
    shown = certificate.present(home, settings.certificate, settings.key, settings.host, now)
    names = (*shown.names, settings.host, *names_of_machine(settings.host))
    outside = PublicAddress(settings.outer_name, settings.trusted_proxies, names)
    most = MAX_CONNECTIONS if settings.trusted_proxies else MAX_OF_ONE
    server = HttpsServer(application(home, look, outside), shown.context, settings.host, settings.port, LIFE_S, most)
    try:
        port = await server.begin()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "another process listens there" if taken else (error.strerror or "the address cannot be listened on")
        do = "set another status.port in the config, mend status.host, or set status.enabled to false"
        raise UserError(f"the status page cannot be served on port {settings.port}", why, do) from None
    try:
        yield list(_said(home, settings, port, shown))
    finally:
        await server.end()


def _said(home: Path, settings: StatusSettings, port: int, shown: certificate.Presented) -> list[str]:
    lines = [f"  status page        {certificate.address(settings.host, port)}"]
    if settings.outer_name:
        lines.append(f"  behind a proxy     https://{settings.outer_name}/")
    if shown.is_own:
        lines.append(f"  its certificate    SHA-256 {shown.fingerprint} (made here: compare it in the browser)")
    if not Accounts(home).all():
        lines.append("  nobody may sign in to it yet: ynet-server user add NAME")
    return lines
