"""The site's process: connects to the hub and runs until it is stopped."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ynet.data import manifest
from ynet.data.gaps import gaps
from ynet.data.manifest import Manifest
from ynet.federation.countersigned import Witness
from ynet.runtime import control_server, private_files, systemd
from ynet.runtime.home import Lock
from ynet.trust.identity import fingerprint
from ynet.web import prometheus
from ynet_client.agent import Agent
from ynet_client.audit import Act, Audit
from ynet_client.connection.download_limit import DownloadLimits, of_model, of_task
from ynet_client.connection.given_files import GivenFiles
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.connection.witness import exchanging
from ynet_client.consent_prompt import put_to_the_admin
from ynet_client.control_routes import routes
from ynet_client.counts import Counts
from ynet_client.display import Display
from ynet_client.egress import Class, Count, Egress
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership
from ynet_client.membership.peers import Peer, Peers, advice
from ynet_client.membership.renewal import renewing
from ynet_client.membership.succession import following
from ynet_client.metrics import GaugeSources, Spent, state
from ynet_client.proxy import ways
from ynet_client.settings import ClientSettings
from ynet_client.settings_check import unknown_attributes
from ynet_client.training.consent import Consent, Decision, in_none
from ynet_client.training.fixed_files import FixedFiles
from ynet_client.workbench.serving import serving


async def run(home: Path, settings: ClientSettings, member: Membership, display: Display) -> None:
    """Keep a site connected until SIGINT or SIGTERM. Raises UserError."""
    member = membership.with_lasting(home, member)
    with Lock(home, f"the client of site {member.site}"), contextlib.ExitStack() as stack:
        found = Manifest(home, ())
        if settings.archive:
            found = manifest.read(settings.archive)
        cases = len(found.train) if settings.trains else 0
        measured = prometheus.new_registry()
        counts = Counts(measured)

        def note(plan_id: str, decision: Decision) -> None:
            audit.did(time.time(), "plan-accepted" if decision == "accepted" else "plan-declined", plan_id)

        consent = Consent(home, settings.policy, lambda plan: put_to_the_admin(plan, home, display), note)
        agent = stack.enter_context(contextlib.closing(Agent(home, settings, display, cases, consent, counts)))
        audit = agent.stores.audit
        audit.did(time.time(), "joined", fingerprint(member.certificate).hex())

        spool = private_files.empty_folder(home / "spool")
        egress = stack.enter_context(contextlib.closing(Egress(home)))
        witness = Witness(home, member.site, lambda: session.identity, lambda: session.member.authority)
        sent = _counting(egress, counts)
        hooks = SessionHooks(
            renew=renewing(home, display.say, count=sent),
            follow=following(home, display.say, lambda *act: audit.did(time.time(), *act)),
            exchange_heads=exchanging(member.site, audit, witness, display.say, count=sent),
            sent=sent,
            received=counts.received,
            limits=DownloadLimits(of_task(consent.takes_part if settings.trains else in_none), of_model),
            files=GivenFiles(
                FixedFiles(home, consent.takes_part if settings.trains else in_none),
                lambda about: audit.did(time.time(), "fetched", about),
            ),
            peers=Peers(home, settings.known_sites, _reporting(home, display, audit)),
            ways=ways(settings.proxy),
            copied=lambda: audit.did(time.time(), "copy-refused"),
        )
        session = Session(member, spool, agent, display.say, hooks)
        spent = Spent(home, settings.privacy)
        measured.register(state(GaugeSources(member.site, home, session, agent, spent)))
        page = serving(home, settings.workbench, member.site, agent, session, spool, display.say)
        async with page as where, prometheus.serving(settings.metrics, measured, spent.refresh):
            control = await control_server.serve(home, [*routes(member.site, agent, session, spool), where])
            tasks = [asyncio.create_task(work) for work in (agent.resume_forgetting(), agent.keep_records())]
            _show_setup(display, member.site, settings, found)
            doing = lambda: f"{'connected' if session.connected else 'not connected'}; {agent.doing}"  # noqa: E731
            async with systemd.told(doing):
                await _until_stopped(session, agent)
            for task in tasks:
                task.cancel()
            display.say("leaving")
            await control.end()


def _counting(egress: Egress, counts: Counts) -> Count:
    def sent(of: Class, size_bytes: int) -> None:
        egress.count(of, size_bytes)
        counts.sent(of, size_bytes)

    return sent


def _reporting(home: Path, display: Display, audit: Audit) -> Callable[[Peer], None]:
    """Return a function that shows and records the key that another site shows."""

    def report(peer: Peer) -> None:
        for line in advice(peer, home):
            display.say(line)
        act: Act = "site-confirmed" if peer.state == "trusted" else "site-unconfirmed"
        audit.did(time.time(), act, f"{peer.site} {peer.fingerprint}")

    return report


def _show_setup(display: Display, site: str, settings: ClientSettings, found: Manifest) -> None:
    """Show what the site has, and what is wrong with its settings or its split."""
    has = f"it only asks, and trains nothing; {len(found.cases)} cases of its own are searched"
    display.say(f"site {site}: {f'{len(found.train)} training cases' if settings.trains else has}")
    for name in unknown_attributes(settings, found.columns):
        display.say(f"disclosure.attributes names {name!r}, which is no column of the manifest")
    for gap in gaps(found.cases) if settings.trains else ():
        display.say(f"split: {gap.what}; {gap.do}")


async def _until_stopped(session: Session, agent: Agent) -> None:
    """Run the session until a signal arrives. Raises the error that kept the agent's resources from loading."""
    running, opening = asyncio.ensure_future(session.run()), asyncio.ensure_future(agent.ready())

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
