"""Queries: what a site finds by itself, and how it puts the other sites' answers together."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.search.ranking import Hit, MergedHit, merge_many
from ynet.trust.identity import SITE_NAME
from ynet_client.gallery import filters
from ynet_client.gallery.filters import Filters
from ynet_client.membership.peers import UNCONFIRMED
from ynet_client.retrieval import noise, wire
from ynet_client.retrieval.noise import Drawn, Noise
from ynet_client.retrieval.wire import MAX_K, Outcome, Query

if TYPE_CHECKING:
    from ynet.plan import Plan
    from ynet_client.adoption.model_check import ActiveModel
    from ynet_client.gallery.indexer import Archive, Encoded


@dataclass(frozen=True)
class Wanted:
    """What is asked about each image of a batch."""

    k: int = 10
    filters: Filters = Filters()  # noqa: RUF009 (frozen)
    radius: int | None = None  # bits
    is_one_per_patient: bool = False
    epsilon: float = 0.0  # of randomised response; 0: the true code is sent
    sites: tuple[str, ...] = ()  # who is asked; empty: all others


class Encoding(NamedTuple):
    """An image's code, and the model that made it."""

    model: "ActiveModel"
    encoded: "Encoded"


class Look(NamedTuple):
    """What a site finds by itself, and what it sends to find more."""

    model_id: str
    encoded: "Encoded"
    hits: list[Hit]  # by the true code, always
    sent: bytes  # the code that others are asked with
    noise: Noise | None = None


class Result(NamedTuple):
    """What is known of cases like the query."""

    hits: list[MergedHit]  # own and others', nearest first, at most k; of a noised query the others' alone
    by_site: dict[str, list[Hit]]  # each site's own list, the asking site's too
    outcomes: dict[str, Outcome]  # of every other site

    def of(self, *kinds: str) -> dict[str, str]:
        """The sites with such an outcome, and why."""
        return {site: outcome.reason for site, outcome in self.outcomes.items() if outcome.kind in kinds}


def check(wanted: Wanted) -> Wanted:
    """The same. Raises UserError, RefusedError when it cannot be asked."""
    if not 1 <= wanted.k <= MAX_K:
        why = f"it asks for {wanted.k} hits, not for 1 to {MAX_K}"
        raise RefusedError("a query was refused", why, f"ask for at most {MAX_K}")
    if wanted.radius is not None and not 0 <= wanted.radius <= 256:
        raise UserError("the query cannot be asked", f"the radius is {wanted.radius}", "say it in bits, 0 to 256")
    for site in wanted.sites:
        if not SITE_NAME.match(site):
            raise UserError("the query cannot be asked", f"{site[:40]!r} names no site", "say --sites A,B")
    filters.check(wanted.filters)
    return wanted


def encode(archive: "Archive", image: Path) -> Encoding:
    """An image under the model in use. Raises UserError."""
    return Encoding(archive.active(), archive.encode(image))


def segment(archive: "Archive", image: Path) -> dict[str, str]:
    """The lesion that the model in use predicts on an image, as `door.segment` says. Raises UserError."""
    (model_id, plan, *_), encoded = encode(archive, image)
    from PIL import Image  # loaded by now, with torch

    buffer = io.BytesIO()
    Image.fromarray(encoded.mask * 255).save(buffer, "PNG")
    return {"mask": base64.b64encode(buffer.getvalue()).decode(), "model": model_id, "plan": plan.name}


def look(
    archive: "Archive", drawn: Drawn, encodings: Sequence[Encoding], wanted: Wanted, *, is_detail_compared: bool
) -> list[Look]:
    """Search the site's own gallery for some images; an image's own file is no hit. Raises UserError.

    Where detail codes are not sent they are not compared here either: own cases would stand before all others' ties.
    """
    if len({one.model.id for one in encodings}) != 1:
        raise RefusedError("the query was not asked", "the model was switched meanwhile", "ask again")
    (model, _), encoded = encodings[0], [one.encoded for one in encodings]
    found = archive.gallery.search(
        model.id,
        [one.code for one in encoded],
        wanted.k,
        filters=wanted.filters,
        details=[one.detail for one in encoded] if is_detail_compared else [],
        radius=wanted.radius,
        is_one_per_patient=wanted.is_one_per_patient,
        exclude_sha256=[one.sha256 for one in encoded],
    )
    if not wanted.epsilon:
        return [Look(model.id, one, hits, one.code) for one, hits in zip(encoded, found, strict=True)]
    epsilon, targets = noise.check(wanted.epsilon, model.plan.recipe), target_codes(model.plan)
    described = noise.describe(epsilon, len(targets))
    sent = [drawn.code(one.sha256, model.id, one.code, targets, epsilon) for one in encoded]
    return [Look(model.id, *each, described) for each in zip(encoded, found, sent, strict=True)]


