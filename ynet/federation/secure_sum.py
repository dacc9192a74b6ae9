"""Secure aggregation: the server learns the sum of the sites' vectors, and nothing about a single vector.

Each pair of sites agrees on a mask that one adds and the other subtracts (Bonawitz et al., CCS 2017, without the
recovery of drop-outs: a sum that loses a site is restarted with fresh keys). Each site also adds a mask of its own. It
sends this mask only when no site is missing, and then never sums the same values again. A server that falsely reports a
site as lost therefore learns the second sum, and nothing from the first. Keys are X25519, fresh for each sum, and
signed with the key of the site's certificate. Masks are AES-256 in counter mode. Arithmetic is modulo 2^64, so that
masked values are uniform and the masks cancel without rounding.
"""

import datetime as dt
import hashlib
import json
import secrets
import struct
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ynet.config import STRICT
from ynet.errors import RefusedError
from ynet.plan_sections import LEAST_SECURE, MOST_SECURE
from ynet.schedule import Cooldown
from ynet.trust import identity
from ynet.weights import Flat

FRACTION_BITS = 30  # of a fixed-point number
LARGEST = float(1 << 26)  # of what is masked: with the fraction and MOST_SECURE sites the sum stays below 2^63
CHUNK_VALUES = 1 << 20  # masked at a time
MASK_KEY_BYTES = 32
CURVE_PRIME = (1 << 255) - 19  # Curve25519's; a key at or above it is another spelling of a smaller one

Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2}){1,128}$")]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Masked = npt.NDArray[np.uint64]


class Purpose(NamedTuple):
    """The purpose of a sum; keys are valid for one purpose."""

    run: str  # the plan's id
    round: int
    attempt: int
    begins: str  # `beginning` of the round: a server that lets one site begin elsewhere knows the others' part


def beginning(
    flat: Flat | None, proximal_mu: float, cooldown: Cooldown | None = None, fixed: str = "", of: str = ""
) -> str:
    """SHA-256 of what is summed (`of`), and of the weights and options that it begins with, hexadecimal.

    `fixed` names the file of the run with the arrays that the message leaves out. Those of a pretrained encoder are
    named by the plan, which is a part of the sum's purpose.

    The place in the cool-down is one of the options: a server that sends all sites but one to its end, where the
    learning rate is small, would read the one site's update from the sum.
    """
    weights = b"" if flat is None else np.ascontiguousarray(flat, "<f4").tobytes()
    options = struct.pack("<d", proximal_mu) + (struct.pack("<II", *cooldown) if cooldown else b"")
    return hashlib.sha256(options + fixed.encode() + of.encode() + weights).hexdigest()


@dataclass(frozen=True, config=STRICT)
class Offer:
    """A site's signed fresh key for one sum."""

    site: Annotated[str, Field(max_length=32)]
    certificate: Annotated[str, Field(max_length=4096)]  # PEM
    key: Key  # X25519, hexadecimal
    signature: Hex  # over purpose, site and key, by the certificate's key, hexadecimal


_OFFER, _ROSTER = TypeAdapter(Offer), TypeAdapter(list[Offer])


class Keys(NamedTuple):
    """A site's secrets for one sum. Use them once: two sums under the same keys reveal their difference."""

    purpose: Purpose
    offer: Offer
    secret: bytes  # X25519, of `offer.key`
    own_mask: bytes  # the key of the mask that no other site can take off: given away when nobody is missing


def fresh_keys(own: identity.Identity, site: str, purpose: Purpose) -> Keys:
    """Make keys for one sum from the operating system's randomness, signed with the site's own key."""
    secret = X25519PrivateKey.generate()
    public = secret.public_key().public_bytes_raw().hex()
    signature = identity.sign(own.key, _signed(purpose, site, public))
    offer = Offer(site, own.certificate.decode(), public, signature.hex())
    return Keys(purpose, offer, secret.private_bytes_raw(), secrets.token_bytes(MASK_KEY_BYTES))


def mask(keys: Keys, values: Flat, weight: int, roster: Sequence[Offer]) -> Masked:
    """Mask `weight` times `values` as fixed-point numbers; shape (values,). The roster must be a checked one.

    The weight is the site's own word: were it the server's, a server could give all the others none. Raises
    RefusedError when the roster does not hold this site's offer, and for a value that is too large.
    """
    if keys.offer not in roster:
        raise refused("the roster does not hold this site's own key")
    total = fixed_point(values, weight)
    bound, secret = digest(keys.purpose, roster), X25519PrivateKey.from_private_bytes(keys.secret)
    others = [offer for offer in roster if offer.site != keys.offer.site]
    own = keys.offer.site
    for offer, pair_key in [(offer, _pair_key(secret, own, offer, bound)) for offer in others]:
        _add_stream(total, pair_key, is_added=own < offer.site)
    _add_stream(total, keys.own_mask, is_added=True)
    return total


