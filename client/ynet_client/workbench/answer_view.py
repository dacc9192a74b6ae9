"""The answer to a query as the page shows it: own hits, others' hits, labels by site, the outcome at each site."""

from collections import Counter
from typing import TYPE_CHECKING, Any

from ynet.errors import UserError
from ynet.search.hit import Hit
from ynet_client.asking import ASK_WITHIN_S
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.wire import SiteOutcome
from ynet_client.workbench.cases import OwnCases, describe

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive


def shown(archive: "Archive", own_cases: OwnCases, result: Result, query: Query) -> dict[str, Any]:
    """Return the answer about one image as JSON for the page. Raises UserError."""
    noise, plan = result.own.noise, archive.active().plan
    own = result.by_site.get(result.site, [])[: query.k]
    return {
        "site": result.site,
        "asked": asked(query),
        "model": result.own.model_id,
        "plan": plan.name,
        "bits": plan.network.code_bits,
        "own": [{**hit.to_json(), **_case(archive, own_cases, hit)} for hit in own],
        "others": [hit.to_json() for hit in result.elsewhere(query.k)],
        "spread": spread(result),
        "outcomes": outcomes(result),
        "note": result.note,
        "noise": noise._asdict() if noise else None,
    }


def asked(query: Query) -> list[str]:
    """Return the query in words: a report must say which cases were left out."""
    filters = query.filters
    words = [f"{query.k} nearest cases of each site"]
    words += [f"labelled {' or '.join(filters.labels)}"] if filters.labels else []
    words += [f"{name} is {value}" for name, value in filters.attributes]
    words += [f"of {filters.since} or later"] if filters.since else []
    words += [f"of {filters.until} or earlier"] if filters.until else []
    words += [f"of the split {filters.split}"] if filters.split else []
    words += [f"no farther than {query.radius} bits"] if query.radius is not None else []
    words += ["each patient once"] if query.one_per_patient else []
    words += [f"asked of {', '.join(query.sites)} only"] if query.sites else []
    return words


def spread(result: Result) -> list[dict[str, Any]]:
    """Count each site's hits by label, the most frequent first; the own site first.

    The label is None where the site does not share it, and empty for cases without one.
    """
    names = sorted(result.by_site, key=lambda name: (name != result.site, name))
    counted = ((name, Counter(hit.label for hit in result.by_site[name])) for name in names)
    return [
        {"site": name, "is_own": name == result.site, "labels": counts.most_common(), "total": counts.total()}
        for name, counts in counted
    ]


def outcomes(result: Result) -> list[dict[str, str]]:
    """Return one line for each other site; each way of not answering has its own words."""
    return [
        {"site": name, "kind": one.kind, "words": _words(one, len(result.by_site.get(name, ())))}
        for name, one in sorted(result.outcomes.items())
    ]


def _words(outcome: SiteOutcome, hits: int) -> str:
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


def _case(archive: "Archive", own_cases: OwnCases, hit: Hit) -> dict[str, Any]:
    image = archive.gallery.case_of(hit.token).image
    try:
        _, case = own_cases.find(archive, image)
    except UserError:  # it is no longer in the manifest, and `ynet-client index` has not run since
        return {"image": image, "label": hit.label, "split": "", "has_mask": False, "attributes": {}}
    return describe(case)
