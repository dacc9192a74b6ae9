"""A site's report on one round: what it sends beside the update."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flwr.app import MetricRecord

from ynet.federation.records import CASES, CONFIG, LEDGER, METRICS
from ynet.scores import from_wire
from ynet.trust.ledger import ChainHead
from ynet_server.rounds.conversation import SiteReply

CHANGE, LATE_BY = "change", "late"


class SiteReport(NamedTuple):
    """A site's report on one round."""

    site: str
    cases: int
    figures: Mapping[str, float]
    ledger: str  # how far its privacy ledger goes; empty without one

    def with_change(self, change: float) -> "SiteReport":
        """Add what the server measured: the distance of the site's weights from those that it was sent."""
        return self._replace(figures={**self.figures, CHANGE: round(change, 6)})


def with_staleness(report: SiteReport, staleness: int) -> SiteReport:
    """Add by how many rounds the update was late."""
    return report._replace(figures={**report.figures, LATE_BY: float(staleness)})


def report_of(site: str, reply: SiteReply) -> SiteReport:
    """The report in an accepted reply. Raises KeyError."""
    cases: Any = reply.content.metric_records[METRICS][CASES]
    return SiteReport(site, int(cases), figures(reply), _ledger(reply))


def figures(reply: SiteReply) -> dict[str, float]:
    """The metrics of a reply. Raises KeyError."""
    record: MetricRecord = reply.content.metric_records[METRICS]
    return {key: round(float(value), 6) for key, value in record.items() if not isinstance(value, list)}


def scores(reply: SiteReply, classes: Sequence[str], regions: Sequence[str] = ()) -> dict[str, Any]:
    """The scores of a reply and the counts behind them, by name; None for a score without cases.

    Raises KeyError, ValueError, TypeError.
    """
    record: MetricRecord = reply.content.metric_records[METRICS]
    cases: Any = record[CASES]
    return {**from_wire(record, classes, regions), CASES: int(cases)}


def ledgers(reports: Sequence[SiteReport]) -> dict[str, dict[str, str]]:
    """The positions of the sites' ledgers, by site, as an event stores them; empty without ledgers."""
    found = {one.site: one.ledger for one in reports if one.ledger}
    return {"ledgers": found} if found else {}


def _ledger(reply: SiteReply) -> str:
    try:
        return ChainHead.from_text(str(reply.content.config_records[CONFIG][LEDGER])).to_text()
    except (KeyError, ValueError):
        return ""
