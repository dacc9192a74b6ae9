"""The routes of the control socket, which the coordinator's commands call."""

import contextlib
import json
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet import plan
from ynet.trust.identity import Signer, fingerprint, read_leaf
from ynet.trust.invitation import Invitation, new_secret
from ynet_server.audit import Write, nowhere
from ynet_server.authority.certificates import HubCertificate, days
from ynet_server.authority.revocations import Revocations
from ynet_server.clock import now
from ynet_server.hub.hub import Hub
from ynet_server.registry import Registry
from ynet_server.rounds.run_progress import RunProgress, RunProgressReader
from ynet_server.rounds.runs import Runs
from ynet_server.training_records import Run


def routes(
    registry: Registry,
    hub: Hub,
    runs: Runs,
    authority: Signer,
    own: HubCertificate,
    about: dict[str, object],
    revocations: Revocations,
    audit: Write = nowhere,
) -> list[Route]:
    """The routes of the control socket. Bodies and answers are JSON."""
    enrolment = str(about["enrolment"])

    async def status(_: Request) -> Response:
        connected = sorted(hub.connected())
        ends = read_leaf(authority.certificate).ends.timestamp()
        lives = {"authority_days": days(ends, now()), "hub_days": days(own.life().ends.timestamp(), now())}
        newest = [run._asdict() for run in runs.listed()[:1]]
        shown = {**about, "fingerprint": fingerprint(authority.certificate).hex()}
        unwritten = sorted(registry.shut_out_unwritten())
        live = {"connected": connected, "runs": newest, "revocations_unwritten": unwritten}
        return JSONResponse({**shown, **lives, **live})

    async def sites(_: Request) -> Response:
        connected = hub.connected()
        listed = [
            {
                "site": site.name,
                "connected": site.name in connected,
                "cases": site.cases,
                "asks_only": site.cases == 0,
                "version": site.version,
                "protocol": connected[site.name].protocol if site.name in connected else None,
                "enrolled": site.enrolled,
                "last_seen": site.last_seen,
                "revoked": site.revoked,
                "certificate_ends": site.ends,
                "certificate_days": None if site.revoked else days(site.ends, now()),
            }
            for site in registry.sites()
        ]
        return JSONResponse({"sites": listed})

    async def invite(request: Request) -> Response:
        asked, secret = await request.json(), new_secret()
        registry.invite(asked["site"], secret, now(), replace=asked["replace"])
        audit("invited", asked["site"], "in the place of its certificate" if asked["replace"] else "")
        made = Invitation(enrolment, secret, fingerprint(authority.certificate))
        return JSONResponse({"site": asked["site"], "invitation": made.to_text()})

    async def revoke(request: Request) -> Response:
        site = str((await request.json())["site"])
        done = revocations.revoke(site, now())
        revoked = {"site": site, "revoked": done.at, "was_connected": done.was_connected}
        return JSONResponse({**revoked, "written": done.is_written})

    async def freeze(request: Request) -> Response:
        frozen = plan.from_canonical(json.dumps(await request.json()))
        audit("plan-frozen", about=frozen.id)
        return JSONResponse({"plan": registry.training.freeze(frozen, now()), "name": frozen.name})

    async def models(_: Request) -> Response:
        listed = [model._asdict() for model in registry.training.models()]
        return JSONResponse({"models": listed, "in_use": listed[0]["id"] if listed else None})

    return [
        Route("/status", status),
        Route("/sites", sites),
        Route("/invitations", invite, methods=["POST"]),
        Route("/revocations", revoke, methods=["POST"]),
        Route("/plans", freeze, methods=["POST"]),
        Route("/models", models),
        *_run_routes(runs, RunProgressReader()),
    ]


def _end(runs: Runs, run: Run, progress: RunProgress | None) -> dict[str, object] | None:
    """Why a run with `training.rounds: auto` ends, and its best round; None while it does not, and for other runs."""
    if progress is not None:
        found = progress.stopped or progress.cooldown
        return {"reason": found["reason"], "best_round": found.get("best")} if found else None
    with contextlib.suppress(OSError, ValueError):
        card = runs.folder(run.id).card() if run.status == "finished" else {}
        return {"reason": card["stopped"], "best_round": card["best_round"]} if "stopped" in card else None
    return None


def _run_routes(runs: Runs, progress_reader: RunProgressReader) -> list[Route]:
    def shown(run: Run) -> dict[str, object]:
        """A run as JSON, with the sites that it waits for, and why it ends where the plan says `auto`."""
        progress = progress_reader.of(runs.folder(run.id).path) if run.status == "running" else None
        waits = {**progress.waiting, "missing": list(progress.missing)} if progress and progress.waiting else None
        return {**run._asdict(), "waits_for": waits, "end": _end(runs, run, progress)}

    async def quorum(request: Request) -> Response:
        number, to = int(request.path_params["run"]), int((await request.json())["quorum"])
        runs.lower_quorum(number, to)
        return JSONResponse({"run": number, "quorum": to})

    async def carry_over(request: Request) -> Response:
        number, asked = int(request.path_params["run"]), await request.json()
        made, path = runs.carry_over(number, int(asked["quorum"]), int(asked["min_sites"]))
        return JSONResponse({"run": number, "plan": json.loads(made.canonical()), "id": made.id, "weights": str(path)})

    async def train(request: Request) -> Response:
        asked = await request.json()
        frozen = plan.from_canonical(json.dumps(asked["plan"]))
        init = Path(asked["init"]) if asked["init"] else None
        return JSONResponse({"run": runs.start(frozen, init), "plan": frozen.id})

    async def list_runs(_: Request) -> Response:
        return JSONResponse({"runs": [shown(run) for run in runs.listed()]})

    async def cancel(request: Request) -> Response:
        number = int(request.path_params["run"])
        runs.cancel(number)
        return JSONResponse({"run": number})

    async def resume(request: Request) -> Response:
        number = int(request.path_params["run"])
        runs.take_up(number)
        return JSONResponse({"run": number})

    async def events(request: Request) -> Response:
        number, since = int(request.path_params["run"]), int(request.query_params.get("since", "0"))
        known = {run.id: run for run in runs.listed()}
        found = runs.folder(number).events(since)
        return JSONResponse({"run": shown(known[number]) if number in known else None, "events": found})

    return [
        Route("/runs", train, methods=["POST"]),
        Route("/runs", list_runs),
        Route("/runs/{run:int}/events", events),
        Route("/runs/{run:int}/cancel", cancel, methods=["POST"]),
        Route("/runs/{run:int}/resume", resume, methods=["POST"]),
        Route("/runs/{run:int}/quorum", quorum, methods=["POST"]),
        Route("/runs/{run:int}/carry-over", carry_over, methods=["POST"]),
    ]