def check_roster(
    roster: Sequence[Offer], purpose: Purpose, authority: bytes, least: int, now: dt.datetime
) -> Sequence[Offer]:
    """Check a roster: enough sites, each once, each key signed for this purpose. Returns it.

    Raises RefusedError.
    """
    if len(roster) < max(least, LEAST_SECURE):
        raise refused(f"the sum has {len(roster)} sites, and this site asks for {max(least, LEAST_SECURE)}")
    if len(roster) > MOST_SECURE:
        raise refused(f"the sum has {len(roster)} sites; at most {MOST_SECURE} can be summed")
    if len({offer.site for offer in roster}) != len(roster) or len({offer.key for offer in roster}) != len(roster):
        raise refused("a site or a key stands in the roster twice")
    for offer in roster:
        identity.check_member(offer.certificate.encode(), offer.site, authority, now)
        check_offer(offer, purpose, now)
    return roster


def check_offer(offer: Offer, purpose: Purpose, now: dt.datetime) -> None:
    """Check an offer's signature, its key, and its certificate's validity. Raises RefusedError."""
    certificate = offer.certificate.encode()
    try:
        leaf = identity.read_leaf(certificate)
    except ValueError:
        raise refused("a certificate in it cannot be read") from None
    if leaf.site != offer.site or not leaf.begins <= now <= leaf.ends:
        raise refused("a certificate in it is another site's, or not in force")
    identity.check_signature(certificate, bytes.fromhex(offer.signature), _signed(purpose, offer.site, offer.key))
    _shared(X25519PrivateKey.generate(), offer)


def add_up(masked: Sequence[Masked]) -> Masked:
    """Add what all sites of one roster sent; the sum is still under the sites' own masks."""
    total = np.zeros_like(masked[0])
    for vector in masked:
        total += vector
    return total


def unmask(total: Masked, own_masks: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """Remove the sites' own masks from the result of `add_up`. Returns the sum of the sites' weighted values.

    Raises RefusedError when the masks do not cancel: a site made its own for another roster, or named a wrong key.
    """
    bare = total.copy()
    for key in own_masks:
        _add_stream(bare, key, is_added=False)
    found = from_fixed_point(bare)
    if np.abs(found).max(initial=0.0) > LARGEST * len(own_masks):
        raise refused("the masks do not cancel")
    return found


def fixed_point(values: Flat, weight: int) -> Masked:
    """`weight` times `values` in two's complement with FRACTION_BITS. Raises RefusedError when one is too large."""
    scaled = values.astype(np.float64) * weight
    if not np.all(np.abs(scaled) <= LARGEST):  # nor is NaN
        raise refused("the update holds a value that is too large, or no number")
    return np.rint(scaled * (1 << FRACTION_BITS)).astype(np.int64).view(np.uint64)


def from_fixed_point(total: Masked) -> npt.NDArray[np.float64]:
    """The inverse of `fixed_point`, also for a sum of its results."""
    return total.view(np.int64) / float(1 << FRACTION_BITS)


def to_wire(masked: Masked) -> Flat:
    """The bits of a masked vector as twice as many float32, for a message. A view."""
    return masked.view(np.float32)


def from_wire(bits: Flat) -> Masked:
    """The inverse of `to_wire`. Raises RefusedError for an odd number of values."""
    if bits.ndim != 1 or bits.size % 2:
        raise refused("a masked vector has half a number too many, or is none")
    return np.ascontiguousarray(bits).view(np.uint64)


def digest(purpose: Purpose, roster: Sequence[Offer]) -> bytes:
    """What all sites of a sum must agree on, 32 bytes: masks that were made for different rosters do not cancel."""
    offers = sorted((offer.site, offer.key) for offer in roster)
    return hashlib.sha256(_canonical([*purpose, offers])).digest()


def offer_to_json(offer: Offer) -> str:
    """The wire form of an offer."""
    return json.dumps(asdict(offer))


def offer_from_json(text: str) -> Offer:
    """Read the wire form of an offer, without checking its signature. Raises RefusedError."""
    try:
        return _OFFER.validate_json(text)
    except ValidationError:
        raise refused("the offer cannot be read") from None


def roster_to_json(roster: Sequence[Offer]) -> str:
    """The wire form of a roster."""
    return json.dumps([asdict(offer) for offer in roster])


def roster_from_json(text: str) -> list[Offer]:
    """Read the wire form of a roster, without checking its signatures. Raises RefusedError."""
    try:
        return _ROSTER.validate_json(text)
    except ValidationError:
        raise refused("the roster cannot be read") from None


def _pair_key(secret: X25519PrivateKey, own: str, offer: Offer, bound: bytes) -> bytes:
    """Bind a pair of sites into their shared secret, so that a copied key yields other masks."""
    info = b"ynet secure sum 1\0" + _canonical(sorted([own, offer.site]))
    return HKDF(hashes.SHA256(), 32, salt=bound, info=info).derive(_shared(secret, offer))


def _shared(secret: X25519PrivateKey, offer: Offer) -> bytes:
    key = bytes.fromhex(offer.key)
    if int.from_bytes(key, "little") >= CURVE_PRIME:
        raise refused(f"the key of site {offer.site} is not in its one form")
    try:
        return secret.exchange(X25519PublicKey.from_public_bytes(key))
    except ValueError:
        raise refused(f"the key of site {offer.site} makes no secret") from None


def _add_stream(total: Masked, key: bytes, *, is_added: bool) -> None:
    """Add or subtract the mask of a key, in place. Each key makes one mask, so the counter begins at 0."""
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


def refused(why: str) -> RefusedError:
    """The refusal of a secure sum; the text is for the server."""
    return RefusedError("a secure sum was refused", why, "ask the coordinator; no update has left this site bare")
