"""The server's metrics: what happens is counted as it happens, what is so is looked up when Prometheus asks.

Labels are sites' names, and words from short lists in the code; a site's name is the consortium's own.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric

from ynet import __version__
from ynet.federation.records import EVALUATE, INITIAL, KEYS, MASK, OPEN, TRAIN
from ynet.scores import RESTS_ON
from ynet.trust.expiry import Life
from ynet.web import prometheus
from ynet_server.audit import Action, Write
from ynet_server.hub.hub import Hub
from ynet_server.hub.traffic import REFUSALS
from ynet_server.registry import Registry, RunStatus
from ynet_server.rounds.run_progress import Course, Courses
from ynet_server.rounds.runs import Runs

ROUNDS = {"round": "whole", "under_quorum": "under_quorum", "round_lost": "lost"}
"""What became of a round, by the kind of its event."""
AUDITED: Mapping[str, str] = {
    "enrolment-refused": "enrolment",
    "update-refused": "update",
    "copy-refused": "copy",
    "audit-refused": "audit",
}
"""The kinds of refusals that stand in the audit log, by their acts."""
KINDS = (INITIAL, TRAIN, EVALUATE, KEYS, MASK, OPEN)
ROUND_BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 4 * 3_600.0, 24 * 3_600.0)
SHORT_ID = 12


class Counts:
    """What is counted as it happens. From zero at each start, as Prometheus expects."""

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
        """A call was refused."""
        self._refusals.labels(kind).inc()

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """An event of a run."""
        if kind in ROUNDS:
            self._rounds.labels(ROUNDS[kind]).inc()
        if kind == "round":
            self._seconds.observe(float(values["seconds"]))
        elif kind == "update_refused":
            self._updates.labels(values["site"]).inc()
        elif kind == "site_failed":
            self._failures.labels(values["site"]).inc()

    def audited(self, write: Write) -> Write:
        """The audit log's `write`, that also counts."""

        def counting(action: Action, site: str = "", about: str = "", count: int = 1) -> None:
            write(action, site, about, count)
            self._audited.labels(action).inc()
            if action in AUDITED:
                self.refused(AUDITED[action])

        return counting


class Known(NamedTuple):
    """Where the server's state is looked up."""

    federation: str
    home: Path
    registry: Registry
    hub: Hub
    runs: Runs
    courses: Courses
    authority_life: Callable[[], Life]
    hub_life: Callable[[], Life]


def state(known: Known) -> prometheus.LookedUp:
    """What is so, looked up in the server's event loop each time that it is asked for."""
    return prometheus.LookedUp(lambda: _now(known))


def _now(known: Known) -> Iterator[Metric]:
    yield InfoMetricFamily(
        "ynet_server", "Which server this is.", {"version": __version__, "federation": known.federation}
    )
    yield from _sites(known)
    yield from _certificates(known)
    yield from _runs(known)
    yield from _privacy(known)
    models = known.registry.models()[:1]
    model = InfoMetricFamily("ynet_server_model", "The model in use.", labels=["model", "plan"])
    for one in models:
        model.add_metric([one.id[:SHORT_ID], str(one.card.get("plan_id", ""))[:SHORT_ID]], {})
    yield model
    yield from prometheus.disk("ynet_server", known.home)


def _sites(known: Known) -> Iterator[Metric]:
    connected = known.hub.connected()
    is_there = _per_site("ynet_server_site_connected", "1: it is connected.")
    cases = _per_site("ynet_server_site_cases", "Training cases, as the site last said.")
    seen = _per_site("ynet_server_site_last_seen_timestamp_seconds", "When it was last connected.")
    for site in known.registry.sites():
        if site.revoked:
            continue
        is_there.add_metric([site.name], site.name in connected)
        if site.cases is not None:
            cases.add_metric([site.name], site.cases)
        if site.last_seen is not None:
            seen.add_metric([site.name], site.last_seen)
    yield from (is_there, cases, seen)
    tasks = GaugeMetricFamily("ynet_server_tasks", "Tasks that sites work on, by kind.", labels=["kind"])
    open_tasks = Tally(known.hub.tasks_under_way())
    for kind in KINDS:
        tasks.add_metric([kind], open_tasks[kind])
    yield tasks


