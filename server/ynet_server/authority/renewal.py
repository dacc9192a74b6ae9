"""The hub's methods for certificates: a renewal in the last third of its life, and a probe of its state."""

import datetime as dt
import logging
from collections.abc import Callable, Collection

import grpc

from ynet import __version__
from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust import identity
from ynet.trust.identity import CLOCK_SLACK, Signer
from ynet_server.audit import Write, nowhere
from ynet_server.hub.peers import GrpcPeer, peer
from ynet_server.registry import Registry

log = logging.getLogger("ynet.renewal")
MAX_CSR_BYTES = 8 * 1_024

Context = grpc.aio.ServicerContext


SuccessorFor = Callable[[Collection[bytes]], Signer | None]
"""Maps the fingerprints that a site has pinned to the successor, when that must issue the site's next certificate."""


def no_successor(_: Collection[bytes]) -> Signer | None:
    """The `SuccessorFor` of an authority without a successor."""
    return None


def renew(
    registry: Registry,
    authority: Signer,
    asked: GrpcPeer,
    csr: bytes,
    now: dt.datetime,
    successor: Signer | None = None,
) -> bytes:
    """Issue the certificate that follows a site's own, PEM, for the key in `csr`. Raises RefusedError.

    A `successor` issues it, if given, and then at once when the site's own certificate is not from it.

    The same key may ask again, since an answer can be lost. A request with another key replaces an unused renewal. The
    site's current certificate stays valid until the renewal is used.
    """
    public, signer = identity.public_key_of(csr), successor or authority
    issued = registry.next_certificate(asked.site)
    is_his = issued is not None and identity.same_key(issued, public)
    if issued is not None and is_his and identity.is_issued_by(issued, signer.certificate) and _lasts(issued, now):
        return issued
    moves = successor is not None and not identity.is_issued_by(asked.certificate, successor.certificate)
    if not moves and not identity.due_for_renewal(asked.certificate, now + CLOCK_SLACK):
        raise RefusedError("no renewal", "the certificate is not in the last third of its life", "ask again later")
    certificate = identity.issue_site(signer, asked.site, csr, now)
    leaf = identity.read_leaf(certificate)
    registry.renew(asked.site, leaf.serial, certificate, now.timestamp(), leaf.ends.timestamp())
    log.info("site %s was given a new certificate, good until %s", asked.site, leaf.ends)
    return certificate


def _lasts(issued: bytes, now: dt.datetime) -> bool:
    """Whether an issued renewal can be sent again; one that was made while the clock was ahead cannot."""
    return not identity.due_for_renewal(issued, now + CLOCK_SLACK)


def service(
    registry: Registry,
    authority: Signer,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    audit: Write = nowhere,
    successor_for: SuccessorFor = no_successor,
    is_connected: Callable[[str], bool] = lambda _: False,
) -> grpc.GenericRpcHandler:
    """The methods under their names on the wire. `is_connected` returns whether a site is connected now."""

    async def answer_renew(request: pb.RenewRequest, context: Context) -> pb.Renewal:
        if len(request.csr) > MAX_CSR_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the signing request is too large")
        try:
            successor = successor_for(request.authorities)
            certificate = renew(registry, authority, peer(), request.csr, clock(), successor)
            audit("renewed", peer().site, identity.fingerprint(certificate).hex())
            return pb.Renewal(certificate=certificate)
        except RefusedError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.why)
            raise AssertionError from None

    async def answer_probe(_: pb.ProbeRequest, __: Context) -> pb.ProbeReply:
        oldest, newest = protocol.SPOKEN
        reply = pb.ProbeReply(protocol=newest, oldest=oldest, version=__version__)
        reply.time, reply.site = clock().timestamp(), peer().site
        reply.connected = is_connected(reply.site)
        return reply

    return grpc.method_handlers_generic_handler(
        protocol.SERVICE,
        {
            "Renew": grpc.unary_unary_rpc_method_handler(
                answer_renew, pb.RenewRequest.FromString, pb.Renewal.SerializeToString
            ),
            "Probe": grpc.unary_unary_rpc_method_handler(
                answer_probe, pb.ProbeRequest.FromString, pb.ProbeReply.SerializeToString
            ),
        },
    )
