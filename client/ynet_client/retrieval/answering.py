"""What a site tells another: each request is read, held against the policy, answered, and written into the audit log.

Every outcome has its own reply: found (perhaps nothing), suppressed, refused, another model, unreadable.
"""

import logging
from typing import TYPE_CHECKING, NamedTuple

from ynet.errors import RefusedError, UserError
from ynet.federation import retrieval_pb2 as pb
from ynet_client.retrieval import disclosure, quotas, wire
from ynet_client.retrieval.stores import Books
from ynet_client.retrieval.wire import Query, WireError
from ynet_client.settings import Disclosure

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

log = logging.getLogger("ynet.answering")


class Reply(NamedTuple):
    """What is sent back, and how the audit log names it."""

    body: bytes
    outcome: str
    hits: int = 0


def answer(archive: "Archive", books: Books, policy: Disclosure, from_site: str, body: bytes, now: float) -> bytes:
    """The reply to another site's request. `now` in seconds since 1970."""
    try:
        user, asked = wire.read_request(body)
    except WireError as error:
        log.info("a request of site %s was not read: %s", from_site, error.why)
        books.audit.write(now, "answered", "unreadable", {from_site: "unreadable"}, user="")
        return pb.Reply(unreadable=pb.Unreadable()).SerializeToString()
    if isinstance(asked, Query):
        reply = _to_query(archive, books, policy, from_site, user, asked, now)
        count, kinds, hits = len(asked.codes), asked.filters.kinds, {from_site: reply.hits}
        outcome = {from_site: reply.outcome}
        books.audit.write(
            now, "answered", "query", outcome, user=user, hits=hits, codes=count, k=asked.k, filters=kinds
        )
    elif isinstance(asked, pb.Consult):
        reply = _to_consult(archive, books, policy, from_site, user, asked, now)
        books.audit.write(now, "answered", "consult", {from_site: reply.outcome}, user=user)
    else:
        reply = _to_check(books, policy, from_site, asked)
        books.audit.write(now, "answered", "consult-check", {from_site: reply.outcome}, user=user)
    return reply.body


def _to_query(
    archive: "Archive", books: Books, policy: Disclosure, from_site: str, user: str, query: Query, now: float
) -> Reply:
    """In this order, so that a site that may not ask learns nothing, and what is not answered spends nothing."""
    if (reason := disclosure.refusal(policy, from_site, query)) is not None:
        return _refused(reason)
    active = archive.gallery.active_model or ""
    if active != query.model_id:
        return _other_model(active)
    if not books.quotas.spend(policy, from_site, user, quotas.questions(query), now):
        return _refused(pb.Refused.QUOTA_SPENT)
    try:
        if disclosure.is_suppressed(policy, archive.gallery, query.model_id, query.filters):
            return Reply(pb.Reply(suppressed=pb.Suppressed()).SerializeToString(), "suppressed")
        per_code = disclosure.hits(policy, archive.gallery, query)
    except RefusedError:
        return _other_model(archive.gallery.active_model or "")  # it was switched in between
    except UserError:
        return Reply(pb.Reply(unreadable=pb.Unreadable()).SerializeToString(), "unreadable")  # codes of another width
    body = wire.write_found(per_code)
    if body is None:
        return _refused(pb.Refused.TOO_LARGE)
    count = sum(map(len, per_code))
    return Reply(body, "found" if count else "empty", count)


def _to_consult(
    archive: "Archive", books: Books, policy: Disclosure, from_site: str, user: str, asked: pb.Consult, now: float
) -> Reply:
    if (reason := disclosure.site_refusal(policy, from_site)) is not None:
        return _refused(reason)
    if not policy.consults:
        return _refused(pb.Refused.NOT_ALLOWED)
    try:
        image = archive.gallery.case_of(asked.token).image
    except UserError:
        return Reply(pb.Reply(no_such_case=pb.NoSuchCase()).SerializeToString(), "no_such_case")
    if not books.consults.receive(asked.id, from_site, user, asked.token, image, asked.note, now):
        return _refused(pb.Refused.QUOTA_SPENT)
    return Reply(pb.Reply(consult_kept=pb.ConsultKept()).SerializeToString(), "kept")


def _to_check(books: Books, policy: Disclosure, from_site: str, asked: pb.ConsultCheck) -> Reply:
    if (reason := disclosure.site_refusal(policy, from_site)) is not None:
        return _refused(reason)
    received = {one.id: one for one in books.consults.of("received", from_site)}
    answers = pb.ConsultAnswers()
    for id_ in asked.ids:
        one = received.get(id_)
        word = pb.ConsultAnswer.Word.Value(one.decision.upper()) if one else pb.ConsultAnswer.UNKNOWN
        answers.answers.add(id=id_, word=word, text=one.text if one else "")
    return Reply(pb.Reply(consult_answers=answers).SerializeToString(), "found")


def _refused(reason: wire.Reason) -> Reply:
    return Reply(wire.write_refused(reason), "refused")


def _other_model(model_id: str) -> Reply:
    return Reply(pb.Reply(other_model=pb.OtherModel(model_id=model_id)).SerializeToString(), "other_model")
