"""Example queries for a report's page: one per site and class, chosen by a digest, independent of the result."""

import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ynet.data import images
from ynet.data.manifest import Case, Manifest
from ynet.data.prepare import prepare, restore_mask
from ynet.data.regions import drawn_on, packed
from ynet.learning.evaluate import encode
from ynet.learning.hashing import hamming, pack
from ynet.learning.model import YNet
from ynet.plan import Plan
from ynet_client.retrieval.overlay import REGION_COLOURS, outlined
from ynet_client.retrieval.picture import shown
from ynet_client.training.site_data import LocalSite
from ynet_lab.report_page import Example, ExampleHit

HITS = 5
MOST_SITES = 8
QUERY_SIDE, HIT_SIDE = 220, 120
PREDICTED = (84, 190, 255)  # the true mask is yellow


class _Held(NamedTuple):
    """A gallery case with its code."""

    site: str
    manifest: Manifest
    case: Case
    code: npt.NDArray[np.uint8]


def examples(net: YNet, plan: Plan, sites: Mapping[str, LocalSite]) -> list[Example]:
    """Return one query of each class from each of the first sites, with its nearest cases over all sites."""
    gallery = [held for name, site in sites.items() for held in _gallery(net, plan, name, site)]
    return [example for name in list(sites)[:MOST_SITES] for example in _of_site(net, plan, name, sites[name], gallery)]


def _gallery(net: YNet, plan: Plan, name: str, site: LocalSite) -> Iterator[_Held]:
    manifest, (cases, _) = site.manifest(plan.training.seed), site.cases(plan)
    if len(cases):
        codes = encode(net, cases, site.device).codes
        yield from (_Held(name, manifest, case, code) for case, code in zip(manifest.train, codes, strict=True))


def _of_site(net: YNet, plan: Plan, name: str, site: LocalSite, gallery: list[_Held]) -> Iterator[Example]:
    manifest = site.manifest(plan.training.seed)
    codes = np.stack([held.code for held in gallery])
    for label in plan.classes:
        of_class = [case for case in manifest.test if case.label == label]
        if not of_class:
            continue
        case = min(of_class, key=lambda case: _digest(case.image))
        code, picture = _query(net, plan, manifest, case)
        distances = hamming(code, codes)[0]
        nearest = sorted(range(len(gallery)), key=lambda i: (distances[i], _digest(gallery[i].case.image)))[:HITS]
        hits = [_hit(plan, gallery[i], int(distances[i]), label) for i in nearest]
        yield Example(name, label, picture, hits)


def _query(net: YNet, plan: Plan, manifest: Manifest, case: Case) -> tuple[npt.NDArray[np.uint8], bytes]:
    """Return a case's code, (1, bytes), and its picture with the true and the predicted mask."""
    pixels = images.decode(manifest.path_of(case.image), plan.image.channels)
    prepared = prepare(pixels, plan.image)
    output = net.cpu().read(torch.from_numpy(prepared.image)[None])
    predicted = (output.mask_logits[0] > 0).to(torch.uint8).numpy()
    full = np.stack([restore_mask(mask, prepared.region, *pixels.shape[1:]) for mask in predicted])
    picture = shown(pixels, QUERY_SIDE)
    picture = outlined(picture, packed(full), 0.0, 1.4, [PREDICTED] * len(REGION_COLOURS))
    return pack(output.code), _png(_with_mask(picture, manifest, case, plan))


def _hit(plan: Plan, held: _Held, distance: int, label: str) -> ExampleHit:
    picture = shown(images.decode(held.manifest.path_of(held.case.image), plan.image.channels), HIT_SIDE)
    is_relevant = held.case.label == label
    return ExampleHit(
        held.site, held.case.label, distance, is_relevant, _png(_with_mask(picture, held.manifest, held.case, plan))
    )


def _with_mask(picture: Image.Image, manifest: Manifest, case: Case, plan: Plan) -> Image.Image:
    mask = drawn_on(manifest, case, plan.regions)
    return picture if mask is None else outlined(picture, mask, 0.0, 1.4)


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
