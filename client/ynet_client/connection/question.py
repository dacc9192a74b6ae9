"""One question to the other sites: sealed, sent, and opened as the answers arrive.

A site that could not read the question, because it has a new sealing key, is asked a second time: the hub passes on its
card with the first reply. So no card needs to be distributed before a question.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from ynet.errors import RefusedError, UnreachableError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust.identity import SITE_NAME
from ynet_client.connection.sealed_asking import MAX_KNOWN, Asking, Sent

log = logging.getLogger("ynet.question")
MAX_TOTAL_BYTES = 3 << 20
"""Of one question to all sites; the hub takes 4 MiB."""


@dataclass(frozen=True)
class Question:
    """A question and the sites that it goes to."""

    framed: bytes  # by `sealed.frame_query`
    sites: Sequence[str]  # empty: all others
    until: float  # in the loop's time
    sent: Callable[[int], None]  # is called with the size of each message before it leaves


async def put(question: Question, channel: grpc.aio.Channel | None, asking: Asking) -> pb.Answers:
    """Ask a question and return the answers, opened.

    Raises UnreachableError when there is no connection, and RefusedError when the question is too large.
    """
    if channel is None:
        raise UnreachableError("the other sites cannot be asked", "the server is not connected", "try again later")
    try:
        return await _put(question, channel, asking, is_first=True)
    except grpc.aio.AioRpcError:
        raise UnreachableError("the other sites could not be asked", "the connection was lost", "try again") from None


async def look_round(
    channel: grpc.aio.Channel | None, asking: Asking, within_s: float, sent: Callable[[int], None]
) -> None:
    """Learn the cards of the connected sites by an empty question. Raises UnreachableError."""
    what = "the other sites were not looked for"
    if channel is None:
        raise UnreachableError(what, "the server is not connected", "try again")
    asked, reported = pb.Question(deadline_ms=int(within_s * 1000)), set[str]()
    try:
        async for part in _call(channel, sent)(asked, timeout=within_s):
            for name in _learnt(_new(part.unreadable, reported), part, asking):
                asking.is_confirmed(name)  # stores the key that the site shows
    except grpc.aio.AioRpcError:
        raise UnreachableError(what, "the connection was lost", "try again") from None


async def _put(question: Question, channel: grpc.aio.Channel, asking: Asking, *, is_first: bool) -> pb.Answers:
    sent = asking.seal(question.framed, question.sites or asking.known(), _now())
    wait_s = max(0.0, question.until - asyncio.get_running_loop().time())
    found, reported, retries = pb.Answers(), set[str](), list[asyncio.Task[pb.Answers]]()
    try:
        async for part in _call(channel, question.sent)(_to_wire(question, sent, wait_s), timeout=wait_s + 5):
            _sort(part, asking, sent, reported, found)
            unreadable = _new(part.unreadable, reported)
            learnt = _learnt(unreadable, part, asking) if is_first else []
            again = [name for name in learnt if asking.is_confirmed(name)]
            for name in again:
                asking.end(name, sent.get(name))
            found.unconfirmed.extend(name for name in learnt if name not in again)
            found.unreadable.extend(name for name in unreadable if name not in learnt)
            if again:
                asked = replace(question, sites=again)
                retries.append(asyncio.create_task(_put(asked, channel, asking, is_first=False)))
        for one in retries:
            found.MergeFrom(await one)
    finally:
        for one in retries:
            one.cancel()
    return found


def _to_wire(question: Question, sent: dict[str, Sent], wait_s: float) -> pb.Question:
    if sum(len(one.envelope) for one in sent.values()) > MAX_TOTAL_BYTES:
        do = "ask for fewer images at once, or name fewer sites"
        raise RefusedError("the question was not sent", "it is too large for so many sites", do)
    queries = [pb.Question.ToOne(site=name, body=one.envelope) for name, one in sent.items()]
    return pb.Question(queries=queries, sites=question.sites, deadline_ms=int(wait_s * 1000))


def _sort(part: pb.Answers, asking: Asking, sent: dict[str, Sent], reported: set[str], found: pb.Answers) -> None:
    """Add the outcome of each site to `found`. An answer that cannot be opened counts as unreadable."""
    for one in part.answers:
        if one.site not in sent or not _new([one.site], reported):
            continue  # a second answer, or one of a site that was not asked
        try:
            found.answers.add(site=one.site, body=asking.open(sent[one.site], one.body))
        except RefusedError as refused:
            log.warning("the answer of site %s was thrown away: %s", one.site, refused.why)
            found.unreadable.append(one.site)
    for names, into in ((part.missing, found.missing), (part.late, found.late), (part.busy, found.busy)):
        into.extend(_new(names, reported))


def _new(names: Iterable[str], reported: set[str]) -> list[str]:
    """Return the names without an outcome so far, at most MAX_KNOWN in all: a hostile hub may send names for ever."""
    new = [name for name in dict.fromkeys(names) if SITE_NAME.match(name) and name not in reported]
    new = new[: MAX_KNOWN - len(reported)]
    reported.update(new)
    return new


def _learnt(unreadable: list[str], part: pb.Answers, asking: Asking) -> list[str]:
    """Return the sites whose new card has arrived and is valid: they can be asked a second time if confirmed."""
    cards = {one.site: one.card for one in part.cards}
    return [name for name in unreadable if name in cards and asking.learn(name, cards[name], _now())]


def _call(channel: grpc.aio.Channel, sent: Callable[[int], None]) -> Any:
    def write(question: pb.Question) -> bytes:
        data = question.SerializeToString()
        sent(len(data))
        return data

    return channel.unary_stream(f"/{protocol.SERVICE}/Ask", write, pb.Answers.FromString)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
