"""The server's metrics: counters are pushed, gauges are read at scrape time.

Label values are sites' names, which the consortium chooses, and words from short lists in the code.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from ynet import __version__
from ynet.federation.records import EVALUATE, FEATURES, INITIAL, KEYS, MASK, OPEN, TRAIN
from ynet.scores import RESTS_ON
from ynet.trust.expiry import Life
from ynet.web import prometheus
from ynet_server.audit import Action, Write
from ynet_server.hub.hub import Hub
from ynet_server.hub.traffic import REFUSALS
from ynet_server.registry import Registry
from ynet_server.rounds.run_progress import RunProgress, RunProgressReader
from ynet_server.rounds.runs import Runs
from ynet_server.training_records import RunStatus

ROUNDS = {"round": "whole", "under_quorum": "under_quorum", "round_lost": "lost"}
"""The outcome of a round, by the kind of its event."""
AUDITED: Mapping[str, str] = {
    "enrolment-refused": "enrolment",
    "update-refused": "update",
    "copy-refused": "copy",
    "audit-refused": "audit",
}
"""The kinds of refusals in the audit log, by their actions."""
KINDS = (INITIAL, TRAIN, FEATURES, EVALUATE, KEYS, MASK, OPEN)
ROUND_BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 4 * 3_600.0, 24 * 3_600.0)
SHORT_ID = 12


class ServerCounters:
    """The server's counters. They start at zero with the process, as Prometheus expects."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rounds = Counter("ynet_server_rounds", "Rounds, by what became of them.", ["outcome"], registry=registry)
        self._seconds = Histogram(
            "ynet_server_round_seconds", "A whole round.", registry=registry, buckets=ROUND_BUCKETS_S
        )
        self._refusals = Counter("ynet_server_refusals", "What was not taken, by kind.", ["kind"], registry=registry)
        self._updates = Counter(
            "ynet_server_updates_refused", "Updates that were not taken.", ["site"], registry=registry
        )
        self._failures = Counter(
            "ynet_server_site_failures", "Tasks to which a site gave no result.", ["site"], registry=registry
        )
        self._audited = Counter(
            "ynet_server_audit_entries", "New entries of the audit log.", ["action"], registry=registry
        )
        for outcome in ROUNDS.values():
            self._rounds.labels(outcome)
        for kind in (*AUDITED.values(), *REFUSALS.values()):
            self._refusals.labels(kind)
        for action in get_args(Action):
            self._audited.labels(action)

    def refused(self, kind: str) -> None:
        """Count a refused call."""
        self._refusals.labels(kind).inc()

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """Count an event of a run."""
        if kind in ROUNDS:
            self._rounds.labels(ROUNDS[kind]).inc()
        if kind == "round":
            self._seconds.observe(float(values["seconds"]))
        elif kind == "update_refused":
            self._updates.labels(values["site"]).inc()
        elif kind == "site_failed":
            self._failures.labels(values["site"]).inc()

    def audited(self, write: Write) -> Write:
        """Return the audit log's `write` with counting added."""

        def counting(action: Action, site: str = "", about: str = "", count: int = 1) -> None:
            write(action, site, about, count)
            self._audited.labels(action).inc()
            if action in AUDITED:
                self.refused(AUDITED[action])

        return counting


class ServerState(NamedTuple):
    """The objects from which metrics and pages read the server's state."""

    federation: str
    home: Path
    registry: Registry
    hub: Hub
    runs: Runs
    progress_reader: RunProgressReader
    authority_life: Callable[[], Life]
    hub_life: Callable[[], Life]


def gauges(state: ServerState) -> prometheus.LookedUp:
    """The gauges, read in the server's event loop at each scrape."""
    return prometheus.LookedUp(lambda: _now(state))


def _now(state: ServerState) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "ynet_server", "Which server this is.", {"version": __version__, "federation": state.federation}
    )
    yield from _sites(state)
    yield from _certificates(state)
    yield from _runs(state)
    yield from _privacy(state)
    models = state.registry.training.models()[:1]
    model = InfoMetricFamily("ynet_server_model", "The model in use.", labels=["model", "plan"])
    for one in models:
        model.add_metric([one.id[:SHORT_ID], str(one.card.get("plan_id", ""))[:SHORT_ID]], {})
    yield model
    yield from prometheus.disk("ynet_server", state.home)


def _sites(state: ServerState) -> Iterator[Metric]:
    connected = state.hub.connected()
    is_there = _per_site("ynet_server_site_connected", "1: it is connected.")
    cases = _per_site("ynet_server_site_cases", "Training cases, as the site last said.")
    seen = _per_site("ynet_server_site_last_seen_timestamp_seconds", "When it was last connected.")
    for site in state.registry.sites():
        if site.revoked:
            continue
        is_there.add_metric([site.name], site.name in connected)
        if site.cases is not None:
            cases.add_metric([site.name], site.cases)
        if site.last_seen is not None:
            seen.add_metric([site.name], site.last_seen)
    yield from (is_there, cases, seen)
    tasks = GaugeMetricFamily("ynet_server_tasks", "Tasks that sites work on, by kind.", labels=["kind"])
    open_tasks = Tally(state.hub.tasks_under_way())
    for kind in KINDS:
        tasks.add_metric([kind], open_tasks[kind])
    yield tasks


