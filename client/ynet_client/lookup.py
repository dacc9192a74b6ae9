"""Queries: what a site tells another, and how the asking site puts the answers together."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.message import DecodeError

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import retrieval_pb2 as pb
from ynet.federation.identity import SITE_NAME
from ynet.federation.protocol import MAX_REASON_CHARACTERS, plain
from ynet.index import Hit, MergedHit, check_answer, merge
from ynet_client.filters import Filters

if TYPE_CHECKING:
    from ynet_client.archive import Archive, Encoded

MAX_K = 100


class Look(NamedTuple):
    """What a site finds by itself."""

    model_id: str
    encoded: "Encoded"
    hits: list[Hit]


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


def answer(archive: "Archive", body: bytes) -> bytes:
    """The reply to another site's query: distances, tokens, labels; or that it is declined, and why."""
    try:
        asked = pb.Lookup.FromString(body)
        hits = _search(archive, asked.model_id, asked.code, asked.k, asked.split)
    except DecodeError:
        return _declined("the query cannot be read")
    except RefusedError as refused:
        return _declined(refused.why)
    except UserError:
        return _declined("the query does not fit the gallery")
    found = pb.Found(hits=[_to_wire(hit) for hit in hits])
    return pb.LookupReply(found=found).SerializeToString()


def look(archive: "Archive", image: Path, k: int, split: str) -> Look:
    """Encode an image and search the site's own gallery; the query's own file is no hit. Raises UserError."""
    model, encoded = archive.active(), archive.encode(image)
    hits = _search(archive, model.id, encoded.code, k, split, encoded.sha256)
    return Look(model.id, encoded, hits)


def _search(
    archive: "Archive", model_id: str, code: bytes, k: int, split: str, exclude_sha256: str | None = None
) -> list[Hit]:
    filters = Filters(split=split)
    found = archive.gallery.search(model_id, [code], _bounded(k), filters=filters, exclude_sha256=exclude_sha256)
    return found[0]


def combine(own_site: str, own_hits: Sequence[Hit], answers: hub.Answers, code: bytes, k: int) -> Result:
    """All sites' hits in one ranking, the same that one pooled index would give."""
    by_site: dict[str, list[Hit]] = {own_site: list(own_hits)}
    declined: dict[str, str] = {}
    for one in answers.answers:
        if one.site in by_site or not SITE_NAME.match(one.site):
            continue  # the hub's doing: no site answers twice, or in the name of the asking one
        try:
            by_site[one.site] = _found(one.body, code, k)
        except UserError as error:
            declined[one.site] = error.why
    return Result(merge(by_site, code, k), by_site, list(answers.missing), list(answers.late), declined)


def _found(body: bytes, code: bytes, k: int) -> list[Hit]:
    """The hits in another site's answer, checked. Raises RefusedError when it declined, UserError when it is unfit."""
    try:
        reply = pb.LookupReply.FromString(body)
    except DecodeError:
        raise UserError("an answer was thrown away", "it cannot be read", "let that site update ynet") from None
    if reply.WhichOneof("outcome") != "found":
        raise RefusedError("a site declined", plain(reply.declined.reason, MAX_REASON_CHARACTERS), "ask that site")
    hits = [_from_wire(hit) for hit in reply.found.hits]
    check_answer(hits, code, k)
    return hits


def describe(site: str, archive: "Archive", look: Look, result: Result) -> dict[str, Any]:
    """The result as `ynet-client query --json` prints it; own hits with the path of their image."""
    hits = []
    for rank, (where, hit) in enumerate(result.hits, start=1):
        entry: dict[str, Any] = {
            "rank": rank,
            "site": where,
            "distance": hit.distance,
            "label": hit.label,
            "ties": hit.ties,
            "token": hit.token.hex(),
        }
        if where == site:
            entry["image"] = archive.gallery.case_of(hit.token).image
        hits.append(entry)
    answered = {name: len(found) for name, found in result.by_site.items() if name != site}
    return {
        "site": site,
        "model": look.model_id,
        "code": look.encoded.code.hex(),
        "hits": hits,
        "answered": answered,
        "missing": result.missing,
        "late": result.late,
        "declined": result.declined,
    }


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
