"""Sealed queries: a site's query to another and the answer pass the hub as ciphertext.

An answering site makes a sealing key at its start and keeps it in memory only, so that recorded traffic cannot be
opened later. The site signs the key with its certificate's key, so that other sites need not trust the hub for it (a
Card). An asking site begins a session with a fresh secret, sealed by HPKE (RFC 9180) and signed (an Opening). The key
is hybrid, ML-KEM-768 with X25519, since patients' data must stay secret for decades. HKDF derives two AES-256-GCM keys
from the secret, one for each direction; the nonce is the query's number in the session. Both sites' names, the sealing
key, the session and the opening are bound to every ciphertext, so that it opens nowhere else.
"""

import datetime as dt
import hashlib
import secrets
import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from ynet.errors import RefusedError, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust import identity, lasting_key
from ynet.trust.identity import Identity

SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
MLKEM_BYTES, X25519_BYTES = 1184, 32
SECRET_BYTES = 32
SESSION_BYTES = 16
_LENGTHS = struct.Struct(">II")  # of the body; of what the answer is padded to


class Trust(NamedTuple):
    """What a site needs to check the certificates of others."""

    authority: bytes  # PEM
    now: dt.datetime


class SealingKey(NamedTuple):
    """An answering site's key: the private half, and the card that others get."""

    site: str
    private: MLKEM768X25519PrivateKey
    public: bytes
    card: bytes


class Recipient(NamedTuple):
    """A site that queries may be sealed for, from its verified card."""

    site: str
    key: bytes
    ends: dt.datetime  # of its certificate
    fingerprint: str  # of its certificate: SHA-256, hexadecimal
    known_by: str  # the fingerprint of its lasting key, which two admins compare


class Channel(NamedTuple):
    """The keys that two sites share in one session."""

    query: AESGCM
    answer: AESGCM
    bound: bytes  # 32 bytes that name both sites, the sealing key, the session and its opening
    ends: dt.datetime  # of the other site's certificate
    known_by: str  # the fingerprint of the other site's lasting key


class Begun(NamedTuple):
    """A session as the asking site begins it."""

    session: bytes
    opening: bytes
    channel: Channel


class FramedQuery(NamedTuple):
    """A query before sealing."""

    body: bytes
    answer_bytes: int  # what its answer is padded to at least


def fresh_key(own: Identity, site: str) -> SealingKey:
    """Make a sealing key from the operating system's randomness, with a card signed by the site's own key.

    Raises UserError where `cryptography` was built on a library without ML-KEM.
    """
    try:
        mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    except UnsupportedAlgorithm:
        do = "install it as its makers build it: pip install --force-reinstall --only-binary :all: cryptography"
        why = "the Python package cryptography was built here on a library without ML-KEM-768 (OpenSSL before 3.5)"
        raise UserError("this site cannot make a sealing key", why, do) from None
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    signature = identity.sign(own.key, _joined(b"ynet sealing key 1", site.encode(), public))
    card = pb.Card(certificate=own.certificate, key=public, signature=signature)
    card.lasting, card.vouched = _lasting(own, site)
    return SealingKey(site, MLKEM768X25519PrivateKey(mlkem, x25519), public, card.SerializeToString())


def read_card(card: bytes, site: str, trust: Trust) -> Recipient:
    """Check a card. Returns the recipient that it names. Raises RefusedError."""
    try:
        read = pb.Card.FromString(card)
    except DecodeError:
        raise refused("its card cannot be read") from None
    # 1. The certificate is the authority's, for this site, in force.
    identity.check_member(read.certificate, site, *trust)
    # 2. The key is signed by it.
    identity.check_signature(read.certificate, read.signature, _joined(b"ynet sealing key 1", site.encode(), read.key))
    # 3. It is a key that can be sealed to.
    _sealed_secret(bytes(SECRET_BYTES), read.key, b"")
    # 4. If it shows a lasting key, that one signed the certificate.
    known_by = lasting_key.fingerprint(site, read.certificate, read.lasting, read.vouched)
    ends, fingerprint = identity.read_leaf(read.certificate).ends, identity.fingerprint(read.certificate).hex()
    return Recipient(site, read.key, ends, fingerprint, known_by)


def begin(own: Identity, asker: str, recipient: Recipient) -> Begun:
    """Begin a session of site `asker` with another, with a fresh secret."""
    session, secret = secrets.token_bytes(SESSION_BYTES), secrets.token_bytes(SECRET_BYTES)
    named = _named(asker, recipient.site, recipient.key, session)
    sealed = _sealed_secret(secret, recipient.key, named)
    # The ciphertext is signed too: who put another secret in its place would ask in this site's name.
    signature = identity.sign(own.key, _joined(named, sealed))
    opening = pb.Opening(certificate=own.certificate, sealed=sealed, signature=signature)
    opening.lasting, opening.vouched = _lasting(own, asker)
    channel = _channel(secret, _joined(named, sealed), recipient.ends, recipient.known_by)
    return Begun(session, opening.SerializeToString(), channel)


