"""A query's result as a picture: this site's own cases are opened for it, of the others' there is nothing to open."""

from PIL import Image

from ynet.data import images
from ynet.data.manifest import Case, Manifest
from ynet.plan import Plan
from ynet.search.ranking import Hit, merge
from ynet_client.gallery.indexer import Archive
from ynet_client.retrieval.lookup import Look, Result
from ynet_client.retrieval.picture import Answers, OtherHit, OwnHit, QueryImage, draw

SHOWN = 10
"""Own hits, and others' hits, in the picture."""


def draw_result(archive: Archive, site: str, look: Look, result: Result, name: str) -> Image.Image:
    """The query with its predicted mask, own hits as thumbnails, others' as cards. Raises UserError."""
    plan = archive.active().plan
    manifest = archive.manifest()
    cases = {case.image: case for case in manifest.cases}
    ranks = {(one.site, one.hit.token): rank for rank, one in enumerate(result.hits, start=1)}
    own = [
        _own(manifest, cases[archive.gallery.case_of(hit.token).image], hit, ranks.get((site, hit.token)), plan)
        for hit in result.by_site[site][:SHOWN]
    ]
    elsewhere = {name: hits for name, hits in result.by_site.items() if name != site}
    others = [
        OtherHit(
            one.site, one.hit.label, one.hit.distance, one.hit.ties, one.hit.token, ranks.get((one.site, one.hit.token))
        )
        for one in merge(elsewhere, look.sent, SHOWN)
    ]
    silent = result.of("missing", "late", "busy")
    query = QueryImage(look.encoded.pixels, look.encoded.mask, name)
    return draw(site, query, Answers(own, others, silent, _remarks(look, result)), plan.network.code_bits)


def _remarks(look: Look, result: Result) -> list[str]:
    """What stands below the hits: each way of not answering in a line of its own, for they mean different things."""
    said = {
        "Nothing found": "empty",
        "Suppressed, the group is too small": "suppressed",
        "Refused": "refused",
        "Other model": "other_model",
        "Not understood": "unreadable",
        "Not asked": "unconfirmed",
    }
    remarks = []
    for title, kind in said.items():
        sites = result.of(kind)
        is_plain = kind in ("empty", "suppressed")
        named = ", ".join(site if is_plain else f"{site} ({why})" for site, why in sites.items())
        remarks += [f"{title}: {named}"] if sites else []
    if look.noise:
        remarks.append(
            f"The others were asked with noise, epsilon {look.noise.epsilon:g}: their cases are like a class's centre, "
            f"the nearest class's with probability {look.noise.kept_share:.2f}"
        )
    return remarks


def _own(manifest: Manifest, case: Case, hit: Hit, rank: int | None, plan: Plan) -> OwnHit:
    image = manifest.path_of(case.image)
    pixels = images.decode(image, plan.image.channels)
    mask = images.decode_mask(manifest.path_of(case.mask), image) if case.mask else None
    return OwnHit(pixels, hit.label, hit.distance, hit.ties, rank, mask)
