"""Disclosure control: what a site's settings allow it to answer, and how coarsely.

It computes on a policy, a query and a gallery and has no state; `quotas` counts earlier queries.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ynet.federation.retrieval_pb2 import Refused
from ynet.search.hit import Hit
from ynet.search.ranking import TOKEN_BYTES, tie_keys
from ynet_client.gallery.filters import DATE, Filters
from ynet_client.gallery.gallery import Gallery
from ynet_client.retrieval.wire import CodedQuery, Reason
from ynet_client.settings import Disclosure


class RankedHit(NamedTuple):
    """A hit with a coarse distance, and its key in the total order."""

    rank: tuple[int, int, bytes]
    hit: Hit


def refusal(policy: Disclosure, from_site: str, coded: CodedQuery) -> Reason | None:
    """Return why a query is not answered, or None. `quotas` checks the quota."""
    query = coded.query
    if refused := site_refusal(policy, from_site):
        return refused
    if query.k > policy.max_k:
        return Refused.TOO_LARGE
    named = {name for name, _ in query.filters.attributes}
    named |= {DATE} if query.filters.since or query.filters.until else set()
    if not named <= set(policy.attributes) or (query.filters.labels and not policy.labels):
        return Refused.NOT_ALLOWED
    return None


def site_refusal(policy: Disclosure, from_site: str) -> Reason | None:
    """Return why a site gets no answer to anything, or None."""
    if not policy.answers:
        return Refused.NOT_ALLOWED
    if from_site in policy.deny or (policy.allow and from_site not in policy.allow):
        return Refused.NOT_ON_THE_LIST
    return None


def is_suppressed(policy: Disclosure, gallery: Gallery, model_id: str, filters: Filters) -> bool:
    """Return whether the filters admit too few patients, or exclude so few that subtraction would reveal them.

    Excluded are too few when there are fewer excluded cases than the minimum, or fewer patients of whom every case is
    excluded. A group of zero patients is suppressed too: a site does not say that a label does not occur.
    """
    everyone = gallery.count(model_id, Filters())
    group = gallery.count(model_id, filters) if filters.kinds else everyone
    excluded = (everyone.cases - group.cases, everyone.patients - group.patients)
    return group.patients < policy.minimum_group or any(0 < number < policy.minimum_group for number in excluded)


def hits(policy: Disclosure, gallery: Gallery, coded: CodedQuery) -> list[list[Hit]]:
    """Return the hits for each code of a query, no finer than the policy allows."""
    query = coded.query
    if policy.distance_step == 1:
        found = gallery.search(
            coded.model_id,
            coded.codes,
            query.k,
            filters=query.filters,
            radius=query.radius,
            is_one_per_patient=query.one_per_patient,
        )
    else:
        found = [_coarse_hits(policy.distance_step, gallery, coded, code) for code in coded.codes]
    return found if policy.labels else [[hit._replace(label=None) for hit in each] for each in found]


def coarse(distance: int, step: int, bits: int) -> int:
    """Round a distance up to a multiple of `step`, but not beyond the width of the code."""
    return min(-(-distance // step) * step, bits)


def _coarse_hits(step: int, gallery: Gallery, coded: CodedQuery, code: bytes) -> list[Hit]:
    """Return the first k hits of the total order over coarse distances.

    Three choices use the coarse distance: the cases within the radius, the nearest case of a patient, the first k.
    Each of them, made by the exact distance, would reveal the exact order.
    """
    query, bits = coded.query, 8 * len(code)
    radius = bits if query.radius is None else query.radius
    within = bits if radius >= bits else radius // step * step  # the last step within it
    farthest = within
    if not query.one_per_patient:
        nearest = _search(gallery, coded, code, query.k, within)
        if len(nearest) == query.k:
            farthest = coarse(nearest[-1].distance, step, bits)
    everything = gallery.count(coded.model_id, query.filters).cases or 1
    ranked = _ranked(_search(gallery, coded, code, everything, farthest), code, step)
    chosen = _first_of_each_patient(gallery, ranked) if query.one_per_patient else iter(ranked)
    return list(islice(chosen, query.k))


def _search(gallery: Gallery, coded: CodedQuery, code: bytes, k: int, radius: int) -> list[Hit]:
    (found,) = gallery.search(coded.model_id, [code], k, filters=coded.query.filters, radius=radius)
    return found


def _ranked(found: Sequence[Hit], code: bytes, step: int) -> list[Hit]:
    bits = 8 * len(code)
    rounded = [hit._replace(distance=coarse(hit.distance, step, bits)) for hit in found]
    distances, sizes = np.unique([hit.distance for hit in rounded], return_counts=True)
    ties = dict(zip(distances.tolist(), sizes.tolist(), strict=True))
    tokens = np.frombuffer(b"".join(hit.token for hit in rounded), np.uint8).reshape(len(rounded), TOKEN_BYTES)
    keys = tie_keys(code, tokens).tolist()
    pairs = [
        RankedHit((hit.distance, key, hit.token), hit._replace(ties=ties[hit.distance]))
        for hit, key in zip(rounded, keys, strict=True)
    ]
    return [pair.hit for pair in sorted(pairs, key=lambda pair: pair.rank)]


def _first_of_each_patient(gallery: Gallery, ranked: Sequence[Hit]) -> Iterator[Hit]:
    seen = set()
    for hit in ranked:
        patient = gallery.case_of(hit.token).patient
        if patient not in seen:
            seen.add(patient)
            yield hit
