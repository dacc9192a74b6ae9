"""Ask the other sites for this site's people: send queries and consults, take the answers, record both."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import hub_pb2 as hub
from ynet.federation import retrieval_pb2 as pb
from ynet.search.ranking import TOKEN_BYTES
from ynet.trust.identity import SITE_NAME
from ynet_client.agent import Agent
from ynet_client.connection.session import ANSWER_BYTES, Session
from ynet_client.egress import Class
from ynet_client.membership.peers import UNCONFIRMED
from ynet_client.retrieval import merging, own_search, wire
from ynet_client.retrieval.consult import Consult
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.own_search import Encoding, OwnSearch
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.stores import Stores
from ynet_client.retrieval.wire import MAX_CHECKED, SiteOutcome

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

ASK_WITHIN_S = 10.0
MAX_SEEN = 10_000
SHORTEST = 8  # characters of a token that name a hit
DECISIONS = {
    pb.ConsultAnswer.YES: "yes",
    pb.ConsultAnswer.NO: "no",
    pb.ConsultAnswer.UNKNOWN: "unknown",
}


class TokenOwners:
    """The sites of the newest MAX_SEEN tokens that this process has had in answers."""

    def __init__(self) -> None:
        self._site_of: OrderedDict[bytes, str] = OrderedDict()

    def add(self, results: Sequence[Result]) -> None:
        """Remember the hits of the other sites."""
        hits = (hit for one in results for site, hits in one.by_site.items() if site != one.site for hit in hits)
        for hit in hits:
            self._site_of[hit.token] = hit.site
            self._site_of.move_to_end(hit.token)
        while len(self._site_of) > MAX_SEEN:
            self._site_of.popitem(last=False)

    def find(self, beginning: str, site: str) -> tuple[bytes, str]:
        """Return the token with this beginning, and its site. `site` may be empty for a token that is remembered.

        Raises UserError.
        """
        what = f"no hit {beginning[:40]!r}"
        if len(beginning) == 2 * TOKEN_BYTES:
            try:
                token = bytes.fromhex(beginning)
            except ValueError:
                raise UserError(what, "it is not a token", "copy it from the hits of ynet-client query") from None
            found = {token: site or self._site_of.get(token, "")}
        else:
            matching = self._site_of.items() if len(beginning) >= SHORTEST else ()
            found = {token: at for token, at in matching if token.hex().startswith(beginning) and site in ("", at)}
        if len(found) != 1:
            why = f"{len(found)} hits of this client's queries have a token with this beginning"
            raise UserError(what, why, "give the whole token, from query --json, and --to SITE")
        ((token, owner),) = found.items()
        if not SITE_NAME.match(owner):
            raise UserError(what, "its site is no longer known", "say --to SITE")
        return token, owner


async def query(
    site: str, agent: Agent, session: Session, images: Sequence[Path], query: Query, user: str
) -> list[Result]:
    """Ask the own gallery and the other sites about some images. Raises UserError."""
    with agent.counts.asking():
        return await _query(site, agent, session, images, query, user)


async def _query(
    site: str, agent: Agent, session: Session, images: Sequence[Path], query: Query, user: str
) -> list[Result]:
    stores = agent.stores
    encodings = [await agent.search(partial(own_search.encode, image=image)) for image in images[:-1]]
    own = await agent.search(lambda archive: _search_own(archive, agent, encodings, images[-1], query))
    coded = own_search.coded(own, query)
    pseudonym = stores.pseudonym(user)
    body = wire.write_query(coded, pseudonym)
    answers, note = await _ask(session, body, query.sites, wire.room_for_hits(coded))
    outcomes = merging.outcomes(site, answers, coded)
    stores.audit.write(
        time.time(),
        "asked",
        "query",
        _of_batch(outcomes),
        user=pseudonym,
        hits={name: sum(map(len, one.hits)) for name, one in outcomes.items()},
        codes=len(own),
        k=query.k,
        filters=query.filters.kinds,
        epsilon=query.epsilon or 0.0,
    )
    return merging.merge(site, own, outcomes, query.k, note)


def _search_own(
    archive: "Archive", agent: Agent, before: Sequence[Encoding], last: Path, query: Query
) -> list[OwnSearch]:
    """Encode the last image and search for all. The others were encoded one by one, so that other work had its turn."""
    encodings = [*before, own_search.encode(archive, last)]
    return own_search.search(archive, agent.stores.drawn, encodings, query)


async def consult(
    site: str, stores: Stores, session: Session, token: bytes, owner: str, note: str, user: str
) -> Consult:
    """Send a hit's token and a note to the site that owns the case. Raises UserError when that site refuses."""
    if owner == site:
        raise UserError("the request cannot be sent", "the case is this site's own", "ask a colleague")
    pseudonym = stores.pseudonym(user)
    sent = stores.consults.send(owner, pseudonym, token, note, time.time())
    outcome = SiteOutcome("unreachable")
    try:
        body = pb.Request(user=pseudonym, consult=pb.Consult(id=sent.id, token=token, note=sent.note))
        answers = await session.ask(body.SerializeToString(), ASK_WITHIN_S, [owner], name="consults")
        outcome = _consult_outcome(answers, owner)
    finally:
        if outcome.kind not in ("kept", "late"):
            stores.consults.withdraw(sent)
        stores.audit.write(time.time(), "asked", "consult", {owner: outcome.kind}, user=pseudonym)
    _raise_unless_kept(outcome, owner)
    return sent


