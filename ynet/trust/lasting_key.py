"""A site's lasting key: other sites recognise the site by it, whatever certificate the server issues in its name.

The server holds the authority's key, so it can issue certificates for any site; and they change every few weeks. The
lasting key (Ed25519) is made once at the site, never leaves it, and signs each certificate that the site uses. Two
admins compare its fingerprint by telephone. A site with an older version has no lasting key: then the fingerprint is
of its certificate's key, and changes with each renewal.
"""

import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ynet.errors import RefusedError, UserError
from ynet.trust import identity

FINGERPRINT_BYTES = 16
"""128 bits are enough against a second key with the same fingerprint; 32 digits can still be read out."""
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def new_key() -> bytes:
    """Make a new key, PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_of(key: bytes) -> bytes:
    """Return the public half of a PEM key, 32 bytes.

    Raises:
        ValueError: It is not an Ed25519 key.
    """
    return _private(key).public_key().public_bytes_raw()


def vouch(key: bytes, site: str, certificate: bytes) -> bytes:
    """Sign the statement that `site` uses a PEM certificate.

    Raises:
        ValueError: The key is not an Ed25519 key, or the certificate is not PEM.
    """
    return _private(key).sign(_message(site, certificate))


def fingerprint(site: str, certificate: bytes, public: bytes, vouched: bytes) -> str:
    """Return the site's fingerprint, 32 hexadecimal digits: of its lasting key, or else of its certificate's key.

    Raises:
        RefusedError: The lasting key did not sign the PEM certificate.
    """
    if not public and not vouched:
        return _digest(site, b"certificate", identity.public_bytes(certificate))
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(vouched, _message(site, certificate))
    except (InvalidSignature, ValueError):
        why = "its lasting key did not sign its certificate"
        raise RefusedError("another site's message was refused", why, "ask that site's admin") from None
    return fingerprint_of(site, public)


def fingerprint_of(site: str, public: bytes) -> str:
    """Return the fingerprint of a public lasting key, 32 bytes."""
    return _digest(site, b"lasting", public)


def spoken(printed: str) -> str:
    """Format a fingerprint in groups of four digits, for reading out."""
    return " ".join(printed[start : start + 4] for start in range(0, len(printed), 4))


def read(text: str) -> str:
    """Parse a typed fingerprint, with or without groups.

    Raises:
        UserError: It is not a fingerprint.
    """
    found = re.sub(r"[\s:-]", "", text).lower()
    if not _FINGERPRINT.fullmatch(found):
        do = "copy it from the first line of that site's `ynet-client sites`"
        raise UserError(f"{text[:60]!r} is not a site's fingerprint", "a fingerprint has 32 digits, 0-9 and a-f", do)
    return found


def _private(key: bytes) -> Ed25519PrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if not isinstance(loaded, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    return loaded


def _message(site: str, certificate: bytes) -> bytes:
    return b"ynet lasting key 1\0" + site.encode() + b"\0" + identity.fingerprint(certificate)


def _digest(site: str, kind: bytes, public: bytes) -> str:
    parts = b"ynet site fingerprint 1\0" + site.encode() + b"\0" + kind + b"\0" + public
    return hashlib.sha256(parts).digest()[:FINGERPRINT_BYTES].hex()
