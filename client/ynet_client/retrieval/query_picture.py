"""A query's result as a picture. Own cases are opened for it; of other sites' cases nothing is here but the hit."""

from PIL import Image

from ynet.data import images
from ynet.data.manifest import Case, Manifest
from ynet.data.regions import drawn_on
from ynet.plan import Plan
from ynet.search.hit import Hit
from ynet_client.gallery.indexer import Archive
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.picture import PictureHits, QueryImage, Tile, draw

SHOWN = 10
"""Own hits, and others' hits, in the picture."""
REMARKS = {
    "Nothing found": "empty",
    "Suppressed, the group is too small": "suppressed",
    "Refused": "refused",
    "Other model": "other_model",
    "Not understood": "unreadable",
    "Not asked": "unconfirmed",
}
"""The outcomes that have a line of their own below the hits."""


def draw_result(archive: Archive, result: Result, name: str) -> Image.Image:
    """Draw the query with its predicted mask, own hits as thumbnails, others' as cards. Raises UserError."""
    plan, manifest = archive.active().plan, archive.manifest()
    cases = {case.image: case for case in manifest.cases}
    own = [
        _tile(manifest, cases[archive.gallery.case_of(hit.token).image], hit, plan)
        for hit in result.by_site[result.site][:SHOWN]
    ]
    query = QueryImage(result.own.encoded.pixels, result.own.encoded.mask, name, result.own.encoded.regions)
    drawing = PictureHits(own, result.elsewhere(SHOWN), result.of("missing", "late", "busy"), _remarks(result))
    return draw(result.site, query, drawing, plan.network.code_bits)


def _remarks(result: Result) -> list[str]:
    remarks = []
    for title, kind in REMARKS.items():
        sites = result.of(kind)
        is_plain = kind in ("empty", "suppressed")
        named = ", ".join(site if is_plain else f"{site} ({why})" for site, why in sites.items())
        remarks += [f"{title}: {named}"] if sites else []
    if noise := result.own.noise:
        remarks.append(
            f"The others were asked with noise, epsilon {noise.epsilon:g}: their cases are like a class's centre, "
            f"the nearest class's with probability {noise.kept_share:.2f}"
        )
    return remarks


def _tile(manifest: Manifest, case: Case, hit: Hit, plan: Plan) -> Tile:
    image = manifest.path_of(case.image)
    pixels = images.decode(image, plan.image.channels)
    return Tile(pixels, hit, drawn_on(manifest, case, plan.regions))
