"""A site's lasting key: by it other sites know it again, whatever certificate the server gives in its name.

Certificates are the authority's word, whose key the server holds; they change every few weeks. The lasting key
(Ed25519) is made once at the site, never leaves it, and signs each certificate that the site uses. What two admins
compare by telephone is a fingerprint of it. A site with an older ynet has none: then the fingerprint is of its
certificate's key, and is another after each renewal.
"""

import hashlib
import re

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ynet.errors import RefusedError, UserError
from ynet.trust import identity

FINGERPRINT_BYTES = 16
"""Nobody finds another key with the same 128 bits for a given name; 32 digits can still be read out."""
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def new_key() -> bytes:
    """A fresh key, PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_of(key: bytes) -> bytes:
    """The public half of a PEM key, 32 bytes. Raises ValueError when it is none."""
    return _private(key).public_key().public_bytes_raw()


def vouch(key: bytes, site: str, certificate: bytes) -> bytes:
    """The key's signature that a PEM certificate is the one that `site` uses. Raises ValueError."""
    return _private(key).sign(_message(site, certificate))


def fingerprint(site: str, certificate: bytes, public: bytes, vouched: bytes) -> str:
    """By what `site` is known again, 32 hexadecimal digits; of its lasting key, if it shows one.

    Raises RefusedError where the lasting key did not sign the PEM certificate.
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
    """The fingerprint of a lasting key, public, 32 bytes."""
    return _digest(site, b"lasting", public)


def spoken(printed: str) -> str:
    """A fingerprint in groups of four, as it is read out."""
    return " ".join(printed[start : start + 4] for start in range(0, len(printed), 4))


def read(text: str) -> str:
    """A fingerprint as somebody has typed it, in groups or not. Raises UserError."""
    found = re.sub(r"[\s:-]", "", text).lower()
    if not _FINGERPRINT.fullmatch(found):
        do = "copy it from the first line of that site's `ynet-client sites`"
        raise UserError(f"{text[:60]!r} is no site's fingerprint", "one has 32 digits, 0-9 and a-f", do)
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
