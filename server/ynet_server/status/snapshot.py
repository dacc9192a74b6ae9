"""Everything that the status page shows, as one JSON value. Times are seconds since 1970."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from ynet import __version__
from ynet.plan import Plan
from ynet.schedule import AUTO
from ynet.scores import COARSE, PER_REGION
from ynet.trust import expiry
from ynet.trust.expiry import Life
from ynet_server.authority.certificates import LONG_AGO
from ynet_server.hub.connections import SiteState
from ynet_server.hub.tasks import Doing
from ynet_server.metrics import ServerState, epsilon_bounds
from ynet_server.registry import SiteRecord
from ynet_server.rounds.run_progress import SCORES, RunProgress
from ynet_server.status.audit_view import AuditView
from ynet_server.training_records import PublishedModel, Run

MOST_RUNS, MOST_MODELS = 12, 6
SHOWN = (*SCORES, PER_REGION, *COARSE, "queries", "queries_per_class")
"""The scores of a site that the page shows for a model."""


def snapshot(state: ServerState, audit_view: AuditView, now: float) -> dict[str, Any]:
    """The server's state at `now`. It holds no ages, which the page computes, so that it changes only with events."""
    runs = state.runs.listed()
    progress = state.progress_reader.of(state.runs.folder(runs[0].id).path) if runs else RunProgress()
    connected, doing = state.hub.connected(), state.hub.doing()
    bounds = epsilon_bounds(state.registry, state.runs, state.progress_reader)
    models, lives = state.registry.training.models(), state.registry.lives()
    return {
        "federation": state.federation,
        "version": __version__,
        "authority": _certificate(state.authority_life(), now),
        "hub": _certificate(state.hub_life(), now),
        "sites": [_site(site, lives.get(site.name), connected, doing, bounds, now) for site in state.registry.sites()],
        "invitations": [
            {"site": site, "expires": expires} for site, expires in state.registry.invitations(now).items()
        ],
        "run": _run(state, runs[0], progress, connected, doing) if runs else None,
        "runs": [_listed(state, run) for run in runs[:MOST_RUNS]],
        "models": [_model(model, is_in_use=model is models[0]) for model in models[:MOST_MODELS]],
        "refusals": audit_view.refusals(),
        "audit": audit_view.heads(),
    }


def _certificate(life: Life, now: float) -> dict[str, Any]:
    """`warning`: the threshold that was passed, in days (30, 7, 1; 0: it has ended, or not begun); null: none."""
    warning = expiry.reached(life, dt.datetime.fromtimestamp(now, dt.UTC))
    return {"begins": life.begins.timestamp(), "ends": life.ends.timestamp(), "warning": warning}


def _site(
    site: SiteRecord,
    life: Life | None,
    connected: Mapping[str, SiteState],
    doing: Mapping[str, Doing],
    bounds: Mapping[str, float],
    now: float,
) -> dict[str, Any]:
    state = connected.get(site.name)
    if life is None and site.ends is not None:  # it enrolled under an older version
        life = Life(LONG_AGO, dt.datetime.fromtimestamp(site.ends, dt.UTC))
    return {
        "name": site.name,
        "connected": state is not None,
        "since": state.since if state else None,
        "last_seen": site.last_seen,
        "enrolled": site.enrolled,
        "version": site.version,
        "protocol": state.protocol if state else None,
        "cases": site.cases,
        "revoked": site.revoked,
        "certificate": _certificate(life, now) if life and not site.revoked else None,
        "doing": doing[site.name]._asdict() if site.name in doing and state else None,
        "epsilon": bounds.get(site.name),
    }


def _training(connected: Mapping[str, SiteState]) -> list[str]:
    """The connected sites without those that only ask."""
    return [name for name, state in connected.items() if state.cases]


def _run(
    state: ServerState, run: Run, progress: RunProgress, connected: Mapping[str, SiteState], doing: Mapping[str, Doing]
) -> dict[str, Any]:
    plan = state.registry.training.known_plan(run.plan)
    present = _training(connected) if run.status == "running" else ()
    cohort = sorted({*progress.sites, *progress.in_round, *progress.awaited, *present})
    return {
        **_listed(state, run),
        "do": progress.do,
        "stalled": state.runs.stalled() if run.status == "running" else "",
        "round": progress.round,
        "seconds": progress.seconds,
        "last_round": progress.last_round or None,
        "waiting": progress.waiting,
        "missing": list(progress.missing),
        "quorum": state.runs.quorum(run.id),
        "held_again": progress.held_again,
        "parts": {site: _part(site, run, progress, connected, doing) for site in cohort},
        "cooldown": progress.cooldown,
        "stopped": progress.stopped,
        "terms": _terms(plan, progress) if plan else None,
        "curves": {
            "loss": _points(progress.losses),
            **{score: _points(progress.scores[score]) for score in SCORES},
        },
    }


def _part(
    site: str, run: Run, progress: RunProgress, connected: Mapping[str, SiteState], doing: Mapping[str, Doing]
) -> dict[str, Any]:
    """What a site does in the round under way: `answered`, `working`, `failed`, `awaited`, `away` or `idle`."""
    newest = doing.get(site)
    is_new = newest is not None and newest.since >= max(progress.last_round, run.started)
    if run.status != "running":
        state = "idle"
    elif site in progress.awaited:
        state = "awaited"
    elif site not in connected:
        state = "away"
    elif newest is None or not (is_new or newest.state == "working"):
        state = "idle"
    else:
        state = "failed" if newest.state == "called off" else newest.state
    kind = newest.kind if newest and is_new else None
    return {"state": state, "kind": kind, "since": newest.since if newest and kind else None}


def _points(curves: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    return {site: [[number, round(value, 4)] for number, value in curves[site].points()] for site in sorted(curves)}


def _terms(plan: Plan, progress: RunProgress) -> dict[str, Any]:
    called = progress.cooldown
    return {
        "rounds": called["round"] + called["rounds"] if called else plan.training.most_rounds,
        "is_auto": plan.training.rounds == AUTO,
        "min_sites": plan.cohort.min_sites,
        "quorum": plan.cohort.quorum,
        "deadline_s": plan.cohort.round_deadline_s,
        "strategy": plan.training.strategy,
        "aggregation": plan.aggregation,
        "code_bits": plan.network.code_bits,
        "privacy": {"mode": plan.privacy.mode, "epsilon": plan.privacy.epsilon, "delta": plan.privacy.delta},
    }


def _listed(state: ServerState, run: Run) -> dict[str, Any]:
    plan = state.registry.training.known_plan(run.plan)
    return {**run._asdict(), "name": plan.name if plan else run.plan[:12]}


def _model(model: PublishedModel, *, is_in_use: bool) -> dict[str, Any]:
    card = model.card
    scores = {
        site: {name: figures[name] for name in SHOWN if name in figures}
        for site, figures in card.get("scores", {}).items()
    }
    return {
        "id": model.id,
        "run": model.run,
        "published": model.published,
        "in_use": is_in_use,
        "plan": card.get("plan"),
        "rounds": card.get("rounds"),
        "best_round": card.get("best_round"),
        "stopped": card.get("stopped"),
        "cases": card.get("sites", {}),
        "scores": scores,
        "privacy": {key: value for key, value in card.get("privacy", {}).items() if key != "ledgers"},
    }