def target_codes(plan: "Plan") -> list[bytes]:
    """The classes' target codes: the codebook that all sites of a plan share."""
    from ynet.learning import hashing  # torch: loaded by now

    book = hashing.codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed)
    return [row.tobytes() for row in hashing.pack(book)]


def question(looks: Sequence[Look], wanted: Wanted, *, is_detail_sent: bool) -> Query:
    """What the other sites are asked. A noised query has no detail code, which would undo the noise."""
    details = tuple(one.encoded.detail for one in looks) if is_detail_sent and not wanted.epsilon else ()
    codes = tuple(one.sent for one in looks)
    kept, radius = wanted.filters, wanted.radius
    return Query(looks[0].model_id, codes, wanted.k, kept, details, radius, wanted.is_one_per_patient)


def outcomes(own_site: str, answers: hub.Answers, query: Query) -> dict[str, Outcome]:
    """What became of the query at every other site. No site answers twice, or in the name of the asking one."""
    silent = {
        "missing": "not connected",
        "late": "no answer in time",
        "busy": "too much to do",
        "unreadable": "what was sealed could not be opened",
        "unconfirmed": UNCONFIRMED,
    }
    found: dict[str, Outcome] = {}
    for one in answers.answers:
        if one.site != own_site and one.site not in found and SITE_NAME.match(one.site):
            found[one.site] = wire.read_outcome(one.body, query)
    for kind, why in silent.items():
        for site in getattr(answers, kind):
            if site != own_site and SITE_NAME.match(site):
                found.setdefault(site, Outcome(kind, why))
    return found


def combine(own_site: str, looks: Sequence[Look], outcomes: Mapping[str, Outcome], k: int) -> list[Result]:
    """All sites' hits for each image of the batch in one ranking, the same that one pooled index would give.

    Of a noised query own hits stand apart: they were searched for by another code.
    """
    others = {site: [list(hits) for hits in one.hits] for site, one in outcomes.items() if one.kind == "found"}
    by_site = {own_site: [list(look.hits) for look in looks], **others}
    is_noised = any(look.noise for look in looks)
    merged = merge_many(others if is_noised else by_site, [look.sent for look in looks], k)
    return [
        Result(hits, {site: per_code[number] for site, per_code in by_site.items()}, kinds(outcomes, number))
        for number, hits in enumerate(merged)
    ]


def kinds(outcomes: Mapping[str, Outcome], number: int) -> dict[str, Outcome]:
    """Outcomes of one image, without its hits; where nothing was found it is `empty`, which is not `suppressed`."""
    return {
        site: Outcome("empty", "nothing was found")
        if one.kind == "found" and not one.hits[number]
        else one._replace(hits=())
        for site, one in outcomes.items()
    }


def describe(site: str, archive: "Archive", look: Look, result: Result) -> dict[str, Any]:
    """The result as `ynet-client query --json` prints it; own hits with the path of their image."""
    own = [_shown(site, archive, site, hit) for hit in result.by_site[site]] if look.noise else []
    hits = [_shown(site, archive, where, hit) for where, hit in result.hits]
    return {
        "site": site,
        "model": look.model_id,
        "code": look.encoded.code.hex(),
        "hits": [{"rank": rank, **one} for rank, one in enumerate(hits, start=1)],
        "own": [{"rank": rank, **one} for rank, one in enumerate(own, start=1)],
        "noise": look.noise._asdict() if look.noise else None,
        "answered": {name: len(found) for name, found in result.by_site.items() if name != site},
        "outcomes": {name: one.kind for name, one in result.outcomes.items()},
        "missing": list(result.of("missing")),
        "late": list(result.of("late")),
        "busy": list(result.of("busy")),
        "suppressed": list(result.of("suppressed")),
        "refused": {name: one.code for name, one in result.outcomes.items() if one.kind == "refused"},
        "other_model": {name: one.code for name, one in result.outcomes.items() if one.kind == "other_model"},
        "unconfirmed": list(result.of("unconfirmed")),
        "declined": result.of("refused", "other_model", "unreadable", "unconfirmed"),
    }


def _shown(site: str, archive: "Archive", where: str, hit: Hit) -> dict[str, Any]:
    entry = {
        "site": where,
        "distance": hit.distance,
        "detail": hit.detail,
        "label": hit.label,
        "ties": hit.ties,
        "token": hit.token.hex(),
    }
    return {**entry, "image": archive.gallery.case_of(hit.token).image} if where == site else entry
