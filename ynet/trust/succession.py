"""The succession of authorities: the old authority's key signs a statement on the new one's certificate.

The statement is not a certificate: authorities have a path length of 0, so no certificate may chain through them.
"""

import datetime as dt
from typing import NamedTuple

from ynet.errors import RefusedError
from ynet.trust import identity
from ynet.trust.identity import Signer

MAX_CERTIFICATE_BYTES = 8 * 1_024


class Past(NamedTuple):
    """A retired authority. Its signatures from before its end stay valid."""

    certificate: bytes  # PEM
    until: float  # seconds since 1970


def sign(authority: Signer, successor: bytes) -> bytes:
    """Sign the statement that a PEM certificate is the authority's successor's."""
    return identity.sign(authority.key, _message(authority.certificate, successor))


def check(successor: bytes, signature: bytes, authority: bytes, now: dt.datetime) -> bytes:
    """Verify that `authority`, a PEM certificate, signed the successor; return the successor's PEM certificate alone.

    Raises:
        RefusedError: The signature is wrong, or the certificate is not a valid authority's.
    """
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
        raise refused("its certificate is not an authority's")
    if not leaf.begins <= now <= leaf.ends:
        raise refused("its certificate is not in force")
    return certificate


def is_signed(authority: bytes, successor_sha256: bytes, signature: bytes) -> bool:
    """Return whether the authority of a PEM certificate signed the successor with this fingerprint."""
    try:
        identity.check_signature(authority, signature, _named(identity.fingerprint(authority), successor_sha256))
    except (RefusedError, ValueError):
        return False
    return True


def refused(why: str) -> RefusedError:
    """Return the error for a refused successor."""
    do = "ask the coordinator whether the authority was rotated; if not, somebody impersonates the server"
    return RefusedError("a new authority was refused", why, do)


def _message(authority: bytes, successor: bytes) -> bytes:
    return _named(identity.fingerprint(authority), identity.fingerprint(successor))


def _named(authority_sha256: bytes, successor_sha256: bytes) -> bytes:
    return b"ynet authority succession 1\0" + authority_sha256 + successor_sha256
