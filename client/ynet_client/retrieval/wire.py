"""Write queries, consults and answers as bytes, and read them from sites that are not trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from google.protobuf.message import DecodeError

from ynet.errors import UserError
from ynet.federation import retrieval_pb2 as pb
from ynet.federation.protocol import MAX_ANSWER_BYTES, MAX_LABEL, MAX_PADDED_BYTES, MAX_QUERY_BYTES
from ynet.search.hit import Hit
from ynet.search.ranking import CODE_BYTES, TOKEN_BYTES, check_answers
from ynet_client.gallery.filters import Filters
from ynet_client.retrieval.query import MAX_K, Query

MAX_CODES = 64
MAX_ID = 64  # characters of a model's id, hexadecimal
MAX_USER = 32  # characters of a pseudonym
MAX_NOTE = 2_000  # characters of a note or a text
MAX_CHECKED = 16  # requests for a consult in one check
CONSULT_ID_BYTES = 8
HIT_BYTES = 32  # on the wire, at most
ROOM_FOR_LABELS = 2_048  # exceeded only by dozens of classes with names of dozens of letters
Reason: TypeAlias = pb.Refused.Reason
REASONS: dict[int, str] = {
    pb.Refused.OTHER: "the site refused",
    pb.Refused.NOT_ALLOWED: "the site answers no such question",
    pb.Refused.QUOTA_SPENT: "the quota of today is spent",
    pb.Refused.NOT_ON_THE_LIST: "the site does not answer this site",
    pb.Refused.TOO_LARGE: "it asks for too many hits at once",
    pb.Refused.NOT_CONFIRMED: "its admin has not confirmed this site yet (ynet-client sites trust, there)",
}


class WireError(UserError):
    """Bytes of another site that are not valid."""


@dataclass(frozen=True)
class CodedQuery:
    """A query with the codes of its images, as the other sites get it. They get neither `sites` nor `epsilon`."""

    model_id: str
    codes: tuple[bytes, ...]
    query: Query


class SiteRequest(NamedTuple):
    """A request of another site: who asks there, and what."""

    user: str  # a pseudonym
    body: CodedQuery | pb.Consult | pb.ConsultCheck


class SiteOutcome(NamedTuple):
    """The outcome of a request at one other site."""

    kind: str  # found, suppressed, refused, other_model, unreadable, late, missing, busy, unconfirmed
    reason: str = ""  # for people
    code: str = ""  # of a refusal: not_allowed, ...; of another model: its id
    hits: tuple[tuple[Hit, ...], ...] = ()  # for each code, when found


def write_query(coded: CodedQuery, user: str) -> bytes:
    """Write a query for the other sites: of an image only its codes. Raises UserError when it is too large."""
    query = coded.query
    if not 1 <= len(coded.codes) <= MAX_CODES:
        do = f"ask about at most {MAX_CODES} images at a time"
        raise UserError("the query cannot be asked", f"it has {len(coded.codes)} images", do)
    body = pb.Query(
        model_id=coded.model_id,
        codes=coded.codes,
        k=query.k,
        radius=query.radius,
        one_per_patient=query.one_per_patient,
        filter=_filter_to_wire(query.filters),
    )
    data = pb.Request(user=user, query=body).SerializeToString()
    if len(data) > MAX_QUERY_BYTES:
        raise UserError("the query cannot be asked", f"it has {len(data)} bytes", "ask about fewer images at a time")
    return data


def read_request(data: bytes) -> SiteRequest:
    """Read another site's request and check it against all limits. Raises WireError."""
    try:
        request = pb.Request.FromString(data)
    except DecodeError:
        raise _unfit("it cannot be read") from None
    if len(request.user) > MAX_USER or not request.user.isalnum() or not request.user.isascii():
        raise _unfit("its user is no pseudonym")
    match request.WhichOneof("body"):
        case "query":
            return SiteRequest(request.user, _read_query(request.query))
        case "consult":
            return SiteRequest(request.user, _checked_consult(request.consult))
        case "check":
            if len(request.check.ids) > MAX_CHECKED or any(len(one) != CONSULT_ID_BYTES for one in request.check.ids):
                raise _unfit("it asks after requests that cannot be")
            return SiteRequest(request.user, request.check)
    raise _unfit("it asks for nothing that is known here")


def write_found(per_code: Sequence[Sequence[Hit]]) -> bytes | None:
    """Write the hits for each code; None when they are too many for one answer. Of a hit, what may leave the site."""
    found = pb.Found()
    numbers: dict[str, int] = {}
    for hits in per_code:
        row = found.per_code.add()
        for hit in hits:
            label = None if hit.label is None else numbers.setdefault(hit.label, len(numbers))
            row.hits.add(distance=hit.distance, token=hit.token, label=label, ties=hit.ties)
    found.labels.extend(numbers)
    data = pb.Reply(found=found).SerializeToString()
    return data if len(data) <= MAX_ANSWER_BYTES else None


def room_for_hits(coded: CodedQuery) -> int:
    """Return the size in bytes to which an answer is padded, so that the hub cannot infer the number of hits."""
    return min(MAX_PADDED_BYTES, ROOM_FOR_LABELS + len(coded.codes) * (4 + coded.query.k * HIT_BYTES))


