"""What may leave a site, to whom, and under which limits: every sentence follows from a setting or a file."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ynet_client.dossier.facts import HomeFacts
from ynet_client.egress import Class, ClassTotals

SERVER = "the server"
NOBODY = "nobody"


@dataclass(frozen=True)
class DataFlow:
    """One kind of data that may leave, with its limits and how much of it has left."""

    name: str
    contents: str
    receivers: str
    leaves: bool  # whether the settings of today let it leave
    limits: tuple[str, ...]
    classes: tuple[Class, ...]  # of `ynet-client egress`

    def totals(self, facts: HomeFacts) -> ClassTotals | None:
        """Return what has left, all classes together; None when nothing has."""
        rows = [row for row in facts.totals if row.name in self.classes]
        if not rows:
            return None
        first, last = min(row.first for row in rows), max(row.last for row in rows)
        return ClassTotals(self.name, sum(row.messages for row in rows), sum(row.bytes for row in rows), first, last)

    def to_json(self, facts: HomeFacts) -> dict[str, Any]:
        """Return the flow as `ynet-client dossier --json` prints it."""
        shown = {key: value for key, value in vars(self).items() if key not in ("limits", "classes")}
        total = self.totals(facts)
        counts = {key: getattr(total, key) if total else 0 for key in ("messages", "bytes")}
        times = {key: getattr(total, key) if total else None for key in ("first", "last")}
        return {**shown, "limits": list(self.limits), "classes": list(self.classes), **counts, **times}


def flows(facts: HomeFacts) -> list[DataFlow]:
    """Return every kind of data that may leave; each class of `ynet-client egress` is in exactly one."""
    return [make(facts) for make in _EVERY]


def _weights(facts: HomeFacts) -> DataFlow:
    settings, policy = facts.settings, facts.settings.policy
    classes: tuple[Class, ...] = ("initial weights", "updates", "secure sums")
    name, contents = "weights", "the network's weights after each round of training, the number of cases, loss, seconds"
    if not settings.trains:
        why = "This site only asks (`trains: false`): it refuses every plan, and no weights leave."
        return DataFlow(name, contents, NOBODY, leaves=False, limits=(why,), classes=classes)
    consent = {
        "ask": "A plan is trained only after this site's admin has accepted it (`policy.new_plans: ask`).",
        "accept": "Every plan that the policy allows is trained, and no person is asked (`policy.new_plans: accept`).",
    }[policy.new_plans]
    private = {
        "any": "Plans without differential privacy are allowed (`policy.privacy: any`):"
        " the weights of such a plan may tell of single patients.",
        "required": "Only plans with differential privacy are allowed (`policy.privacy: required`).",
    }[policy.privacy]
    summed = {
        "any": "Plans may send this site's own weights to the server (`policy.aggregation: any`).",
        "secure": "Only plans with secure aggregation are allowed (`policy.aggregation: secure`):"
        " the server reads the sum of at least three sites, and not this site's weights.",
    }[policy.aggregation]
    limits = (consent, private, _budget(facts), summed, *_sizes(facts))
    return DataFlow(name, contents, SERVER, leaves=True, limits=limits, classes=classes)


def _budget(facts: HomeFacts) -> str:
    ledger = facts.ledger
    at = f" at delta {ledger['delta']:g}" if ledger["delta"] else ""
    return (
        f"Plans with differential privacy may spend epsilon {ledger['max_epsilon']:g} for each patient, all together"
        f" (`privacy.max_epsilon`); spent so far: {ledger['spent']:g}{at}."
    )


def _sizes(facts: HomeFacts) -> tuple[str, ...]:
    policy = facts.settings.policy
    recipes = (f"Only the recipes {', '.join(policy.recipes)} are allowed (`policy.recipes`).",)
    return (
        f"A round must have at least {policy.min_sites} site{'s' * (policy.min_sites > 1)} (`policy.min_sites`),"
        f" and a plan at most {policy.max_epochs} epochs (`policy.max_epochs`).",
        *(recipes if policy.recipes else ()),
    )


def _moments(facts: HomeFacts) -> DataFlow:
    name, contents = "sums over training cases", "sums of features and their products, and the cases by class"
    if not facts.settings.trains:
        limits: tuple[str, ...] = ("This site only asks (`trains: false`): none leave.",)
        return DataFlow(name, contents, NOBODY, leaves=False, limits=limits, classes=("moments",))
    if facts.settings.policy.privacy == "required":
        limits = ("Plans with differential privacy send none, and no other plan is allowed (`policy.privacy`).",)
        return DataFlow(name, contents, NOBODY, leaves=False, limits=limits, classes=("moments",))
    is_secure = facts.settings.policy.aggregation == "secure" or not facts.settings.disclosure.labels
    key = "policy.aggregation" if facts.settings.policy.aggregation == "secure" else "disclosure.labels"
    limits = (
        f"The server reads only the sum of at least three sites (`{key}`)."
        if is_secure
        else "A plan without secure aggregation sends this site's own sums to the server, with its number of training"
        " cases of each class (`policy.aggregation: any`, `disclosure.labels: true`).",
        "Plans with differential privacy send none.",
    )
    return DataFlow(name, contents, SERVER, leaves=True, limits=limits, classes=("moments",))


def _scores(facts: HomeFacts) -> DataFlow:
    name, contents = "scores", "how well a model does on this site's test cases, and numbers of cases"
    if not facts.settings.trains:
        limits: tuple[str, ...] = ("This site only asks (`trains: false`): it evaluates nothing for others.",)
        return DataFlow(name, contents, NOBODY, leaves=False, limits=limits, classes=("figures",))
    is_by_class = facts.settings.disclosure.labels
    limits = (
        "Scores have no noise and are in no ledger. A plan with `privacy.scores: none` sends none.",
        "The numbers of cases of each class leave too, rounded up to multiples of 5 (`disclosure.labels: true`)."
        if is_by_class
        else "No number of cases by class leaves (`disclosure.labels: false`).",
    )
    return DataFlow(name, contents, SERVER, leaves=True, limits=limits, classes=("figures",))


def _answers(facts: HomeFacts) -> DataFlow:
    name, contents = "answers to other sites", "of each similar case: a distance, a random name, the number of ties"
    rules = facts.settings.disclosure
    contents += ", its label" if rules.labels else ""
    if not rules.answers:
        limits: tuple[str, ...] = ("No other site is answered (`disclosure.answers: false`).",)
        return DataFlow(name, contents, NOBODY, leaves=False, limits=limits, classes=("answers",))
    if facts.settings.archive is None:
        limits = ("This site has no archive (`data` is empty): there is no case to answer with.",)
        return DataFlow(name, contents, NOBODY, leaves=False, limits=limits, classes=("answers",))
    limits = (*_who(facts), *_how_much(facts), *_how_fine(facts))
    receivers = ", ".join(facts.answered_sites)
    receivers = (
        f"{receivers}; sealed, through the server" if receivers else "no site yet: none is confirmed and allowed"
    )
    return DataFlow(name, contents, receivers, leaves=bool(facts.answered_sites), limits=limits, classes=("answers",))


def _who(facts: HomeFacts) -> tuple[str, ...]:
    rules = facts.settings.disclosure
    allowed = (f"Only these sites may be answered: {', '.join(rules.allow)} (`disclosure.allow`).",)
    denied = (f"Never answered: {', '.join(rules.deny)} (`disclosure.deny`).",)
    confirmed = "A site is answered only after this site's admin has confirmed its fingerprint."
    return (confirmed, *(allowed if rules.allow else ()), *(denied if rules.deny else ()))


def _how_much(facts: HomeFacts) -> tuple[str, ...]:
    rules = facts.settings.disclosure
    return (
        f"One site may ask about {rules.queries_per_day_and_site} codes a day, and one of its users about"
        f" {rules.queries_per_day_and_user} (`disclosure.queries_per_day_and_site`, `_and_user`).",
        f"One code gets at most {rules.max_k} hits (`disclosure.max_k`).",
        "A site that asks about chosen codes learns the codes of this site's cases, within these limits.",
    )


def _how_fine(facts: HomeFacts) -> tuple[str, ...]:
    rules = facts.settings.disclosure
    group = f"A filter must select at least {rules.minimum_group} patients (`disclosure.minimum_group`)."
    columns = f"Others may filter by these columns: {', '.join(rules.attributes)} (`disclosure.attributes`)."
    none = "Others may filter by no column of the manifest (`disclosure.attributes` is empty)."
    return (
        f"Distances are rounded up to multiples of {rules.distance_step} (`disclosure.distance_step`)."
        if rules.distance_step > 1
        else "Distances are exact (`disclosure.distance_step: 1`).",
        "Hits carry the label, and others may filter by it (`disclosure.labels: true`)."
        if rules.labels
        else "Hits carry no label, and others may not filter by it (`disclosure.labels: false`).",
        columns if rules.attributes else none,
        group if rules.minimum_group else "A filter may select a single patient (`disclosure.minimum_group: 0`).",
    )


def _queries(facts: HomeFacts) -> DataFlow:
    asked = ", ".join(facts.asked_sites)
    return DataFlow(
        "this site's own queries",
        "the code of an image, filters, the number of hits wanted, a pseudonym of the user; never the image",
        f"{asked}; sealed, through the server" if asked else "no site yet: none is confirmed",
        leaves=bool(asked),
        limits=(
            "Only confirmed sites are asked. This site's own users have no quota.",
            "With --epsilon a query sends a class's code by randomised response instead of the image's own.",
        ),
        classes=("queries",),
    )


def _consults(facts: HomeFacts) -> DataFlow:
    rules = facts.settings.disclosure
    accepts = rules.consults and rules.answers
    return DataFlow(
        "requests for a consult",
        "the random name of a hit and a note that a person wrote; back come yes or no, and a text",
        "the confirmed site that has the case; sealed, through the server",
        leaves=bool(facts.asked_sites),
        limits=(
            "A person writes each note and each answer. ynet cannot check it: a rule of the hospital must.",
            "Requests of the sites that are answered are accepted (`disclosure.consults: true`);"
            " yes or no, and the text, count as answers."
            if accepts
            else "Requests of other sites are refused (`disclosure.consults` or `disclosure.answers` is false).",
        ),
        classes=("consults",),
    )


def _upkeep(facts: HomeFacts) -> DataFlow:
    return DataFlow(
        "membership and upkeep",
        "signing requests, versions, the number of training cases, sealing keys, names of open tasks, heads of the"
        " audit log, reasons of failed tasks, requests for files",
        SERVER,
        leaves=True,
        limits=(
            f"Once enrolled, one outbound connection to {facts.server.address}, mutual TLS 1.3; no inbound port.",
            "These messages name no patient, file or label.",
        ),
        classes=(
            "enrolment",
            "certificates",
            "greetings",
            "sealing keys",
            "audit heads",
            "task failures",
            "requests",
        ),
    )


_EVERY: tuple[Callable[[HomeFacts], DataFlow], ...] = (
    _weights,
    _moments,
    _scores,
    _answers,
    _queries,
    _consults,
    _upkeep,
)
