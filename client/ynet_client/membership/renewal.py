"""The renewal of a site's certificate over its live connection, with a new key."""

import datetime as dt
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust import expiry, identity
from ynet_client import egress
from ynet_client.egress import Count
from ynet_client.membership import membership, succession
from ynet_client.membership.membership import Membership

log = logging.getLogger("ynet.renewal")
WITHIN_S = 30.0


Renew = Callable[[Membership, grpc.aio.Channel, bool], Awaitable[Membership | None]]
"""Returns the membership with a new certificate; None while none is due. The last argument says whether the hub issues
certificates of a new authority, so that one of the older authority must be renewed."""


async def never(_: Membership, __: grpc.aio.Channel, ___: bool) -> Membership | None:
    """Do not renew: the site stores its membership nowhere."""
    return None


def renewing(
    home: Path,
    say: Callable[[str], None],
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    count: Count = egress.nowhere,
) -> Renew:
    """Return a function that renews the certificate when it is due, and warns when it is about to expire."""
    warnings = expiry.Warnings()

    async def renew(member: Membership, channel: grpc.aio.Channel, moves: bool) -> Membership | None:
        try:
            made = await renewed(home, member, channel, clock(), count, moves=moves)
        except grpc.aio.AioRpcError as error:
            log.warning("the certificate could not be renewed: %s", protocol.plain(error.details() or "", 500))
            made = None
        except (UserError, OSError, ValueError):
            log.exception("the certificate could not be renewed")
            made = None
        newest = made or member
        if made:
            say(f"the certificate was renewed: {expiry.in_words(newest.life, clock())}")
        if warning := warnings.new(member.site, newest.life, clock()):
            log.warning("this site's certificate: %s", warning)
            say(
                f"this site's certificate: {warning}; its renewal has failed so far, and {home / 'client.log'} says why"
            )
        return made

    return renew


async def renewed(
    home: Path,
    member: Membership,
    channel: grpc.aio.Channel,
    now: dt.datetime,
    count: Count = egress.nowhere,
    *,
    moves: bool = False,
) -> Membership | None:
    """Return the membership with a new key and certificate, stored in `home`; None while that is not due.

    It may be interrupted at any point: the hub accepts the old certificate until the new one is used, and a repeat uses
    the same key. Raises grpc.aio.AioRpcError, and RefusedError for a bad certificate.
    """
    kept = membership.load(home)
    if kept is not None and kept.certificate != member.certificate:
        return kept  # renewed before the connection broke, and not used yet
    moves = moves and succession.is_behind(member)
    if not moves and not identity.due_for_renewal(member.certificate, now):
        return None
    # 1. Make a key, stored beside the current one, and sign a request with it.
    key = membership.next_key(home)
    write = egress.counted(pb.RenewRequest.SerializeToString, lambda _: "certificates", count)
    ask = channel.unary_unary(f"/{protocol.SERVICE}/Renew", write, pb.Renewal.FromString)
    request = pb.RenewRequest(csr=identity.signing_request(key, member.site), authorities=succession.pinned(member))
    answer = await ask(request, timeout=WITHIN_S)
    # 2. Check the certificate: issued by the authority, for this site and key, and newer than the current one.
    certificate = _checked(answer.certificate, member, key, now)
    if not moves and member.life.begins <= now and identity.read_leaf(certificate).ends <= member.ends:
        raise _refused("it ends no later than the one before")
    if moves and succession.is_behind(member._replace(certificate=certificate)):
        raise _refused("it is not of the new authority")
    # 3. Store it.
    log.info("the certificate was renewed, SHA-256 %s", identity.fingerprint(certificate).hex())
    newest = membership.load(home) or member  # another authority may have been pinned since
    return membership.keep(home, newest._replace(key=key, certificate=certificate))


def _checked(certificate: bytes, member: Membership, key: bytes, now: dt.datetime) -> bytes:
    identity.check_member(certificate, member.site, member.authority, now)
    if not identity.has_key(certificate, key):
        raise _refused("it is for another key")
    return identity.first_certificate(certificate)


def _refused(why: str) -> RefusedError:
    return RefusedError("the new certificate was refused", why, "ask the coordinator")
