"""What a site's own people ask of the other sites: queries and consults, sent, answered, and written into the books."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import retrieval_pb2 as pb
from ynet.search.ranking import TOKEN_BYTES
from ynet.trust.identity import SITE_NAME
from ynet_client.agent import Duties
from ynet_client.connection.session import ANSWER_BYTES, Session
from ynet_client.egress import Class
from ynet_client.membership.peers import UNCONFIRMED
from ynet_client.retrieval import lookup, wire
from ynet_client.retrieval.consult import Consult
from ynet_client.retrieval.lookup import Encoding, Look, Result, Wanted
from ynet_client.retrieval.stores import Books
from ynet_client.retrieval.wire import MAX_CHECKED, Outcome

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

ASK_WITHIN_S = 10.0
MAX_SEEN = 10_000
SHORTEST = 8  # characters of a token's beginning by which a hit is named
DECISIONS = {
    pb.ConsultAnswer.YES: "yes",
    pb.ConsultAnswer.NO: "no",
    pb.ConsultAnswer.UNKNOWN: "unknown",
}


class Answered(NamedTuple):
    """A batch of images and what is known of each."""

    looks: list[Look]
    results: list[Result]
    note: str  # why nobody else was asked, or empty


class Seen:
    """Which site a token came from: the newest MAX_SEEN of this process."""

    def __init__(self) -> None:
        self._site_of: OrderedDict[bytes, str] = OrderedDict()

    def add(self, result: Result, own_site: str) -> None:
        """Remember the hits of the others."""
        for site, hits in result.by_site.items():
            for hit in hits if site != own_site else ():
                self._site_of[hit.token] = site
                self._site_of.move_to_end(hit.token)
        while len(self._site_of) > MAX_SEEN:
            self._site_of.popitem(last=False)

    def find(self, beginning: str, site: str) -> tuple[bytes, str]:
        """The token that begins so, and its site, which need not be given when it was seen. Raises UserError."""
        what = f"no hit {beginning[:40]!r}"
        if len(beginning) == 2 * TOKEN_BYTES:
            try:
                token = bytes.fromhex(beginning)
            except ValueError:
                raise UserError(what, "it is no token", "copy it from the hits of ynet-client query") from None
            found = {token: site or self._site_of.get(token, "")}
        else:
            matching = self._site_of.items() if len(beginning) >= SHORTEST else ()
            found = {token: at for token, at in matching if token.hex().startswith(beginning) and site in ("", at)}
        if len(found) != 1:
            why = f"{len(found)} hits of this client's queries have a token that begins so"
            raise UserError(what, why, "give the whole token, of query --json, and --to SITE")
        ((token, owner),) = found.items()
        if not SITE_NAME.match(owner):
            raise UserError(what, "which site it came from is not known any more", "say --to SITE")
        return token, owner


async def query(
    site: str, duties: Duties, session: Session, images: Sequence[Path], wanted: Wanted, user: str
) -> Answered:
    """Ask the own gallery and the others about some images. Raises UserError."""
    with duties.counts.asking():
        return await _query(site, duties, session, images, wanted, user)


async def _query(
    site: str, duties: Duties, session: Session, images: Sequence[Path], wanted: Wanted, user: str
) -> Answered:
    books = duties.books
    encodings = [await duties.search(partial(lookup.encode, image=image)) for image in images[:-1]]
    looks = await duties.search(lambda archive: _look(archive, duties, encodings, images[-1], wanted))
    asked = lookup.question(looks, wanted, is_detail_sent=duties.disclosure.detail)
    pseudonym = books.pseudonym(user)
    body = wire.write_query(asked, pseudonym)
    answers, note = await _ask(session, body, wanted.sites, wire.room_for_hits(asked))
    outcomes = lookup.outcomes(site, answers, asked)
    books.audit.write(
        time.time(),
        "asked",
        "query",
        _of_batch(outcomes),
        user=pseudonym,
        hits={name: sum(map(len, one.hits)) for name, one in outcomes.items()},
        codes=len(looks),
        k=wanted.k,
        filters=wanted.filters.kinds,
        epsilon=wanted.epsilon,
    )
    return Answered(looks, lookup.combine(site, looks, outcomes, wanted.k), note)


def _look(archive: "Archive", duties: Duties, before: Sequence[Encoding], last: Path, wanted: Wanted) -> list[Look]:
    """Encode the last image, and search for all: of a batch the encodings let other work in between, one at a time."""
    encodings, has_detail = [*before, lookup.encode(archive, last)], duties.disclosure.detail
    return lookup.look(archive, duties.books.drawn, encodings, wanted, is_detail_compared=has_detail)


async def consult(site: str, books: Books, session: Session, token: bytes, owner: str, note: str, user: str) -> Consult:
    """Send a hit's token and a note to the site that owns the case. Raises UserError when it does not take it."""
    if owner == site:
        raise UserError("the request cannot be sent", "the case is this site's own", "ask a colleague")
    pseudonym = books.pseudonym(user)
    sent = books.consults.send(owner, pseudonym, token, note, time.time())
    outcome = Outcome("unreachable")
    try:
        body = pb.Request(user=pseudonym, consult=pb.Consult(id=sent.id, token=token, note=sent.note))
        answers = await session.ask(body.SerializeToString(), ASK_WITHIN_S, [owner], name="consults")
        outcome = _consult_outcome(answers, owner)
    finally:
        if outcome.kind not in ("kept", "late"):
            books.consults.withdraw(sent)
        books.audit.write(time.time(), "asked", "consult", {owner: outcome.kind}, user=pseudonym)
    _raise_unless_kept(outcome, owner)
    return sent