def _certificates(known: Known) -> Iterator[Metric]:
    ends = GaugeMetricFamily(
        "ynet_server_certificate_ends_timestamp_seconds", "When a certificate ends.", labels=["holder", "site"]
    )
    begins = GaugeMetricFamily(
        "ynet_server_certificate_begins_timestamp_seconds", "When a certificate begins.", labels=["holder", "site"]
    )
    for holder, life in (("authority", known.authority_life()), ("hub", known.hub_life())):
        ends.add_metric([holder, ""], life.ends.timestamp())
        begins.add_metric([holder, ""], life.begins.timestamp())
    for site in known.registry.sites():
        if site.ends is not None and not site.revoked:
            ends.add_metric(["site", site.name], site.ends)
    for name, life in known.registry.lives().items():
        begins.add_metric(["site", name], life.begins.timestamp())
    yield from (ends, begins)


def _runs(known: Known) -> Iterator[Metric]:
    listed = known.registry.runs()
    per_status = Tally(run.status for run in listed)
    runs = GaugeMetricFamily("ynet_server_runs", "Runs, by status.", labels=["status"])
    for status in get_args(RunStatus):
        runs.add_metric([status], per_status[status])
    yield runs
    is_running = per_status["running"] > 0
    yield GaugeMetricFamily("ynet_server_run_stalled", "1: the run stands still.", float(bool(known.runs.stalled())))
    if listed:
        course = known.courses.of(known.runs.folder(listed[0].id).path)
        plan = known.registry.known_plan(listed[0].plan)
        yield GaugeMetricFamily("ynet_server_run_round", "The newest run's last whole round.", course.round)
        if plan:
            yield GaugeMetricFamily("ynet_server_run_rounds", "The rounds of its plan.", plan.training.rounds)
        if is_running:
            yield GaugeMetricFamily(
                "ynet_server_run_last_progress_timestamp_seconds",
                "When the run under way began, went on, or ended a round.",
                max(course.last_round, listed[0].started),
            )
    yield from _scores(known.courses.of(known.runs.folder(listed[0].id).path) if listed else Course())


def _scores(course: Course) -> Iterator[Metric]:
    """Of what rests on nothing there is no sample: a 0 would be taken for a score, and NaN would spoil an average."""
    loss = _per_site("ynet_server_site_loss", "Mean loss of its last update in the newest run.")
    score = GaugeMetricFamily("ynet_server_site_score", "Its last scores in the newest run.", labels=["site", "score"])
    rests_on = GaugeMetricFamily(
        "ynet_server_site_score_cases",
        "The test cases that each of them is a mean over, rounded up to multiples of 5; 0: there is no such score.",
        labels=["site", "score"],
    )
    for site, curve in course.losses.items():
        if curve.newest is not None:
            loss.add_metric([site], curve.newest)
    for name, curves in course.scores.items():
        for site, curve in curves.items():
            if curve.newest is not None:
                score.add_metric([site, name], curve.newest)
            if (count := course.evaluated[site].get(RESTS_ON[name])) is not None:
                rests_on.add_metric([site, name], count)
    yield from (loss, score, rests_on)


def _privacy(known: Known) -> Iterator[Metric]:
    bound = _per_site(
        "ynet_server_site_epsilon_bound",
        "What the private runs it took part in may have spent together, at most: the sum of their plans' epsilons.",
    )
    for site, epsilon in epsilon_bounds(known.registry, known.runs, known.courses).items():
        bound.add_metric([site], epsilon)
    yield bound


def epsilon_bounds(registry: Registry, runs: Runs, courses: Courses) -> dict[str, float]:
    """By site, the sum of the epsilons of the private plans it trained. Its ledger knows it more tightly.

    Runs of one plan spend once: a site keeps what a round made, and sends it again.
    """
    plans: dict[str, set[str]] = {}
    for run in registry.runs():
        if private := courses.of(runs.folder(run.id).path).private:
            plans.setdefault(run.plan, set()).update(private)
    bounds: dict[str, float] = {}
    for plan_id, sites in plans.items():
        plan = registry.known_plan(plan_id)
        for site in sites:
            bounds[site] = bounds.get(site, 0.0) + ((plan and plan.privacy.epsilon) or 0.0)
    return dict(sorted(bounds.items()))


def _per_site(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["site"])
