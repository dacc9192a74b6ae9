"""One question to the other sites: sealed, sent, opened as the answers come, and sealed anew for who could not read it.

A site is asked anew when its sealing key is another than this site knew (it has restarted, or has just come): the hub
hands on its card with the first reply, so that no card need be told before somebody asks.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.federation.identity import SITE_NAME
from ynet_client.asking import Asking, Sent

log = logging.getLogger("ynet.question")
MAX_TOTAL_BYTES = 3 << 20
"""Of one question to all sites; the hub takes 4 MiB."""


@dataclass(frozen=True)
class Question:
    """What is asked of whom."""

    framed: bytes  # by `sealed.frame_query`
    sites: Sequence[str]  # none: all others
    until: float  # in the loop's time


async def put(question: Question, channel: grpc.aio.Channel, asking: Asking) -> pb.Answers:
    """The answers, opened. Raises grpc.aio.AioRpcError, and RefusedError when the question is too large."""
    return await _put(question, channel, asking, is_first=True)


async def _put(question: Question, channel: grpc.aio.Channel, asking: Asking, *, is_first: bool) -> pb.Answers:
    sent = asking.seal(question.framed, question.sites or asking.known(), _now())
    wait_s = max(0.0, question.until - asyncio.get_running_loop().time())
    found, anew = pb.Answers(), list[asyncio.Task[pb.Answers]]()
    try:
        async for part in _call(channel)(_to_wire(question, sent, wait_s), timeout=wait_s + 5):
            _sort(part, asking, sent, found)
            again = _renewed(part, asking, sent) if is_first else []
            found.unreadable.extend(name for name in part.unreadable if name not in again)
            if again:
                asked = Question(question.framed, again, question.until)
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


def _sort(part: pb.Answers, asking: Asking, sent: dict[str, Sent], found: pb.Answers) -> None:
    """Take what came of the sites into `found`. An answer that does not open is the hub's doing, or a fault."""
    for one in part.answers:
        if (own := sent.pop(one.site, None)) is None:
            continue  # nobody answers twice, or without being asked
        try:
            found.answers.add(site=one.site, body=asking.open(own, one.body))
        except RefusedError as refused:
            log.warning("the answer of site %s was thrown away: %s", one.site, refused.why)
            found.unreadable.append(one.site)
    for told, into in ((part.missing, found.missing), (part.late, found.late), (part.busy, found.busy)):
        into.extend(name for name in told if SITE_NAME.match(name))


def _renewed(part: pb.Answers, asking: Asking, sent: dict[str, Sent]) -> list[str]:
    """The sites of a part that can be asked anew."""
    cards = {one.site: one.card for one in part.cards}
    again = [name for name in part.unreadable if name in cards and asking.learn(name, cards[name], _now())]
    for name in again:
        asking.end(name, sent.pop(name, None))
    return again


def _call(channel: grpc.aio.Channel) -> Any:
    return channel.unary_stream(f"/{protocol.SERVICE}/Ask", pb.Question.SerializeToString, pb.Answers.FromString)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
