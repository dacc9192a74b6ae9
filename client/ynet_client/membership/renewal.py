"""Renewal of a site's certificate over its live connection: a new key, a request, and both kept together."""

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
"""The membership with a new certificate; None while there is none. The last argument: whether the hub gives those of a
new authority now, so that one of the older is due."""


async def never(_: Membership, __: grpc.aio.Channel, ___: bool) -> Membership | None:
    """Of a site that keeps its membership nowhere: no renewal."""
    return None


def renewing(
    home: Path,
    say: Callable[[str], None],
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    count: Count = egress.nowhere,
) -> Renew:
    """What a connected site does about its certificate again and again: renews it, or says how long it is good."""
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
        if told := warnings.new(member.site, newest.life, clock()):
            log.warning("this site's certificate: %s", told)
            say(f"this site's certificate: {told}; its renewal has failed so far, and {home / 'client.log'} says why")
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
    """The membership with a new key and certificate, kept in `home`; None while that is not due.

    Nothing is lost when this ends anywhere in between: until the new certificate is used, the hub takes the old one
    too, and a repeat asks with the same key. Raises grpc.aio.AioRpcError, and RefusedError for an answer that is none.
    """
    kept = membership.load(home)
    if kept is not None and kept.certificate != member.certificate:
        return kept  # renewed already, and not yet used: the connection broke in between
    moves = moves and succession.is_behind(member)
    if not moves and not identity.due_for_renewal(member.certificate, now):
        return None
    # 1. A key of our own, kept beside the one in use, and a request signed with it.
    key = membership.next_key(home)
    write = egress.counted(pb.RenewRequest.SerializeToString, lambda _: "certificates", count)
    ask = channel.unary_unary(f"/{protocol.SERVICE}/Renew", write, pb.Renewal.FromString)
    request = pb.RenewRequest(csr=identity.signing_request(key, member.site), authorities=succession.pinned(member))
    answer = await ask(request, timeout=WITHIN_S)
    # 2. The certificate is the authority's, for this site and this key, and good for longer, or of the newer authority.
    certificate = _checked(answer.certificate, member, key, now)
    if not moves and member.life.begins <= now and identity.read_leaf(certificate).ends <= member.ends:
        raise _refused("it ends no later than the one before")
    if moves and succession.is_behind(member._replace(certificate=certificate)):
        raise _refused("it is not of the new authority")
    # 3. From here on it is the one that counts.
    log.info("the certificate was renewed, SHA-256 %s", identity.fingerprint(certificate).hex())
    newest = membership.load(home) or member  # another authority may have been pinned meanwhile
    return membership.keep(home, newest._replace(key=key, certificate=certificate))


def _checked(certificate: bytes, member: Membership, key: bytes, now: dt.datetime) -> bytes:
    identity.check_member(certificate, member.site, member.authority, now)
    if not identity.has_key(certificate, key):
        raise _refused("it is for another key")
    return identity.first_certificate(certificate)


def _refused(why: str) -> RefusedError:
    return RefusedError("the new certificate was refused", why, "ask the coordinator")
