"""What a site does when it is told which authorities are in force: it pins a successor that the one it trusts signed.

Nothing that a hub says makes a site trust another authority, or let go of the newest one it trusts.
"""

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from ynet.errors import RefusedError
from ynet.federation import hub_pb2 as pb
from ynet.trust import identity, succession
from ynet.trust.succession import Past
from ynet_client.audit import Act
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership

log = logging.getLogger("ynet.succession")
MOST_REFUSED = 16
"""Refusals that are told and written down in one process's life: no hub fills a site's disk with them."""

Follow = Callable[[Membership, pb.Authorities], Membership]
"""The membership after what was told. Raises RefusedError, and then nothing is changed."""
Did = Callable[[Act, str, str], None]
"""Writes an act, what it was about, and its outcome into the audit log."""


def pinned(member: Membership) -> list[bytes]:
    """The SHA-256 of the authorities that a site has pinned, the older one first."""
    return [identity.fingerprint(one) for one in identity.each_certificate(member.authority)]


def is_behind(member: Membership) -> bool:
    """Whether the site's own certificate is of another authority than the newest that it has pinned."""
    return not identity.is_issued_by(member.certificate, identity.each_certificate(member.authority)[-1])


def followed(member: Membership, told: pb.Authorities, now: dt.datetime) -> Membership:
    """The membership with the authorities that are in force. Raises RefusedError for a successor that is none.

    1. A successor is pinned when the newest that the site has pinned signed it: no other could vouch for it.
    2. An older one is let go when it is in force no more, and the site's own certificate does not need it.
    """
    have = identity.each_certificate(member.authority)
    if told.HasField("successor"):
        shown = _first(told.successor.certificate)
        if shown not in have:
            have.append(succession.check(told.successor.certificate, told.successor.signature, have[-1], now))
    keep = [one for one in have[:-1] if identity.fingerprint(one) in told.in_force] + have[-1:]
    if not identity.is_issued_by(member.certificate, b"".join(keep)):
        keep = have
    gone = [Past(one, round(now.timestamp(), 3)) for one in have if one not in keep]
    return member._replace(authority=b"".join(keep), past=(*member.past, *gone))


def following(
    home: Path,
    say: Callable[[str], None],
    did: Did = lambda *_: None,
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> Follow:
    """What a site does that keeps its membership in `home`: it is on disk before anybody is told of it."""
    refused = 0

    def follow(member: Membership, told: pb.Authorities) -> Membership:
        nonlocal refused
        try:
            made = followed(member, told, clock())
        except RefusedError as error:
            refused += 1
            if refused <= MOST_REFUSED:
                log.warning("%s: %s", error.what, error.why)
                did("authority-refused", _named(told.successor.certificate), error.why)
                say(str(error))
            raise
        if made.authority == member.authority:
            return member
        membership.pin(home, made)
        _tell(member, made, say, did)
        return made

    return follow


def _tell(old: Membership, new: Membership, say: Callable[[str], None], did: Did) -> None:
    before, after = pinned(old), pinned(new)
    for one in after:
        if one not in before:
            did("authority-pinned", one.hex(), "done")
            say(f"the consortium has a new authority, signed by the one that this site trusts: SHA-256 {one.hex()}")
    for one in before:
        if one not in after:
            did("authority-let-go", one.hex(), "done")
            say(f"the consortium's old authority is in force no more: SHA-256 {one.hex()}")


def unkept(member: Membership, told: pb.Authorities) -> Membership:
    """Of a site that keeps its membership nowhere."""
    return followed(member, told, dt.datetime.now(dt.UTC))


def ended(successions: Sequence[object], authorities: bytes) -> dt.datetime | None:
    """When the authority that a site has pinned ended, where it has said itself, by a signature, who follows it.

    `successions` as the enrolment port tells them.
    """
    for one in successions:
        try:
            told = one if isinstance(one, dict) else {}
            signature, successor = bytes.fromhex(str(told["signature"])), bytes.fromhex(str(told["successor"]))
            at = dt.datetime.fromtimestamp(float(told["ended"]), dt.UTC)
        except (ValueError, KeyError, TypeError, OverflowError, OSError):
            continue
        if any(succession.is_signed(mine, successor, signature) for mine in identity.each_certificate(authorities)):
            return at
    return None


def _first(certificate: bytes) -> bytes:
    try:
        return identity.first_certificate(certificate[: succession.MAX_CERTIFICATE_BYTES])
    except ValueError:
        return b""


def _named(certificate: bytes) -> str:
    """The SHA-256 by which a certificate is known; of what is none, nothing."""
    first = _first(certificate)
    return identity.fingerprint(first).hex() if first else ""
