"""Witnessing of audit logs: the server signs the heads of sites' logs, and keeps their signatures of its own."""

import datetime as dt
import logging
import re
from collections.abc import Callable

import grpc

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.federation.countersigned import SERVER, Witness, from_wire, to_wire
from ynet.trust.chain import ChainHead
from ynet_server.audit import ServerAudit, Write
from ynet_server.hub.peers import calling_site

log = logging.getLogger("ynet.hub.witness")
DIGEST = re.compile(r"[0-9a-f]{64}")

Context = grpc.aio.ServicerContext


def service(
    witness: Witness,
    audit: ServerAudit,
    write: Write,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> grpc.GenericRpcHandler:
    """The method under its name on the wire. `write` adds to `audit`, and may do more."""

    async def answer(request: pb.WitnessRequest, context: Context) -> pb.WitnessReply:
        site = calling_site()
        if not DIGEST.fullmatch(request.head.digest):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "that is no head of a log")
        try:
            if request.HasField("signed"):
                witness.keep(from_wire(request.signed, SERVER, site), site)
            signed = witness.sign(site, ChainHead(request.head.number, request.head.digest), clock())
        except RefusedError as error:
            log.warning("of site %s: %s: %s", site, error.what, error.why)
            write("audit-refused", site, error.why)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{error.what}: {error.why}")
            raise AssertionError from None
        return pb.WitnessReply(signed=to_wire(signed), head=pb.LedgerHead(**audit.head._asdict()))

    handler = grpc.unary_unary_rpc_method_handler(
        answer, pb.WitnessRequest.FromString, pb.WitnessReply.SerializeToString
    )
    return grpc.method_handlers_generic_handler(protocol.SERVICE, {"Witness": handler})
