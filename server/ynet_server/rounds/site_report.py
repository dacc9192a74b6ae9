"""What a site says of its round, beside the update."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flwr.app import MetricRecord

from ynet.federation.records import CASES, CONFIG, LEDGER, METRICS
from ynet.scores import from_wire
from ynet.trust.ledger import ChainHead
from ynet_server.rounds.conversation import Reply

CHANGE, LATE_BY = "change", "late"


class Said(NamedTuple):
    """A site's word on one round."""

    site: str
    cases: int
    figures: Mapping[str, float]
    ledger: str  # how far its privacy ledger goes; empty without one

    def with_change(self, change: float) -> "Said":
        """With what the server measured: how far the site's weights are from those it was sent."""
        return self._replace(figures={**self.figures, CHANGE: round(change, 6)})


def said_late(said: "Said", staleness: int) -> "Said":
    """With how many rounds the update was behind."""
    return said._replace(figures={**said.figures, LATE_BY: float(staleness)})


def said_by(site: str, reply: Reply) -> Said:
    """What a reply that was accepted says. Raises KeyError."""
    cases: Any = reply.content.metric_records[METRICS][CASES]
    return Said(site, int(cases), figures(reply), _ledger(reply))


def figures(reply: Reply) -> dict[str, float]:
    """Its metrics. Raises KeyError."""
    record: MetricRecord = reply.content.metric_records[METRICS]
    return {key: round(float(value), 6) for key, value in record.items() if not isinstance(value, list)}


def scores(reply: Reply, classes: Sequence[str]) -> dict[str, Any]:
    """Its scores and the counts that they rest on, each with its name; None for a score of nothing.

    Raises KeyError, ValueError, TypeError.
    """
    record: MetricRecord = reply.content.metric_records[METRICS]
    cases: Any = record[CASES]
    return {**from_wire(record, classes), CASES: int(cases)}


def ledgers(said: Sequence[Said]) -> dict[str, dict[str, str]]:
    """How far the ledgers go, by site, as it stands in an event; nothing where nobody has one."""
    found = {one.site: one.ledger for one in said if one.ledger}
    return {"ledgers": found} if found else {}


def _ledger(reply: Reply) -> str:
    try:
        return ChainHead.from_text(str(reply.content.config_records[CONFIG][LEDGER])).to_text()
    except (KeyError, ValueError):
        return ""
