"""How one authority follows another: the older one's key signs the newer one's certificate, in a statement of its own.

It is no certificate: authorities are made with a path of length 0, and nothing is to chain through them.
"""

import datetime as dt
from typing import NamedTuple

from ynet.errors import RefusedError
from ynet.trust import identity
from ynet.trust.identity import Signer

MAX_CERTIFICATE_BYTES = 8 * 1_024


class Past(NamedTuple):
    """An authority that is in force no more. What was signed under it before its end stays signed."""

    certificate: bytes  # PEM
    until: float  # seconds since 1970


def sign(authority: Signer, successor: bytes) -> bytes:
    """The authority's word that a PEM certificate is its successor's."""
    return identity.sign(authority.key, _message(authority.certificate, successor))


def check(successor: bytes, signature: bytes, authority: bytes, now: dt.datetime) -> bytes:
    """The successor's PEM certificate, alone, when the authority of a PEM certificate named it. Raises RefusedError."""
    try:
        if len(successor) > MAX_CERTIFICATE_BYTES:
            raise ValueError
        certificate = identity.first_certificate(successor)
        leaf = identity.read_leaf(certificate)
    except ValueError:
        raise refused("it cannot be read") from None
    try:
        identity.check_signature(authority, signature, _message(authority, certificate))
    except RefusedError:
        raise refused("it is not signed by the one that this site has pinned") from None
    if leaf.site is not None or not identity.is_issued_by(certificate, certificate):
        raise refused("its certificate is no authority's")
    if not leaf.begins <= now <= leaf.ends:
        raise refused("its certificate is not in force")
    return certificate


def is_signed(authority: bytes, successor_sha256: bytes, signature: bytes) -> bool:
    """Whether the authority of a PEM certificate once named the successor of this fingerprint."""
    try:
        identity.check_signature(authority, signature, _named(identity.fingerprint(authority), successor_sha256))
    except (RefusedError, ValueError):
        return False
    return True


def refused(why: str) -> RefusedError:
    """The refusal of a successor."""
    do = "ask the coordinator whether the authority was rotated; if not, somebody else answers in the server's place"
    return RefusedError("a new authority was refused", why, do)


def _message(authority: bytes, successor: bytes) -> bytes:
    return _named(identity.fingerprint(authority), identity.fingerprint(successor))


def _named(authority_sha256: bytes, successor_sha256: bytes) -> bytes:
    return b"ynet authority succession 1\0" + authority_sha256 + successor_sha256
