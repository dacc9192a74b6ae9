"""Answer another site's request: read it, check it against the policy, answer it, write the audit log.

Each outcome has its own reply: found (perhaps no hit), suppressed, refused, other model, unreadable.
"""

import logging
from typing import TYPE_CHECKING, NamedTuple

from ynet.errors import RefusedError, UserError
from ynet.federation import retrieval_pb2 as pb
from ynet_client.retrieval import disclosure, quotas, wire
from ynet_client.retrieval.stores import Stores
from ynet_client.retrieval.wire import CodedQuery, WireError
from ynet_client.settings import Disclosure

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

log = logging.getLogger("ynet.answering")


class LoggedReply(NamedTuple):
    """A reply, and the name of its outcome in the audit log."""

    body: bytes
    outcome: str
    hits: int = 0


def answer(archive: "Archive", stores: Stores, policy: Disclosure, from_site: str, body: bytes, now: float) -> bytes:
    """Return the reply to another site's request. `now` in seconds since 1970."""
    try:
        user, asked = wire.read_request(body)
    except WireError as error:
        log.info("a request of site %s was not read: %s", from_site, error.why)
        stores.audit.write(now, "answered", "unreadable", {from_site: "unreadable"}, user="")
        return pb.Reply(unreadable=pb.Unreadable()).SerializeToString()
    if isinstance(asked, CodedQuery):
        reply = _to_query(archive, stores, policy, from_site, user, asked, now)
        count, kinds, hits = len(asked.codes), asked.query.filters.kinds, {from_site: reply.hits}
        outcome = {from_site: reply.outcome}
        stores.audit.write(
            now, "answered", "query", outcome, user=user, hits=hits, codes=count, k=asked.query.k, filters=kinds
        )
    elif isinstance(asked, pb.Consult):
        reply = _to_consult(archive, stores, policy, from_site, user, asked, now)
        stores.audit.write(now, "answered", "consult", {from_site: reply.outcome}, user=user)
    else:
        reply = _to_check(stores, policy, from_site, asked)
        stores.audit.write(now, "answered", "consult-check", {from_site: reply.outcome}, user=user)
    return reply.body


def _to_query(
    archive: "Archive", stores: Stores, policy: Disclosure, from_site: str, user: str, coded: CodedQuery, now: float
) -> LoggedReply:
    """Check in this order: a site that may not ask learns nothing, and a query without an answer spends no quota."""
    if (reason := disclosure.refusal(policy, from_site, coded)) is not None:
        return _refused(reason)
    active = archive.gallery.active_model or ""
    if active != coded.model_id:
        return _other_model(active)
    if not stores.quotas.spend(policy, from_site, user, quotas.questions(coded), now):
        return _refused(pb.Refused.QUOTA_SPENT)
    try:
        if disclosure.is_suppressed(policy, archive.gallery, coded.model_id, coded.query.filters):
            return LoggedReply(pb.Reply(suppressed=pb.Suppressed()).SerializeToString(), "suppressed")
        per_code = disclosure.hits(policy, archive.gallery, coded)
    except RefusedError:
        return _other_model(archive.gallery.active_model or "")  # the model was switched in between
    except UserError:
        return LoggedReply(pb.Reply(unreadable=pb.Unreadable()).SerializeToString(), "unreadable")  # other width
    body = wire.write_found(per_code)
    if body is None:
        return _refused(pb.Refused.TOO_LARGE)
    count = sum(map(len, per_code))
    return LoggedReply(body, "found" if count else "empty", count)


def _to_consult(
    archive: "Archive", stores: Stores, policy: Disclosure, from_site: str, user: str, asked: pb.Consult, now: float
) -> LoggedReply:
    if (reason := disclosure.site_refusal(policy, from_site)) is not None:
        return _refused(reason)
    if not policy.consults:
        return _refused(pb.Refused.NOT_ALLOWED)
    try:
        image = archive.gallery.case_of(asked.token).image
    except UserError:
        return LoggedReply(pb.Reply(no_such_case=pb.NoSuchCase()).SerializeToString(), "no_such_case")
    if not stores.consults.receive(asked.id, from_site, user, asked.token, image, asked.note, now):
        return _refused(pb.Refused.QUOTA_SPENT)
    return LoggedReply(pb.Reply(consult_kept=pb.ConsultKept()).SerializeToString(), "kept")


def _to_check(stores: Stores, policy: Disclosure, from_site: str, asked: pb.ConsultCheck) -> LoggedReply:
    if (reason := disclosure.site_refusal(policy, from_site)) is not None:
        return _refused(reason)
    received = {one.id: one for one in stores.consults.of("received", from_site)}
    answers = pb.ConsultAnswers()
    for id_ in asked.ids:
        one = received.get(id_)
        word = pb.ConsultAnswer.Word.Value(one.decision.upper()) if one else pb.ConsultAnswer.UNKNOWN
        answers.answers.add(id=id_, word=word, text=one.text if one else "")
    return LoggedReply(pb.Reply(consult_answers=answers).SerializeToString(), "found")


def _refused(reason: wire.Reason) -> LoggedReply:
    return LoggedReply(wire.write_refused(reason), "refused")


def _other_model(model_id: str) -> LoggedReply:
    return LoggedReply(pb.Reply(other_model=pb.OtherModel(model_id=model_id)).SerializeToString(), "other_model")
