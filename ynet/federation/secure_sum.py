"""Secure aggregation: the server learns the sum of the sites' vectors, and of each vector nothing.

Every two sites agree on a mask that one adds and the other subtracts (Bonawitz et al., CCS 2017, without its recovery
of drop-outs: a sum that lost a site is begun again with fresh keys). Keys are X25519, fresh for each sum, and signed
with the key of the site's certificate; masks are AES-256 in counter mode; arithmetic is modulo 2^64, so that what is
sent is uniform and the masks cancel without rounding.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ynet.config import STRICT
from ynet.errors import RefusedError
from ynet.federation import identity
from ynet.weights import Flat

LEAST, MOST = 3, 64  # sites: of two, each knows the other's vector from the sum
FRACTION_BITS = 30  # of a fixed-point number
LARGEST = float(1 << 26)  # of what is masked: with the fraction and MOST sites the sum stays below 2^63
CHUNK_VALUES = 1 << 20  # masked at a time

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,128}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Masked = npt.NDArray[np.uint64]


class Purpose(NamedTuple):
    """What a sum is for: keys are good for one of them."""

    run: str
    round: int
    attempt: int


@dataclass(frozen=True, config=STRICT)
class Offer:
    """A site's part in one sum: its fresh key, signed."""

    site: str
    certificate: str  # PEM
    key: Key  # X25519, hexadecimal
    signature: Hex  # over purpose, site and key, by the certificate's key, hexadecimal


_ROSTER = TypeAdapter(list[Offer])


class Keys:
    """A site's fresh keys for one sum. They sum once, and are then forgotten."""

    def __init__(self, own: identity.Identity, site: str, purpose: Purpose) -> None:
        self._secret: X25519PrivateKey | None = X25519PrivateKey.generate()
        self.purpose = purpose
        public = self._secret.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        signature = identity.sign(own.key, _signed(purpose, site, public.hex()))
        self.offer = Offer(site, own.certificate.decode(), public.hex(), signature.hex())

    def mask(self, values: Flat, weight: int, roster: Sequence[Offer]) -> Masked:
        """`weight` times `values` as fixed-point numbers, masked; shape (values,). The roster is one that was checked.

        The weight is the site's own word: were it the server's, a server could give all the others none. Raises
        RefusedError when these keys have summed before, or the roster holds another offer of this site.
        """
        if self._secret is None:
            raise _refused("these keys have been used for a sum already")
        if self.offer not in roster:
            raise _refused("the roster does not hold this site's own key")
        secret, self._secret = self._secret, None
        total = fixed_point(values, weight)
        bound = digest(self.purpose, roster)
        others = [offer for offer in roster if offer.site != self.offer.site]
        pair_keys = [_pair_key(secret, offer, bound) for offer in others]
        for offer, key in zip(others, pair_keys, strict=True):
            _add_stream(total, key, is_added=self.offer.site < offer.site)
        return total


def check_roster(
    roster: Sequence[Offer], purpose: Purpose, authority: bytes, least: int, now: dt.datetime
) -> Sequence[Offer]:
    """The roster, when all of it is in order: enough sites, each once, each key signed for this purpose.

    Raises RefusedError.
    """
    if len(roster) < max(least, LEAST):
        raise _refused(f"the sum has {len(roster)} sites, and this site asks for {max(least, LEAST)}")
    if len(roster) > MOST:
        raise _refused(f"the sum has {len(roster)} sites; at most {MOST} can be summed")
    if len({offer.site for offer in roster}) != len(roster) or len({offer.key for offer in roster}) != len(roster):
        raise _refused("a site or a key stands in the roster twice")
    for offer in roster:
        certificate = offer.certificate.encode()
        identity.check_member(certificate, offer.site, authority, now)
        message = _signed(purpose, offer.site, offer.key)
        identity.check_signature(certificate, bytes.fromhex(offer.signature), message)
    return roster


def unmask(masked: Mapping[str, Masked]) -> npt.NDArray[np.float64]:
    """The sum of what all sites of one roster masked."""
    total: Masked = np.zeros(len(next(iter(masked.values()))), np.uint64)
    for vector in masked.values():
        total += vector
    return total.view(np.int64) / float(1 << FRACTION_BITS)


def fixed_point(values: Flat, weight: int) -> Masked:
    """`weight` times `values` in two's complement with FRACTION_BITS. Raises RefusedError when one is too large."""
    scaled = values.astype(np.float64) * weight
    if not np.all(np.abs(scaled) <= LARGEST):  # nor is NaN
        raise _refused("the update holds a value that is too large, or no number")
    return np.rint(scaled * (1 << FRACTION_BITS)).astype(np.int64).view(np.uint64)


def to_wire(masked: Masked) -> Flat:
    """The bits of a masked vector as twice as many float32: what a message carries. A view."""
    return masked.view(np.float32)


def from_wire(bits: Flat) -> Masked:
    """The inverse of `to_wire`. Raises RefusedError when there is half a number too many."""
    if bits.size % 2:
        raise _refused("a masked vector has half a number too many")
    return np.ascontiguousarray(bits).view(np.uint64)


def digest(purpose: Purpose, roster: Sequence[Offer]) -> bytes:
    """What all sites of a sum must agree on, 32 bytes: masks that were made for different rosters do not cancel."""
    offers = sorted((offer.site, offer.key) for offer in roster)
    return hashlib.sha256(_canonical([*purpose, offers])).digest()


def roster_to_json(roster: Sequence[Offer]) -> str:
    """A roster as it goes over the wire."""
    return json.dumps([asdict(offer) for offer in roster])


def roster_from_json(text: str) -> list[Offer]:
    """A roster that came over the wire, its signatures not yet checked. Raises RefusedError."""
    try:
        return _ROSTER.validate_json(text)
    except ValidationError:
        raise _refused("the roster cannot be read") from None


def _pair_key(secret: X25519PrivateKey, offer: Offer, bound: bytes) -> bytes:
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(offer.key)))
    except ValueError:
        raise _refused(f"the key of site {offer.site} makes no secret") from None
    return HKDF(hashes.SHA256(), 32, salt=bound, info=b"ynet secure sum 1").derive(shared)


def _add_stream(total: Masked, key: bytes, *, is_added: bool) -> None:
    """Add, or subtract, the mask of a key, in place. Each key makes one mask, so that the counter begins at 0."""
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    zeros, out = bytes(8 * CHUNK_VALUES), bytearray(8 * CHUNK_VALUES + 15)
    for start in range(0, len(total), CHUNK_VALUES):
        part = total[start : start + CHUNK_VALUES]
        written = stream.update_into(memoryview(zeros)[: 8 * len(part)], out)
        mask = np.frombuffer(out, "<u8", written // 8)
        if is_added:
            part += mask
        else:
            part -= mask


def _signed(purpose: Purpose, site: str, key: str) -> bytes:
    return b"ynet secure sum 1\0" + _canonical([*purpose, site, key])


def _canonical(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def _refused(why: str) -> RefusedError:
    return RefusedError(
        "a secure sum was refused", why, "ask the coordinator; nothing of the update has left this site"
    )