def write_refused(reason: Reason) -> bytes:
    """Write a refusal."""
    return pb.Reply(refused=pb.Refused(reason=reason)).SerializeToString()


def read_reply(data: bytes) -> pb.Reply:
    """Read another site's reply. Raises WireError."""
    try:
        return pb.Reply.FromString(data)
    except DecodeError:
        raise WireError("an answer was thrown away", "it cannot be read", "let that site update ynet") from None


def read_outcome(data: bytes, coded: CodedQuery, site: str = "") -> SiteOutcome:
    """Read the answer of `site` to a query; one that no gallery can give is `unreadable`."""
    try:
        reply = read_reply(data)
        match reply.WhichOneof("outcome"):
            case "found":
                return SiteOutcome("found", hits=_read_found(reply.found, coded, site))
            case "suppressed":
                return SiteOutcome("suppressed", "the group is too small to speak of")
            case "refused":
                return read_refusal(reply.refused)
            case "other_model":
                return _other_model(reply.other_model.model_id)
    except UserError as error:
        return SiteOutcome("unreadable", error.why)
    return SiteOutcome("unreadable", "the two sites do not understand each other: one of them must update ynet")


def read_refusal(refused: pb.Refused) -> SiteOutcome:
    """Read a refusal; a reason of a later version is read as `other`."""
    number = refused.reason if refused.reason in REASONS else pb.Refused.OTHER
    return SiteOutcome("refused", REASONS[number], pb.Refused.Reason.Name(number).lower())


def plain_text(text: str) -> str:
    """Return a text without control characters except line ends, of at most MAX_NOTE characters."""
    return "".join(c for c in text.replace("\r\n", "\n") if c.isprintable() or c == "\n")[:MAX_NOTE].strip()


def _read_query(body: pb.Query) -> CodedQuery:
    codes = tuple(body.codes)
    if not 1 <= len(codes) <= MAX_CODES or len({len(code) for code in codes}) != 1 or len(codes[0]) not in CODE_BYTES:
        raise _unfit("its codes are none that can be")
    if len(body.model_id) > MAX_ID or not body.model_id.isprintable():
        raise _unfit("its model has no id")
    if not 1 <= body.k <= MAX_K:
        raise _unfit(f"it asks for {body.k} hits")
    radius = body.radius if body.HasField("radius") else None
    try:
        query = Query(body.k, _filter_from_wire(body.filter), radius, body.one_per_patient)
    except UserError:
        raise _unfit("its filter or its radius cannot be") from None
    return CodedQuery(body.model_id, codes, query)


def _read_found(found: pb.Found, coded: CodedQuery, site: str) -> tuple[tuple[Hit, ...], ...]:
    if len(found.per_code) != len(coded.codes):
        raise _unfit_answer("it does not answer each code once")
    if any(len(label) > MAX_LABEL or not label.isprintable() for label in found.labels):
        raise _unfit_answer("a hit has a label that cannot be")
    labels = tuple(found.labels)
    per_code = tuple(tuple(_hit_from_wire(hit, labels, site) for hit in row.hits) for row in found.per_code)
    check_answers(per_code, coded.codes, coded.query.k)
    farthest = max((hit.distance for hits in per_code for hit in hits), default=0)
    radius = coded.query.radius
    if radius is not None and farthest > radius:
        raise _unfit_answer("a hit lies beyond the radius")
    return per_code


def _hit_from_wire(hit: pb.Hit, labels: Sequence[str], site: str) -> Hit:
    label = None
    if hit.HasField("label"):
        if hit.label >= len(labels):
            raise _unfit_answer("a hit has a label that is not there")
        label = labels[hit.label]
    return Hit(hit.distance, hit.token, label, hit.ties, site)


def _checked_consult(consult: pb.Consult) -> pb.Consult:
    if len(consult.id) != CONSULT_ID_BYTES or len(consult.token) != TOKEN_BYTES:
        raise _unfit("its id or its token cannot be")
    if len(consult.note) > MAX_NOTE:
        raise _unfit("its note is too long")
    return consult


def _filter_to_wire(filters: Filters) -> pb.Filter:
    attributes = [pb.Attribute(name=name, value=value) for name, value in filters.attributes]
    return pb.Filter(
        labels=filters.labels, split=filters.split, attributes=attributes, since=filters.since, until=filters.until
    )


def _filter_from_wire(wire: pb.Filter) -> Filters:
    attributes = tuple((one.name, one.value) for one in wire.attributes)
    return Filters(tuple(wire.labels), wire.split, attributes, wire.since, wire.until)


def _other_model(model_id: str) -> SiteOutcome:
    shown = model_id if len(model_id) <= MAX_ID and model_id.isascii() and model_id.isalnum() else ""
    return SiteOutcome("other_model", f"it has the model {shown[:16]}" if shown else "it has no model yet", shown)


def _unfit(why: str) -> WireError:
    return WireError("a request was not answered", why, "let the asking site update ynet")


def _unfit_answer(why: str) -> WireError:
    return WireError("an answer was thrown away", why, "let that site update ynet")
