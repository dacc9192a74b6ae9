"""Search this site's own gallery for the images of a query, and make the codes that the other sites are asked with."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ynet.errors import RefusedError
from ynet.search.hit import Hit
from ynet_client.retrieval import noise
from ynet_client.retrieval.noise import Drawn, Noise
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.wire import CodedQuery

if TYPE_CHECKING:
    from ynet_client.adoption.model_check import ActiveModel
    from ynet_client.gallery.indexer import Archive, EncodedImage


class Encoding(NamedTuple):
    """An image's code, and the model that made it."""

    model: "ActiveModel"
    encoded: "EncodedImage"


class OwnSearch(NamedTuple):
    """The result of one image in the own gallery, and the code for the other sites."""

    model_id: str
    encoded: "EncodedImage"
    hits: list[Hit]  # by the true code, always
    sent: bytes  # the code that others are asked with
    noise: Noise | None = None


def encode(archive: "Archive", image: Path) -> Encoding:
    """Encode an image with the model in use. Raises UserError."""
    return Encoding(archive.active(), archive.encode(image))


def search(archive: "Archive", drawn: Drawn, encodings: Sequence[Encoding], query: Query) -> list[OwnSearch]:
    """Search the own gallery for each image; the image's own file is not a hit. Raises UserError."""
    if len({one.model.id for one in encodings}) != 1:
        raise RefusedError("the query was not asked", "the model was switched during the query", "ask again")
    (model, _), encoded = encodings[0], [one.encoded for one in encodings]
    found = archive.gallery.search(
        model.id,
        [one.code for one in encoded],
        query.k,
        filters=query.filters,
        radius=query.radius,
        is_one_per_patient=query.one_per_patient,
        exclude_sha256=[one.sha256 for one in encoded],
    )
    if query.epsilon is None:
        return [OwnSearch(model.id, one, hits, one.code) for one, hits in zip(encoded, found, strict=True)]
    epsilon, targets = noise.check(query.epsilon, model.plan), target_codes(model)
    described = noise.describe(epsilon, len(targets))
    sent = [drawn.code(one.sha256, model.id, one.code, targets, epsilon) for one in encoded]
    return [OwnSearch(model.id, *each, described) for each in zip(encoded, found, sent, strict=True)]


def target_codes(model: "ActiveModel") -> list[bytes]:
    """Return the code of each class's centre, the same at all sites.

    It is a part of the model with a code from moments, and else in the codebook of the plan.
    """
    from ynet.learning import hashing  # torch, which the search has loaded

    plan = model.plan
    if model.net.moment_code is not None:
        return [row.tobytes() for row in hashing.pack(model.net.moment_code.class_codes)]
    book = hashing.codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed)
    return [row.tobytes() for row in hashing.pack(book)]


def coded(found: Sequence[OwnSearch], query: Query) -> CodedQuery:
    """Return what the other sites are asked."""
    return CodedQuery(found[0].model_id, tuple(one.sent for one in found), query)
