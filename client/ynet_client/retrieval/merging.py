"""Read the other sites' answers to a query, rank all hits as one gallery would, and write the answer for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ynet.federation import hub_pb2 as hub
from ynet.search.hit import Hit
from ynet.search.ranking import merge as merge_hits
from ynet.search.ranking import merge_many
from ynet.trust.identity import SITE_NAME
from ynet_client.membership.peers import UNCONFIRMED
from ynet_client.retrieval import wire
from ynet_client.retrieval.own_search import OwnSearch
from ynet_client.retrieval.results import Answer, Outcome
from ynet_client.retrieval.wire import CodedQuery, SiteOutcome

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

SILENT = {
    "missing": "not connected",
    "late": "no answer in time",
    "busy": "too much to do",
    "unreadable": "what was sealed could not be opened",
    "unconfirmed": UNCONFIRMED,
}
"""Why there is no answer, by the field of the hub's message that names such sites."""


@dataclass(frozen=True)
class Result:
    """All that is known of the cases like one image. Every hit has its site; one of the first k has its rank."""

    site: str  # the one that asks
    own: OwnSearch
    hits: list[Hit]  # own and others', nearest first, at most k; of a noised query only others'
    by_site: dict[str, list[Hit]]  # each site's own list, the asking site's too
    outcomes: dict[str, SiteOutcome]  # of every other site
    note: str = ""  # why no other site was asked, or empty

    def of(self, *kinds: str) -> dict[str, str]:
        """Return the sites with one of these outcomes, and the reason of each."""
        return {site: outcome.reason for site, outcome in self.outcomes.items() if outcome.kind in kinds}

    def elsewhere(self, k: int) -> list[Hit]:
        """Return the k nearest hits of the other sites; their ranks are those over all sites."""
        others = {site: hits for site, hits in self.by_site.items() if site != self.site}
        ranks = {(hit.site, hit.token): hit.rank for hit in self.hits}
        return [hit._replace(rank=ranks.get((hit.site, hit.token))) for hit in merge_hits(others, self.own.sent, k)]


def outcomes(own_site: str, answers: hub.Answers, coded: CodedQuery) -> dict[str, SiteOutcome]:
    """Read the outcome at every other site: a site's first answer counts, and none in the asking site's name."""
    found: dict[str, SiteOutcome] = {}
    for one in answers.answers:
        if one.site != own_site and one.site not in found and SITE_NAME.match(one.site):
            found[one.site] = wire.read_outcome(one.body, coded, one.site)
    for kind, why in SILENT.items():
        for site in getattr(answers, kind):
            if site != own_site and SITE_NAME.match(site):
                found.setdefault(site, SiteOutcome(kind, why))
    return found


def merge(
    own_site: str, own: Sequence[OwnSearch], outcomes: Mapping[str, SiteOutcome], k: int, note: str = ""
) -> list[Result]:
    """Rank the hits of all sites for each image, in the order that one pooled gallery would give.

    Own hits of a noised query are not ranked: they were found by another code than the others'.
    """
    others = {site: one.hits for site, one in outcomes.items() if one.kind == "found"}
    by_site: dict[str, Sequence[Sequence[Hit]]] = {own_site: [one.hits for one in own], **others}
    is_noised = any(one.noise for one in own)
    merged = merge_many(others if is_noised else by_site, [one.sent for one in own], k)
    found = [
        _ranked({site: per_image[number] for site, per_image in by_site.items()}, hits)
        for number, hits in enumerate(merged)
    ]
    return [
        Result(own_site, one, merged[number], found[number], of_image(outcomes, number), note)
        for number, one in enumerate(own)
    ]


def of_image(outcomes: Mapping[str, SiteOutcome], number: int) -> dict[str, SiteOutcome]:
    """Return the outcomes of one image, without hits; `empty` for a site that has no case like it."""
    return {
        site: SiteOutcome("empty", "nothing was found")
        if one.kind == "found" and not one.hits[number]
        else one._replace(hits=())
        for site, one in outcomes.items()
    }


def answer(archive: "Archive", result: Result, name: str = "") -> Answer:
    """Return the answer for a person of this site: an own case has the path of its image. `name`: of the image file."""
    own = result.by_site[result.site] if result.own.noise else []
    return Answer(
        site=result.site,
        name=name,
        hits=tuple(_located(result.site, archive, hit) for hit in result.hits),
        own=tuple(_located(result.site, archive, hit._replace(rank=rank)) for rank, hit in enumerate(own, start=1)),
        outcomes={site: Outcome(one.kind) for site, one in result.outcomes.items()},
        reasons=result.of("refused", "other_model", "unreadable", "unconfirmed"),
        codes={site: one.code for site, one in result.outcomes.items() if one.kind in ("refused", "other_model")},
        answered={site: len(hits) for site, hits in result.by_site.items() if site != result.site},
        model=result.own.model_id,
        code=result.own.encoded.code.hex(),
        noise=result.own.noise,
        note=result.note,
    )


def _ranked(by_site: Mapping[str, Sequence[Hit]], merged: Sequence[Hit]) -> dict[str, list[Hit]]:
    """Return the hits of each site with its name, and those among the merged hits with their ranks."""
    ranked: dict[str, dict[bytes, Hit]] = {}
    for hit in merged:
        ranked.setdefault(hit.site, {})[hit.token] = hit
    return {
        site: [ranked.get(site, {}).get(hit.token) or (hit if hit.site else hit._replace(site=site)) for hit in hits]
        for site, hits in by_site.items()
    }


def _located(site: str, archive: "Archive", hit: Hit) -> Hit:
    return hit._replace(image=archive.gallery.case_of(hit.token).image) if hit.site == site else hit
