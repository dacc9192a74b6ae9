"""What the page is told of a query: own hits, others' hits, labels by site, and what became of it at each site."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from ynet.errors import UserError
from ynet.search.ranking import Hit, merge
from ynet_client.asking import ASK_WITHIN_S, Answered
from ynet_client.retrieval.lookup import Look, Result, Wanted
from ynet_client.retrieval.wire import Outcome
from ynet_client.workbench.cases import OwnCases, describe

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

NOT_SHARED = ""
"""The label of a hit whose site tells none."""


def tell(site: str, archive: "Archive", own_cases: OwnCases, answered: Answered, wanted: Wanted) -> dict[str, Any]:
    """The answer for one image; JSON. Raises UserError."""
    (look,), (result,) = answered.looks, answered.results
    ranks = {(one.site, one.hit.token): rank for rank, one in enumerate(result.hits, start=1)}
    elsewhere = {name: hits for name, hits in result.by_site.items() if name != site}
    own = result.by_site.get(site, [])[: wanted.k]
    others = merge(elsewhere, look.sent, wanted.k)
    return {
        "site": site,
        "asked": asked(wanted),
        "model": look.model_id,
        "plan": archive.active().plan.name,
        "bits": archive.active().plan.network.code_bits,
        "own": [{**_hit(site, hit, ranks), **_case(archive, own_cases, hit)} for hit in own],
        "others": [_hit(one.site, one.hit, ranks) for one in others],
        "spread": spread(site, result),
        "outcomes": outcomes(result),
        "note": answered.note,
        "noise": _noise(look),
    }


def asked(wanted: Wanted) -> list[str]:
    """What was asked for, in words, beside the image: for a report that must say what it left out."""
    filters = wanted.filters
    words = [f"{wanted.k} nearest cases of each site"]
    words += [f"labelled {' or '.join(filters.labels)}"] if filters.labels else []
    words += [f"{name} is {value}" for name, value in filters.attributes]
    words += [f"of {filters.since} or later"] if filters.since else []
    words += [f"of {filters.until} or earlier"] if filters.until else []
    words += [f"of the split {filters.split}"] if filters.split else []
    words += [f"no farther than {wanted.radius} bits"] if wanted.radius is not None else []
    words += ["each patient once"] if wanted.is_one_per_patient else []
    words += [f"asked of {', '.join(wanted.sites)} only"] if wanted.sites else []
    return words


def spread(site: str, result: Result) -> list[dict[str, Any]]:
    """Of each site that found something, its hits by label, the most frequent first; the own site first."""
    names = sorted(result.by_site, key=lambda name: (name != site, name))
    counted = ((name, Counter(hit.label or NOT_SHARED for hit in result.by_site[name])) for name in names)
    return [
        {"site": name, "is_own": name == site, "labels": counts.most_common(), "total": counts.total()}
        for name, counts in counted
    ]


def outcomes(result: Result) -> list[dict[str, str]]:
    """Of each other site one line; not answering has several meanings, and each is said."""
    return [
        {"site": name, "kind": one.kind, "words": _words(one, len(result.by_site.get(name, ())))}
        for name, one in sorted(result.outcomes.items())
    ]


def _words(outcome: Outcome, hits: int) -> str:
    match outcome.kind:
        case "found":
            return "1 case" if hits == 1 else f"{hits} cases"
        case "empty":
            return "Nothing found: it looked, and no case there fits."
        case "suppressed":
            return "May not say: so few patients fit that an answer could point at one."
        case "refused":
            return f"Refused: {outcome.reason}."
        case "other_model":
            return "Not comparable: its archive is still indexed with another model."
        case "late":
            return f"Late: no answer within {ASK_WITHIN_S:g} seconds."
        case "missing":
            return "Away: it is not connected."
        case "busy":
            return "Busy: it had too much to do."
        case "unconfirmed":
            return "Not asked: this site's admin has not confirmed it yet (ynet-client sites)."
    return f"Not understood: {outcome.reason or 'its answer could not be read'}."


def _hit(site: str, hit: Hit, ranks: dict[tuple[str, bytes], int]) -> dict[str, Any]:
    return {
        "site": site,
        "distance": hit.distance,
        "label": hit.label,
        "ties": hit.ties,
        "token": hit.token.hex(),
        "rank": ranks.get((site, hit.token)),
    }


def _case(archive: "Archive", own_cases: OwnCases, hit: Hit) -> dict[str, Any]:
    image = archive.gallery.case_of(hit.token).image
    try:
        _, case = own_cases.find(archive, image)
    except UserError:  # the manifest has lost it, and `ynet-client index` has not been there since
        return {"image": image, "label": hit.label, "split": "", "has_mask": False, "attributes": {}}
    return describe(case)


def _noise(look: Look) -> dict[str, Any] | None:
    return dict(look.noise._asdict()) if look.noise else None
