"""The site's audit log, told to the server, which signs how far it goes; and the server's, which the site signs."""

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

Tell = Callable[[grpc.aio.Channel], Awaitable[None]]
"""What a connected site does about its audit log now and then."""


async def untold(_: grpc.aio.Channel) -> None:
    """Of a site that keeps no audit log."""


def telling(
    site: str,
    audit: Audit,
    witness: Witness,
    say: Callable[[str], None],
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    count: Count = egress.nowhere,
) -> Tell:
    """Exchanges the heads, twice: the first answer brings the server's head, which the second question signs."""
    write = egress.counted(pb.WitnessRequest.SerializeToString, lambda _: "audit heads", count)

    async def exchange(channel: grpc.aio.Channel, request: pb.WitnessRequest) -> pb.WitnessReply:
        request.head.number, request.head.digest = audit.head
        ask = channel.unary_unary(f"/{protocol.SERVICE}/Witness", write, pb.WitnessReply.FromString)
        reply: pb.WitnessReply = await ask(request, timeout=WITHIN_S)
        witness.keep(from_wire(reply.signed, site, SERVER), SERVER)
        return reply

    async def tell(channel: grpc.aio.Channel) -> None:
        try:
            told = await exchange(channel, pb.WitnessRequest())
            signed = witness.sign(SERVER, ChainHead(told.head.number, told.head.digest), clock())
            await exchange(channel, pb.WitnessRequest(signed=to_wire(signed)))
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.FAILED_PRECONDITION:
                say(f"the server did not sign this site's audit log: {protocol.plain(error.details() or '', 300)}")
            elif error.code() != grpc.StatusCode.UNIMPLEMENTED:  # an older server
                log.warning("the audit log was not told to the server: %s", error.code())
        except (RefusedError, ValueError, OSError) as error:
            log.exception("the audit logs' heads were not exchanged")
            say(f"the server's audit log: {error.why if isinstance(error, RefusedError) else 'it could not be read'}")

    return tell