def accept(key: SealingKey, asker: str, session: bytes, opening: bytes, trust: Trust) -> Channel:
    """Accept the session that another site begins with this one. Raises RefusedError."""
    try:
        read = pb.Opening.FromString(opening)
    except DecodeError:
        raise refused("the opening of its session cannot be read") from None
    if len(session) != SESSION_BYTES:
        raise refused("its session has no proper name")
    # 1. The certificate is the authority's, for the site that is said to ask, in force.
    identity.check_member(read.certificate, asker, *trust)
    # 2. It signed this opening, for this site, this key and this session.
    named = _named(asker, key.site, key.public, session)
    identity.check_signature(read.certificate, read.signature, _joined(named, read.sealed))
    # 3. If it shows a lasting key, that one signed the certificate.
    known_by = lasting_key.fingerprint(asker, read.certificate, read.lasting, read.vouched)
    # 4. The secret opens.
    try:
        secret = SUITE.decrypt(read.sealed, key.private, named)
    except (InvalidTag, ValueError):
        raise refused("the secret of its session does not open") from None
    return _channel(secret, _joined(named, read.sealed), identity.read_leaf(read.certificate).ends, known_by)


def frame_query(asked: FramedQuery) -> bytes:
    """Pad a query before it is sealed for each site. Raises RefusedError when it is too large."""
    if len(asked.body) > protocol.MAX_QUERY_BYTES:
        raise refused(f"the query has more than {protocol.MAX_QUERY_BYTES >> 10} KiB")
    return _padded(_LENGTHS.pack(len(asked.body), min(asked.answer_bytes, protocol.MAX_PADDED_BYTES)) + asked.body)


def read_query(framed: bytes) -> FramedQuery:
    """The inverse of `frame_query`. Raises RefusedError."""
    body, answer_bytes = _unframed(framed)
    return FramedQuery(body, min(answer_bytes, protocol.MAX_PADDED_BYTES))


def seal_query(channel: Channel, number: int, framed: bytes) -> bytes:
    """Seal a framed query under its number; each number may seal only one query of a session."""
    return channel.query.encrypt(_nonce(number), framed, _about(channel, b"query", number))


def open_query(channel: Channel, number: int, ciphertext: bytes) -> FramedQuery:
    """Open a query that was sealed in this session under this number. Raises RefusedError."""
    return read_query(_opened(channel.query, number, ciphertext, _about(channel, b"query", number)))


def seal_answer(channel: Channel, number: int, body: bytes, at_least: int) -> bytes:
    """Pad the answer to a query, to `at_least` bytes or more, and seal it.

    Raises RefusedError when it is too large.
    """
    if len(body) > protocol.MAX_ANSWER_BYTES:
        raise refused(f"the answer has more than {protocol.MAX_ANSWER_BYTES >> 20} MiB")
    framed = _padded(_LENGTHS.pack(len(body), 0) + body, at_least)
    return channel.answer.encrypt(_nonce(number), framed, _about(channel, b"answer", number))


def open_answer(channel: Channel, number: int, ciphertext: bytes) -> bytes:
    """Open the answer that was sealed in this session under this number. Raises RefusedError."""
    return _unframed(_opened(channel.answer, number, ciphertext, _about(channel, b"answer", number)))[0]


def refused(why: str) -> RefusedError:
    """The refusal of something sealed, without a hint about the content."""
    return RefusedError("a sealed message was refused", why, "ask the coordinator, if it happens again")


def _opened(cipher: AESGCM, number: int, ciphertext: bytes, about: bytes) -> bytes:
    try:
        return cipher.decrypt(_nonce(number), ciphertext, about)
    except (InvalidTag, ValueError):
        raise refused("it was not sealed for this site, in this session, under this number") from None


def _padded(framed: bytes, at_least: int = 0) -> bytes:
    step = protocol.PADDING_BYTES
    return framed.ljust(-(-max(len(framed), at_least, 1) // step) * step, b"\0")


def _unframed(framed: bytes) -> tuple[bytes, int]:
    """The body, and the second number before it."""
    if len(framed) < _LENGTHS.size:
        raise refused("its content is cut off")
    size, answer_bytes = _LENGTHS.unpack_from(framed)
    if size > len(framed) - _LENGTHS.size:
        raise refused("its content is cut off")
    return framed[_LENGTHS.size : _LENGTHS.size + size], answer_bytes


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _about(channel: Channel, direction: bytes, number: int) -> bytes:
    return channel.bound + direction + number.to_bytes(8, "big")


def _lasting(own: Identity, site: str) -> tuple[bytes, bytes]:
    """The proof of a site's lasting key beside its certificate; empty without a lasting key."""
    if not own.lasting:
        return b"", b""
    return lasting_key.public_of(own.lasting), lasting_key.vouch(own.lasting, site, own.certificate)


def _channel(secret: bytes, opened: bytes, ends: dt.datetime, known_by: str) -> Channel:
    bound = hashlib.sha256(opened).digest()
    keys = HKDF(hashes.SHA256(), 64, salt=bound, info=b"ynet sealed queries 1").derive(secret)
    return Channel(AESGCM(keys[:32]), AESGCM(keys[32:]), bound, ends, known_by)


def _sealed_secret(secret: bytes, key: bytes, named: bytes) -> bytes:
    if len(key) != MLKEM_BYTES + X25519_BYTES:
        raise refused("its sealing key has another size")
    try:
        public = MLKEM768X25519PublicKey(
            MLKEM768PublicKey.from_public_bytes(key[:MLKEM_BYTES]),
            X25519PublicKey.from_public_bytes(key[MLKEM_BYTES:]),
        )
        return SUITE.encrypt(secret, public, named)
    except ValueError:
        raise refused("its sealing key is none") from None


def _named(asker: str, answering: str, key: bytes, session: bytes) -> bytes:
    return _joined(b"ynet session 1", asker.encode(), answering.encode(), key, session)


def _joined(*parts: bytes) -> bytes:
    """Join the parts, each with its length before it, so that two lists of parts never give the same bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
