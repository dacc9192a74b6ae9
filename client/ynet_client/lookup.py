"""Queries: what a site tells another, and how the asking site puts the answers together."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from google.protobuf.message import DecodeError
from ynet.index import Hit, MergedHit, merge

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import retrieval_pb2 as pb
from ynet_client.archive import Archive, Encoded

MAX_K = 100


class Result(NamedTuple):
    """What is known of cases like the query."""

    hits: list[MergedHit]  # own and others', nearest first, at most k
    by_site: dict[str, list[Hit]]  # each site's own list, the asking site's too
    missing: list[str]  # not connected
    late: list[str]  # no answer in time
    declined: dict[str, str]  # said no, and why


def question(model_id: str, code: bytes, k: int, split: str) -> bytes:
    """A query as it leaves the site: the model's id, the code, how many hits. Nothing of the image."""
    return pb.Lookup(model_id=model_id, code=code, k=k, split=split).SerializeToString()


def answer(archive: Archive, body: bytes) -> bytes:
    """The reply to another site's query: distances, tokens, labels; or that it is declined, and why."""
    try:
        asked = pb.Lookup.FromString(body)
        hits = archive.gallery.search(asked.model_id, asked.code, _bounded(asked.k), split=asked.split or None)
    except DecodeError:
        return _declined("the query cannot be read")
    except RefusedError as refused:
        return _declined(refused.why)
    except UserError:
        return _declined("the query does not fit the gallery")
    found = pb.Found(hits=[_to_wire(hit) for hit in hits])
    return pb.LookupReply(found=found).SerializeToString()


def own(archive: Archive, encoded: Encoded, k: int, split: str) -> list[Hit]:
    """The asking site's own hits; the query's own file is none."""
    model = archive.active()
    return archive.gallery.search(
        model.id, encoded.code, _bounded(k), split=split or None, exclude_sha256=encoded.sha256
    )


def combine(own_site: str, own_hits: Sequence[Hit], answers: hub.Answers, code: bytes, k: int) -> Result:
    """All sites' hits in one ranking, the same that one pooled index would give."""
    by_site: dict[str, list[Hit]] = {own_site: list(own_hits)}
    declined: dict[str, str] = {}
    for one in answers.answers:
        try:
            reply = pb.LookupReply.FromString(one.body)
            if reply.WhichOneof("outcome") == "found":
                by_site[one.site] = [_from_wire(hit) for hit in reply.found.hits]
            else:
                declined[one.site] = reply.declined.reason
        except DecodeError:
            declined[one.site] = "the answer cannot be read"
    merged: Mapping[str, Sequence[Hit]] = by_site
    return Result(merge(merged, code, k), by_site, list(answers.missing), list(answers.late), declined)


def _bounded(k: int) -> int:
    if not 1 <= k <= MAX_K:
        raise RefusedError(
            "a query was refused", f"it asks for {k} hits, not for 1 to {MAX_K}", f"ask for at most {MAX_K}"
        )
    return k


def _declined(reason: str) -> bytes:
    return pb.LookupReply(declined=pb.Declined(reason=reason)).SerializeToString()


def _to_wire(hit: Hit) -> pb.Hit:
    return pb.Hit(distance=hit.distance, token=hit.token, label=hit.label, ties=hit.ties)


def _from_wire(hit: pb.Hit) -> Hit:
    return Hit(hit.distance, hit.token, hit.label if hit.HasField("label") else None, hit.ties)
