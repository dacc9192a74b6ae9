"""The site's process: connects, and does its duties until it is told to stop."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path

from ynet.data import manifest
from ynet.data.gaps import gaps
from ynet.data.manifest import Manifest
from ynet.federation.countersigned import Witness
from ynet.runtime import control_server, private_files, systemd
from ynet.runtime.home import Lock
from ynet.trust.identity import fingerprint
from ynet.web import prometheus
from ynet_client.agent import Duties
from ynet_client.audit import Act
from ynet_client.connection.download_limit import Looks, of_model, of_task
from ynet_client.connection.session import Session
from ynet_client.connection.witness import telling
from ynet_client.consent_prompt import put_to_the_admin
from ynet_client.control_routes import routes
from ynet_client.counts import Counts
from ynet_client.display import Display
from ynet_client.egress import Class, Egress
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership
from ynet_client.membership.peers import Peer, Peers, advice
from ynet_client.membership.renewal import renewing
from ynet_client.membership.succession import following
from ynet_client.metrics import Known, Spent, state
from ynet_client.proxy import ways
from ynet_client.settings import ClientSettings
from ynet_client.settings_check import unknown_attributes
from ynet_client.training.consent import Consent, in_none
from ynet_client.workbench.serving import serving


async def run(home: Path, settings: ClientSettings, member: Membership, display: Display) -> None:
    """Stay joined until SIGINT or SIGTERM. Raises UserError."""
    member = membership.with_lasting(home, member)
    with Lock(home, f"the client of site {member.site}"), contextlib.ExitStack() as stack:
        found = Manifest(home, ())
        if settings.archive:
            found = manifest.read(settings.archive, is_labelled=settings.trains)
        cases = len(found.train) if settings.trains else 0
        consent = Consent(
            home,
            settings.policy,
            lambda plan: put_to_the_admin(plan, home, display),
            lambda plan_id, word: duties.books.audit.did(
                time.time(), "plan-accepted" if word == "accepted" else "plan-declined", plan_id
            ),
        )
        measured = prometheus.new_registry()
        counts = Counts(measured)
        duties = stack.enter_context(contextlib.closing(Duties(home, settings, display, cases, consent, counts)))
        spool = private_files.empty_folder(home / "spool")
        egress = stack.enter_context(contextlib.closing(Egress(home)))

        def seen(peer: Peer) -> None:
            for line in advice(peer, home):
                display.say(line)
            act: Act = "site-confirmed" if peer.state == "trusted" else "site-unconfirmed"
            audit.did(time.time(), act, f"{peer.site} {peer.fingerprint}")

        def copied() -> None:
            audit.did(time.time(), "copy-refused")

        def sent(of: Class, size_bytes: int) -> None:
            egress.count(of, size_bytes)
            counts.sent(of, size_bytes)

        audit = duties.books.audit
        audit.did(time.time(), "joined", fingerprint(member.certificate).hex())
        peers = Peers(home, settings.known_sites, seen)
        witness = Witness(home, member.site, lambda: session.identity, lambda: session.member.authority)
        tell = telling(member.site, audit, witness, display.say, count=sent)
        follow = following(home, display.say, lambda *act: audit.did(time.time(), *act))
        renew = renewing(home, display.say, count=sent)
        looks = Looks(of_task(consent.takes_part if settings.trains else in_none), of_model)
        way = ways(settings.proxy)
        session = Session(
            member, spool, duties, display.say, renew, sent, tell, follow, counts.received, looks, peers, way, copied
        )
        spent = Spent(home, settings.privacy)
        measured.register(state(Known(member.site, home, session, duties, spent)))
        page = serving(home, settings.workbench, member.site, duties, session, spool, display.say)
        async with page as where, prometheus.serving(settings.metrics, measured, spent.refresh):
            door = await control_server.serve(home, [*routes(member.site, duties, session, spool), where])
            display.say(f"site {member.site}: {_has(settings, found, cases)}")
            ending = asyncio.create_task(duties.end_forgetting())  # before anything is answered
            for name in unknown_attributes(settings, found.columns):
                display.say(f"disclosure.attributes names {name!r}, which is no column of the manifest")
            for gap in gaps(found.cases) if settings.trains else ():
                display.say(f"split: {gap.what}; {gap.do}")
            doing = lambda: f"{'connected' if session.connected else 'not connected'}; {duties.doing}"  # noqa: E731
            telling_of_many = asyncio.create_task(duties.keep_telling())
            async with systemd.told(doing):
                await _until_told_to_stop(session, duties)
            telling_of_many.cancel()
            ending.cancel()
            display.say("leaving")
            await door.end()


def _has(settings: ClientSettings, found: Manifest, cases: int) -> str:
    if settings.trains:
        return f"{cases} training cases"
    return f"it only asks, and trains nothing; {len(found.cases)} cases of its own are searched"


async def _until_told_to_stop(session: Session, duties: Duties) -> None:
    """Raises what kept the site's equipment from being got ready: a site that can do nothing does not stay joined."""
    running, opening = asyncio.ensure_future(session.run()), asyncio.ensure_future(duties.ready())

    def stop_if_failed(opened: "asyncio.Future[None]") -> None:
        if not opened.cancelled() and opened.exception():
            running.cancel()

    opening.add_done_callback(stop_if_failed)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await running
    if opening.done():
        await opening
    opening.cancel()
