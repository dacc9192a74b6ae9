"""An invitation: address, one-use secret and authority fingerprint in one string that can be read out and pasted."""

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
    """What a coordinator gives to one site's admin, over a channel that they trust."""

    address: str  # host:port of enrolment
    secret: bytes  # 16 bytes
    fingerprint: bytes  # SHA-256 of the authority's certificate, 32 bytes

    def to_text(self) -> str:
        """One word: `ynet1.` and base64url of secret, fingerprint, address and a CRC-32 of them."""
        body = self.secret + self.fingerprint + self.address.encode("ascii")
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).rstrip(b"=").decode()


def new_secret() -> bytes:
    """A secret for one enrolment."""
    return secrets.token_bytes(SECRET_BYTES)


def parse(text: str) -> Invitation:
    """The invitation that `to_text` wrote. Raises UserError when it is none or was not copied whole."""
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
    """HMAC by which a site shows that it holds the invitation, bound to its name and its request."""
    return hmac.new(verifier, b"ynet enrolment 1\0" + site.encode() + b"\0" + csr, hashlib.sha256).digest()


def verifier(secret: bytes) -> bytes:
    """What the server keeps of a secret."""
    return hashlib.sha256(b"ynet invitation 1\0" + secret).digest()


def _checksum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "big")
