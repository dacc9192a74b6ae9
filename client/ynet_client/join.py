"""The site's process: connects, and does its duties until it is told to stop."""

import asyncio
import contextlib
import secrets
import shutil
import signal
from pathlib import Path

import torch

from ynet import control
from ynet.home import Lock, write_private
from ynet_client.archive import Archive
from ynet_client.control import routes
from ynet_client.display import Display
from ynet_client.duties import Duties
from ynet_client.gallery import Gallery
from ynet_client.local_site import LocalSite
from ynet_client.membership import Membership
from ynet_client.session import Session
from ynet_client.settings import ClientSettings


async def run(home: Path, settings: ClientSettings, member: Membership, display: Display) -> None:
    """Stay joined until SIGINT or SIGTERM. Raises UserError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    with Lock(home, f"the client of site {member.site}"), contextlib.ExitStack() as stack:
        site = LocalSite(settings.manifest, settings.device, settings.cache_mb << 20)
        cases = len(site.manifest().train)
        gallery = stack.enter_context(contextlib.closing(Gallery.open(home / "gallery.sqlite", _secret(home))))
        archive = Archive(home / "models", site, gallery)
        duties = Duties(site, archive, display, cases)
        spool = _empty(home / "spool")
        session = Session(member, spool, duties, display.say)
        door = await control.serve(home, routes(member.site, archive, duties, session, spool))
        display.say(f"site {member.site}: {cases} training cases, {site.device}, {torch.get_num_threads()} threads")
        await _until_told_to_stop(session)
        display.say("leaving")
        await door.end()


async def _until_told_to_stop(session: Session) -> None:
    running = asyncio.ensure_future(session.run())
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running


def _secret(home: Path) -> bytes:
    """What makes this site's case tokens and patient pseudonyms its own."""
    path = home / "gallery.secret"
    if not path.exists():
        write_private(path, secrets.token_bytes(32))
    return path.read_bytes()


def _empty(spool: Path) -> Path:
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(mode=0o700)
    return spool
