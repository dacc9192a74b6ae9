"""An invitation: address, one-time secret and the authority's fingerprint in one string for copying."""

import base64
import binascii
import hashlib
import hmac
import secrets
import zlib
from typing import NamedTuple

from ynet.errors import UserError

PREFIX = "ynet1."
LIFE_S = 24 * 3600
SECRET_BYTES = 16


class Invitation(NamedTuple):
    """An invitation of one site, which the coordinator sends to its admin over a trusted channel."""

    address: str  # host:port of enrolment
    secret: bytes  # 16 bytes
    fingerprint: bytes  # SHA-256 of the authority's certificate, 32 bytes

    def to_text(self) -> str:
        """Return `ynet1.` followed by base64url of secret, fingerprint, address and their CRC-32."""
        body = self.secret + self.fingerprint + self.address.encode("ascii")
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).rstrip(b"=").decode()


def new_secret() -> bytes:
    """Make a secret for one enrolment."""
    return secrets.token_bytes(SECRET_BYTES)


def parse(text: str) -> Invitation:
    """Parse an invitation.

    Raises:
        UserError: It is not an invitation, or not complete.
    """
    text = "".join(text.split())
    fault = UserError(
        "the invitation cannot be read",
        "it was changed or not copied whole",
        "paste it again; it begins with ynet1. and is one word",
    )
    if not text.startswith(PREFIX) or len(text) > 500:
        raise fault
    encoded = text.removeprefix(PREFIX)
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        body, checksum = raw[:-4], raw[-4:]
        address = body[SECRET_BYTES + 32 :].decode("ascii")
    except (binascii.Error, ValueError):
        raise fault from None
    read = Invitation(address, body[:SECRET_BYTES], body[SECRET_BYTES : SECRET_BYTES + 32])
    if checksum != _checksum(body) or ":" not in address or read.to_text() != text:
        raise fault
    return read


def proof(verifier: bytes, site: str, csr: bytes) -> bytes:
    """Return the HMAC that proves possession of the invitation, bound to the site's name and its request."""
    return hmac.new(verifier, b"ynet enrolment 1\0" + site.encode() + b"\0" + csr, hashlib.sha256).digest()


def verifier(secret: bytes) -> bytes:
    """Return the hash of a secret that the server stores."""
    return hashlib.sha256(b"ynet invitation 1\0" + secret).digest()


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")