async def fetch_answers(stores: Stores, session: Session, user: str) -> str:
    """Ask the owning sites for their answers to this site's requests; return why not all were asked, or empty."""
    pseudonym, silent = stores.pseudonym(user), []
    for owner, ids in stores.consults.waiting_for().items():
        for start in range(0, len(ids), MAX_CHECKED):
            body = pb.Request(user=pseudonym, check=pb.ConsultCheck(ids=ids[start : start + MAX_CHECKED]))
            answers, note = await _ask(session, body.SerializeToString(), [owner], name="consults")
            if note:
                return note
            kind = _take_answers(stores, owner, answers, set(ids))
            stores.audit.write(time.time(), "asked", "consult-check", {owner: kind}, user=pseudonym)
            if kind != "found":
                silent.append(owner)
                break
    return f"no answer from {', '.join(silent)}" if silent else ""


def answer_consult(stores: Stores, id_: str, decision: Any, text: str, user: str) -> Consult:
    """Record the answer to a request; the asking site fetches it. Raises UserError."""
    if decision not in ("yes", "no"):
        raise UserError("the request was not answered", f"{str(decision)[:20]!r} is not an answer", "say yes or no")
    now = time.time()
    answered = stores.consults.answer(id_, decision, text, now)
    stores.audit.write(now, "answered", "consult-answer", {answered.site: decision}, user=stores.pseudonym(user))
    return answered


def _of_batch(outcomes: Mapping[str, SiteOutcome]) -> dict[str, str]:
    """Return the outcomes for the log: `empty` for a site that found nothing for any image."""
    return {site: "empty" if one.kind == "found" and not any(one.hits) else one.kind for site, one in outcomes.items()}


def _consult_outcome(answers: hub.Answers, owner: str) -> SiteOutcome:
    for one in answers.answers:
        if one.site == owner:
            return _read_consult(one.body)
    if owner in answers.unconfirmed:
        return SiteOutcome("unconfirmed", UNCONFIRMED)
    return SiteOutcome("late" if owner in answers.late else "missing", "the site is not connected")


def _read_consult(body: bytes) -> SiteOutcome:
    try:
        reply = wire.read_reply(body)
    except UserError as error:
        return SiteOutcome("unreadable", error.why)
    match reply.WhichOneof("outcome"):
        case "consult_kept":
            return SiteOutcome("kept")
        case "no_such_case":
            return SiteOutcome("no_such_case", "the token names no case there, or one that was removed")
        case "refused":
            return wire.read_refusal(reply.refused)
    return SiteOutcome("unreadable", "the two sites do not understand each other")


def _raise_unless_kept(outcome: SiteOutcome, owner: str) -> None:
    what = f"site {owner} did not take the request"
    match outcome.kind:
        case "kept":
            return
        case "late":
            do = "look at ynet-client consult list later: that site may have the request"
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


def _take_answers(stores: Stores, owner: str, answers: hub.Answers, asked: set[bytes]) -> str:
    """Record the owning site's answers; return the outcome."""
    for one in answers.answers:
        if one.site != owner:
            continue
        try:
            reply = wire.read_reply(one.body)
        except UserError:
            return "unreadable"
        for said in reply.consult_answers.answers:
            if said.id in asked and said.word in DECISIONS:
                stores.consults.settle(owner, said.id, DECISIONS[said.word], said.text, time.time())  # type: ignore[arg-type]
        return "found" if reply.WhichOneof("outcome") == "consult_answers" else "refused"
    if owner in answers.unconfirmed:
        return "unconfirmed"
    return "late" if owner in answers.late else "missing"


async def _ask(
    session: Session, body: bytes, sites: Sequence[str], answer_bytes: int = ANSWER_BYTES, name: Class = "queries"
) -> tuple[hub.Answers, str]:
    """Return the other sites' answers, padded to `answer_bytes`; without a connection none, and the reason."""
    try:
        return await session.ask(body, ASK_WITHIN_S, sites, answer_bytes, name), ""
    except UnreachableError as error:
        return hub.Answers(), error.why
