"""The exchange of audit log heads: the server signs the site's head, and the site signs the server's."""

import datetime as dt
import logging
from collections.abc import Awaitable, Callable

import grpc

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.federation.countersigned import SERVER, Witness, from_wire, to_wire
from ynet.trust.chain import ChainHead
from ynet_client import egress
from ynet_client.audit import Audit
from ynet_client.egress import Count

log = logging.getLogger("ynet.witness")
WITHIN_S = 30.0

Exchange = Callable[[grpc.aio.Channel], Awaitable[None]]
"""Exchanges the heads once. A connected site calls it periodically."""


async def exchange_nothing(_: grpc.aio.Channel) -> None:
    """Do nothing: the site keeps no audit log."""


def exchanging(
    site: str,
    audit: Audit,
    witness: Witness,
    say: Callable[[str], None],
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    count: Count = egress.nowhere,
) -> Exchange:
    """Return an exchange in two calls: the first reply brings the server's head, the second request signs it.

    Args:
        site: the name of this site.
        audit: its audit log.
        witness: signs and stores heads.
        say: shows a line to the site's people.
        clock: the time that is signed.
        count: counts the bytes that leave.

    """
    write = egress.counted(pb.WitnessRequest.SerializeToString, lambda _: "audit heads", count)

    async def call(channel: grpc.aio.Channel, request: pb.WitnessRequest) -> pb.WitnessReply:
        request.head.number, request.head.digest = audit.head
        ask = channel.unary_unary(f"/{protocol.SERVICE}/Witness", write, pb.WitnessReply.FromString)
        reply: pb.WitnessReply = await ask(request, timeout=WITHIN_S)
        witness.keep(from_wire(reply.signed, site, SERVER), SERVER)
        return reply

    async def exchange(channel: grpc.aio.Channel) -> None:
        try:
            reply = await call(channel, pb.WitnessRequest())
            signed = witness.sign(SERVER, ChainHead(reply.head.number, reply.head.digest), clock())
            await call(channel, pb.WitnessRequest(signed=to_wire(signed)))
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                say(f"the server did not sign this site's audit log: {protocol.plain(error.details() or '', 300)}")
            elif error.code() != grpc.StatusCode.UNIMPLEMENTED:  # an older server
                log.warning("the audit log's head was not sent to the server: %s", error.code())
        except (RefusedError, ValueError, OSError) as error:
            log.exception("the audit logs' heads were not exchanged")
            say(f"the server's audit log: {error.why if isinstance(error, RefusedError) else 'it could not be read'}")

    return exchange
