"""One question to the other sites: sealed, sent, opened as the answers come, and sealed anew for who could not read it.

A site is asked anew when its sealing key is another than this site knew (it has restarted, or has just come): the hub
hands on its card with the first reply, so that no card need be told before somebody asks.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import grpc

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust.identity import SITE_NAME
from ynet_client.connection.sealed_asking import MAX_KNOWN, Asking, Sent

log = logging.getLogger("ynet.question")
MAX_TOTAL_BYTES = 3 << 20
"""Of one question to all sites; the hub takes 4 MiB."""


@dataclass(frozen=True)
class Question:
    """What is asked of whom."""

    framed: bytes  # by `sealed.frame_query`
    sites: Sequence[str]  # none: all others
    until: float  # in the loop's time
    sent: Callable[[int], None]  # told the size of each message, just before it leaves


async def put(question: Question, channel: grpc.aio.Channel, asking: Asking) -> pb.Answers:
    """The answers, opened. Raises grpc.aio.AioRpcError, and RefusedError when the question is too large."""
    return await _put(question, channel, asking, is_first=True)


async def look_round(channel: grpc.aio.Channel, asking: Asking, within_s: float, sent: Callable[[int], None]) -> None:
    """Learn the cards of the sites that are connected: a question that holds nothing. Raises grpc.aio.AioRpcError."""
    asked, told = pb.Question(deadline_ms=int(within_s * 1000)), set[str]()
    async for part in _call(channel, sent)(asked, timeout=within_s):
        for name in _learnt(_new(part.unreadable, told), part, asking):
            asking.is_confirmed(name)  # what it shows is kept


async def _put(question: Question, channel: grpc.aio.Channel, asking: Asking, *, is_first: bool) -> pb.Answers:
    sent = asking.seal(question.framed, question.sites or asking.known(), _now())
    wait_s = max(0.0, question.until - asyncio.get_running_loop().time())
    found, told, anew = pb.Answers(), set[str](), list[asyncio.Task[pb.Answers]]()
    try:
        async for part in _call(channel, question.sent)(_to_wire(question, sent, wait_s), timeout=wait_s + 5):
            _sort(part, asking, sent, told, found)
            unreadable = _new(part.unreadable, told)
            learnt = _learnt(unreadable, part, asking) if is_first else []
            again = [name for name in learnt if asking.is_confirmed(name)]
            for name in again:
                asking.end(name, sent.get(name))
            found.unconfirmed.extend(name for name in learnt if name not in again)
            found.unreadable.extend(name for name in unreadable if name not in learnt)
            if again:
                asked = replace(question, sites=again)
                anew.append(asyncio.create_task(_put(asked, channel, asking, is_first=False)))
        for one in anew:
            found.MergeFrom(await one)
    finally:
        for one in anew:
            one.cancel()
    return found


def _to_wire(question: Question, sent: dict[str, Sent], wait_s: float) -> pb.Question:
    if sum(len(one.envelope) for one in sent.values()) > MAX_TOTAL_BYTES:
        do = "ask for fewer images at once, or name fewer sites"
        raise RefusedError("the question was not sent", "it is too large for so many sites", do)
    queries = [pb.Question.ToOne(site=name, body=one.envelope) for name, one in sent.items()]
    return pb.Question(queries=queries, sites=question.sites, deadline_ms=int(wait_s * 1000))


def _sort(part: pb.Answers, asking: Asking, sent: dict[str, Sent], told: set[str], found: pb.Answers) -> None:
    """Take what came of the sites into `found`. An answer that does not open is the hub's doing, or a fault."""
    for one in part.answers:
        if one.site not in sent or not _new([one.site], told):
            continue  # nobody answers twice, or without being asked
        try:
            found.answers.add(site=one.site, body=asking.open(sent[one.site], one.body))
        except RefusedError as refused:
            log.warning("the answer of site %s was thrown away: %s", one.site, refused.why)
            found.unreadable.append(one.site)
    for names, into in ((part.missing, found.missing), (part.late, found.late), (part.busy, found.busy)):
        into.extend(_new(names, told))


def _new(names: Iterable[str], told: set[str]) -> list[str]:
    """The names of which nothing was told before; a hub may say anything, and say it for ever."""
    new = [name for name in dict.fromkeys(names) if SITE_NAME.match(name) and name not in told]
    new = new[: MAX_KNOWN - len(told)]
    told.update(new)
    return new


def _learnt(unreadable: list[str], part: pb.Answers, asking: Asking) -> list[str]:
    """The sites whose cards have come, and are in order: they can be asked anew, where they are confirmed."""
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
