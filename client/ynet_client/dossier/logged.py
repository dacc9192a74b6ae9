"""What the audit log says about a site: since when it takes part, what it trained, whom it asked and answered."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ynet.federation.records import TRAIN
from ynet_client.audit import Entry

QUESTIONS = ("query", "consult")


@dataclass
class TrainedPlan:
    """The rounds of one plan that this site has trained."""

    rounds: int  # a repeated round counts again
    first: float  # seconds since 1970
    last: float


@dataclass
class Exchanges:
    """The questions between this site and one other site, in one direction."""

    queries: int = 0
    codes: int = 0
    hits: int = 0
    consults: int = 0
    without_answer: int = 0  # refused, suppressed, too late and so on
    first: float = 0.0  # seconds since 1970
    last: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the counts as `ynet-client dossier --json` prints them."""
        return asdict(self)


@dataclass
class LoggedUse:
    """The counts of the whole log."""

    joined: float | None = None  # seconds since 1970, the oldest entry of the kind
    model: str = ""  # the model that was adopted last
    model_since: float | None = None
    plans: dict[str, TrainedPlan] = field(default_factory=dict)
    asked: dict[str, Exchanges] = field(default_factory=dict)  # by the other site
    answered: dict[str, Exchanges] = field(default_factory=dict)
    first_number: int = 0  # of the oldest entry that is still there
    entries: int = 0


def summarise(entries: Iterable[Entry]) -> LoggedUse:
    """Count the entries of a log, read once from the first to the last."""
    found = LoggedUse()
    for entry in entries:
        found.first_number = found.first_number or entry.number
        found.entries += 1
        if entry.direction == "did":
            _act(found, entry)
        elif entry.kind in QUESTIONS:
            _question(found.asked if entry.direction == "asked" else found.answered, entry)
    return found


def _act(found: LoggedUse, entry: Entry) -> None:
    is_done = entry.outcomes.get("") == "done"
    if entry.kind == "joined" and found.joined is None:
        found.joined = entry.time
    elif entry.kind == "model" and is_done:
        found.model, found.model_since = entry.about, entry.time
    elif entry.kind == "task" and is_done:
        kind, _, rest = entry.about.partition(", ")
        if kind == TRAIN:
            plan = rest.rpartition("plan ")[2]
            trained = found.plans.setdefault(plan, TrainedPlan(0, entry.time, entry.time))
            trained.rounds, trained.last = trained.rounds + 1, entry.time


def _question(by_site: dict[str, Exchanges], entry: Entry) -> None:
    for site, outcome in entry.outcomes.items():
        one = by_site.setdefault(site, Exchanges(first=entry.time))
        one.last = entry.time
        one.hits += entry.hits.get(site, 0)
        if entry.kind == "query":
            one.queries, one.codes = one.queries + entry.count, one.codes + entry.codes
        else:
            one.consults += entry.count
        if outcome not in ("found", "empty", "kept"):
            one.without_answer += entry.count