async def fetch_answers(books: Books, session: Session, user: str) -> str:
    """Ask the owning sites for their answers to what was sent; why not all were asked, or empty."""
    pseudonym, silent = books.pseudonym(user), []
    for owner, ids in books.consults.waiting_for().items():
        for start in range(0, len(ids), MAX_CHECKED):
            body = pb.Request(user=pseudonym, check=pb.ConsultCheck(ids=ids[start : start + MAX_CHECKED]))
            answers, note = await _ask(session, body.SerializeToString(), [owner], name="consults")
            if note:
                return note
            kind = _take_answers(books, owner, answers, set(ids))
            books.audit.write(time.time(), "asked", "consult-check", {owner: kind}, user=pseudonym)
            if kind != "found":
                silent.append(owner)
                break
    return f"no answer from {', '.join(silent)}" if silent else ""


def answer_consult(books: Books, id_: str, decision: Any, text: str, user: str) -> Consult:
    """Say yes or no to a request, for the asking site to fetch. Raises UserError."""
    if decision not in ("yes", "no"):
        raise UserError("the request was not answered", f"{str(decision)[:20]!r} is no answer", "say yes or no")
    now = time.time()
    answered = books.consults.answer(id_, decision, text, now)
    books.audit.write(now, "answered", "consult-answer", {answered.site: decision}, user=books.pseudonym(user))
    return answered


def _of_batch(outcomes: Mapping[str, Outcome]) -> dict[str, str]:
    """For the log a site that found nothing for any image is `empty`."""
    return {site: "empty" if one.kind == "found" and not any(one.hits) else one.kind for site, one in outcomes.items()}


def _consult_outcome(answers: hub.Answers, owner: str) -> Outcome:
    for one in answers.answers:
        if one.site == owner:
            return _read_consult(one.body)
    if owner in answers.unconfirmed:
        return Outcome("unconfirmed", UNCONFIRMED)
    return Outcome("late" if owner in answers.late else "missing", "the site is not connected")


def _read_consult(body: bytes) -> Outcome:
    try:
        reply = wire.read_reply(body)
    except UserError as error:
        return Outcome("unreadable", error.why)
    match reply.WhichOneof("outcome"):
        case "consult_kept":
            return Outcome("kept")
        case "no_such_case":
            return Outcome("no_such_case", "the token names no case there, or one that is gone")
        case "refused":
            return wire.read_refusal(reply.refused)
    return Outcome("unreadable", "the two sites do not understand each other")


def _raise_unless_kept(outcome: Outcome, owner: str) -> None:
    what = f"site {owner} did not take the request"
    match outcome.kind:
        case "kept":
            return
        case "late":
            do = "look at ynet-client consult list later: it may have been kept"
            raise UnreachableError(what, "it did not answer in time", do)
        case "missing":
            raise UnreachableError(what, outcome.reason, "try again when it is")
        case "unconfirmed":
            raise RefusedError(what, outcome.reason, f"the site's admin says: ynet-client sites trust {owner}")
        case "no_such_case":
            raise UserError(what, outcome.reason, "ask the query again")
        case "unreadable":
            raise UserError(what, outcome.reason, "one of the two sites must update ynet")
    raise RefusedError(what, outcome.reason, "ask that site's people by other means")


def _take_answers(books: Books, owner: str, answers: hub.Answers, asked: set[bytes]) -> str:
    """Write down what the owning site said; the outcome."""
    for one in answers.answers:
        if one.site != owner:
            continue
        try:
            reply = wire.read_reply(one.body)
        except UserError:
            return "unreadable"
        for said in reply.consult_answers.answers:
            if said.id in asked and said.word in DECISIONS:
                books.consults.settle(owner, said.id, DECISIONS[said.word], said.text, time.time())  # type: ignore[arg-type]
        return "found" if reply.WhichOneof("outcome") == "consult_answers" else "refused"
    if owner in answers.unconfirmed:
        return "unconfirmed"
    return "late" if owner in answers.late else "missing"


async def _ask(
    session: Session, body: bytes, sites: Sequence[str], answer_bytes: int = ANSWER_BYTES, name: Class = "queries"
) -> tuple[hub.Answers, str]:
    """The other sites' answers, padded to `answer_bytes`; without a connection none, and why."""
    try:
        return await session.ask(body, ASK_WITHIN_S, sites, answer_bytes, name), ""
    except UnreachableError as error:
        return hub.Answers(), error.why