def _certificates(state: ServerState) -> Iterator[Metric]:
    ends = GaugeMetricFamily(
        "ynet_server_certificate_ends_timestamp_seconds", "When a certificate ends.", labels=["holder", "site"]
    )
    begins = GaugeMetricFamily(
        "ynet_server_certificate_begins_timestamp_seconds", "When a certificate begins.", labels=["holder", "site"]
    )
    for holder, life in (("authority", state.authority_life()), ("hub", state.hub_life())):
        ends.add_metric([holder, ""], life.ends.timestamp())
        begins.add_metric([holder, ""], life.begins.timestamp())
    for site in state.registry.sites():
        if site.ends is not None and not site.revoked:
            ends.add_metric(["site", site.name], site.ends)
    for name, life in state.registry.lives().items():
        begins.add_metric(["site", name], life.begins.timestamp())
    yield from (ends, begins)


def _runs(state: ServerState) -> Iterator[Metric]:
    listed = state.registry.training.runs()
    per_status = Tally(run.status for run in listed)
    runs = GaugeMetricFamily("ynet_server_runs", "Runs, by status.", labels=["status"])
    for status in get_args(RunStatus):
        runs.add_metric([status], per_status[status])
    yield runs
    is_running = per_status["running"] > 0
    yield GaugeMetricFamily("ynet_server_run_stalled", "1: the run stands still.", float(bool(state.runs.stalled())))
    if listed:
        progress = state.progress_reader.of(state.runs.folder(listed[0].id).path)
        plan = state.registry.training.known_plan(listed[0].plan)
        yield GaugeMetricFamily("ynet_server_run_round", "The newest run's last whole round.", progress.round)
        if plan:
            yield GaugeMetricFamily(
                "ynet_server_run_rounds",
                "The rounds of its plan; with rounds auto, the most.",
                plan.training.most_rounds,
            )
        if is_running:
            yield GaugeMetricFamily(
                "ynet_server_run_last_progress_timestamp_seconds",
                "When the run under way began, went on, or ended a round.",
                max(progress.last_round, listed[0].started),
            )
    yield from _scores(state.progress_reader.of(state.runs.folder(listed[0].id).path) if listed else RunProgress())


def _scores(progress: RunProgress) -> Iterator[Metric]:
    """The scores as gauges. A score without cases has no sample: 0 would read as a score, NaN would spoil averages."""
    loss = _per_site("ynet_server_site_loss", "Mean loss of its last update in the newest run.")
    score = GaugeMetricFamily("ynet_server_site_score", "Its last scores in the newest run.", labels=["site", "score"])
    rests_on = GaugeMetricFamily(
        "ynet_server_site_score_cases",
        "The test cases that each rests on, rounded up to multiples of 5 except for ties; 0: there is no such score.",
        labels=["site", "score"],
    )
    for site, curve in progress.losses.items():
        if curve.newest is not None:
            loss.add_metric([site], curve.newest)
    for name, curves in progress.scores.items():
        for site, curve in curves.items():
            if curve.newest is not None:
                score.add_metric([site, name], curve.newest)
            if (count := progress.evaluated[site].get(RESTS_ON[name])) is not None:
                rests_on.add_metric([site, name], count)
    yield from (loss, score, rests_on)


def _privacy(state: ServerState) -> Iterator[Metric]:
    bound = _per_site(
        "ynet_server_site_epsilon_bound",
        "What the private runs it took part in may have spent together, at most: the sum of their plans' epsilons.",
    )
    for site, epsilon in epsilon_bounds(state.registry, state.runs, state.progress_reader).items():
        bound.add_metric([site], epsilon)
    yield bound


def epsilon_bounds(registry: Registry, runs: Runs, progress_reader: RunProgressReader) -> dict[str, float]:
    """The sum of the epsilons of the private plans that each site trained; the site's own ledger has a tighter bound.

    Runs of one plan spend once: a site keeps what a round made, and sends it again.
    """
    plans: dict[str, set[str]] = {}
    for run in registry.training.runs():
        if private := progress_reader.of(runs.folder(run.id).path).private:
            plans.setdefault(run.plan, set()).update(private)
    bounds: dict[str, float] = {}
    for plan_id, sites in plans.items():
        plan = registry.training.known_plan(plan_id)
        for site in sites:
            bounds[site] = bounds.get(site, 0.0) + ((plan and plan.privacy.epsilon) or 0.0)
    return dict(sorted(bounds.items()))


def _per_site(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["site"])
