"""What an assessor should look at before a yes: points that follow from a site's settings and state."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ynet.runtime import address
from ynet_client.dossier.facts import HomeFacts, day

LEAST_GROUP, MANY_QUERIES = 5, 1_000
SIGNED_WITHIN_S = 86_400.0


class OpenPoint(NamedTuple):
    """A point, why it matters, and what would close it."""

    what: str
    why: str
    do: str


def open_points(facts: HomeFacts) -> list[OpenPoint]:
    """Return the open points of a site, those about training first."""
    return [point for find in _EVERY for point in find(facts)]


def _training(facts: HomeFacts) -> Iterator[OpenPoint]:
    settings, policy = facts.settings, facts.settings.policy
    if not settings.trains:
        return
    if policy.new_plans == "accept":
        why = "a plan that the policy allows is trained without a decision of a person"
        yield OpenPoint("plans are accepted automatically", why, "set policy.new_plans: ask")
    if policy.privacy == "any":
        why = "without it a model may tell of single patients, and no epsilon limits what leaves"
        yield OpenPoint("plans without differential privacy are allowed", why, "set policy.privacy: required")
    if policy.aggregation == "any":
        why = "the server then sees this site's own weights"
        yield OpenPoint("plans without secure aggregation are allowed", why, "set policy.aggregation: secure")


def _plans(facts: HomeFacts) -> Iterator[OpenPoint]:
    for one in facts.plans:
        if one.trained and one.plan and one.plan.privacy.mode == "off":
            why = f"{one.trained.rounds} rounds of plan {one.id[:12]} have left, the last on {day(one.trained.last)}"
            yield OpenPoint("weights without differential privacy have left", why, "they cannot be taken back")
        if one.trained and one.plan is None:
            why = f"plan {one.id[:12]} was trained here, and its terms are not in the home folder"
            yield OpenPoint("a plan's terms are unknown", why, "ask the coordinator for the plan's file")
        if one.effect.startswith("waits"):
            why = f"plan {one.id[:12]} has come"
            yield OpenPoint("a plan waits for a decision", why, "run ynet-client plan list, then accept or decline")


def _answers(facts: HomeFacts) -> Iterator[OpenPoint]:
    rules = facts.settings.disclosure
    if not rules.answers or facts.settings.archive is None:
        return
    if rules.queries_per_day_and_site > MANY_QUERIES:
        why = f"{rules.queries_per_day_and_site} codes a day let another site read most codes of a small archive"
        yield OpenPoint("the quota of other sites is large", why, "lower disclosure.queries_per_day_and_site")
    if rules.minimum_group < LEAST_GROUP:
        why = f"a filter may select {max(rules.minimum_group, 1)} patients"
        yield OpenPoint("filters may select few patients", why, f"set disclosure.minimum_group: {LEAST_GROUP}")


def _sites(facts: HomeFacts) -> Iterator[OpenPoint]:
    for one in facts.peers:
        if one.state == "changed":
            why = f"site {one.site} shows another key than the confirmed one, and is not answered"
            yield OpenPoint("a site's key has changed", why, f"call its admin; ynet-client sites trust {one.site}")
    if not facts.fingerprint:
        why = "other sites cannot recognise this one"
        yield OpenPoint("this site has no lasting key", why, "run ynet-client join once")


def _records(facts: HomeFacts) -> Iterator[OpenPoint]:
    if not facts.is_counted:
        why = "egress.sqlite is not in the home folder, so this dossier cannot say how much has left"
        yield OpenPoint("what has left is not counted", why, "run ynet-client join; restore the file if it was lost")
    if facts.used.first_number > 1:
        why = f"entries before {facts.used.first_number} were deleted; times and counts below begin there"
        yield OpenPoint("the audit log does not begin at its beginning", why, "keep copies of audit.*.jsonl elsewhere")
    if facts.used.entries and (facts.audit.signed_at is None or facts.now - facts.audit.signed_at > SIGNED_WITHIN_S):
        why = f"the newest head that the server signed is of {day(facts.audit.signed_at)}"
        yield OpenPoint("the audit log's head is not signed within a day", why, "run ynet-client join")
    if facts.restored is not None:
        why = "what left between the backup and the restore is not in these files"
        yield OpenPoint("the home folder came from a backup", why, "ask the coordinator for the server's audit log")


def _machine(facts: HomeFacts) -> Iterator[OpenPoint]:
    settings = facts.settings
    if facts.is_edited:
        why = "the running client still uses the settings from its start; this dossier shows the edited file"
        yield OpenPoint("the settings were edited while the client runs", why, "restart ynet-client join")
    if settings.metrics.port and not address.is_loopback(settings.metrics.host):
        why = f"{settings.metrics.host}:{settings.metrics.port} serves counts and scores to everyone who reaches it"
        yield OpenPoint("metrics are served without a login", why, "set metrics.host: 127.0.0.1, or use a firewall")
    if settings.workbench.enabled and not address.is_loopback(settings.workbench.host):
        why = f"{settings.workbench.host}:{settings.workbench.port} is reached from other machines"
        yield OpenPoint("the workbench is open to the network", why, "limit who reaches it by a firewall")
    if facts.server.certificate_ends < facts.now:
        why = f"it ended on {day(facts.server.certificate_ends)}"
        yield OpenPoint("the site's certificate has ended", why, "run ynet-client doctor")


_EVERY: tuple[Callable[[HomeFacts], Iterator[OpenPoint]], ...] = (
    _training,
    _plans,
    _answers,
    _sites,
    _records,
    _machine,
)
