"""The rotation of authorities at a site: it pins a successor that the authority it trusts has signed.

No message of a hub can make a site trust another authority, or drop the newest one that it trusts.
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
"""The largest number of refusals that one process reports and records, so that a hub cannot fill the disk."""

Follow = Callable[[Membership, pb.Authorities], Membership]
"""Returns the membership after an announcement of the hub. Raises RefusedError, and then changes nothing."""
Did = Callable[[Act, str, str], None]
"""Writes an action, its object and its outcome to the audit log."""


def pinned(member: Membership) -> list[bytes]:
    """Return the SHA-256 of the authorities that a site has pinned, the older first."""
    return [identity.fingerprint(one) for one in identity.each_certificate(member.authority)]


def is_behind(member: Membership) -> bool:
    """Return whether the site's own certificate was issued by an older authority than the newest pinned one."""
    return not identity.is_issued_by(member.certificate, identity.each_certificate(member.authority)[-1])


def followed(member: Membership, announced: pb.Authorities, now: dt.datetime) -> Membership:
    """Return the membership with the authorities that are in force. Raises RefusedError for an invalid successor.

    1. A successor is pinned if the newest pinned authority has signed it.
    2. An older authority is dropped if it has ended and the site's own certificate does not need it.
    """
    have = identity.each_certificate(member.authority)
    if announced.HasField("successor"):
        shown = _first(announced.successor.certificate)
        if shown not in have:
            have.append(succession.check(announced.successor.certificate, announced.successor.signature, have[-1], now))
    keep = [one for one in have[:-1] if identity.fingerprint(one) in announced.in_force] + have[-1:]
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
    """Return a function that follows announcements and stores the membership in `home` before it reports a change."""
    refused = 0

    def follow(member: Membership, announced: pb.Authorities) -> Membership:
        nonlocal refused
        try:
            made = followed(member, announced, clock())
        except RefusedError as error:
            refused += 1
            if refused <= MOST_REFUSED:
                log.warning("%s: %s", error.what, error.why)
                did("authority-refused", _fingerprint(announced.successor.certificate), error.why)
                say(str(error))
            raise
        if made.authority == member.authority:
            return member
        membership.pin(home, made)
        _report(member, made, say, did)
        return made

    return follow


def _report(old: Membership, new: Membership, say: Callable[[str], None], did: Did) -> None:
    before, after = pinned(old), pinned(new)
    for one in after:
        if one not in before:
            did("authority-pinned", one.hex(), "done")
            say(f"the consortium has a new authority, signed by the one that this site trusts: SHA-256 {one.hex()}")
    for one in before:
        if one not in after:
            did("authority-let-go", one.hex(), "done")
            say(f"the consortium's old authority is in force no more: SHA-256 {one.hex()}")


def unkept(member: Membership, announced: pb.Authorities) -> Membership:
    """Follow an announcement without storing the membership."""
    return followed(member, announced, dt.datetime.now(dt.UTC))


def ended(successions: Sequence[object], authorities: bytes) -> dt.datetime | None:
    """Return when a pinned authority ended, if it has signed its successor; None otherwise.

    `successions` is what the enrolment port sends.
    """
    for one in successions:
        try:
            values = one if isinstance(one, dict) else {}
            signature, successor = bytes.fromhex(str(values["signature"])), bytes.fromhex(str(values["successor"]))
            at = dt.datetime.fromtimestamp(float(values["ended"]), dt.UTC)
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


def _fingerprint(certificate: bytes) -> str:
    """Return a certificate's SHA-256; empty when it is no certificate."""
    first = _first(certificate)
    return identity.fingerprint(first).hex() if first else ""
