"""Certificates of a consortium: of its authority, its hub and its sites, all with P-256 keys.

gRPC's TLS does not support Ed25519 certificates. The hub's certificate has a constant name, so that a new address or
host name needs no new certificate.
"""

import datetime as dt
import re
from typing import NamedTuple, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ynet.errors import RefusedError, UserError
from ynet.trust.expiry import Life

HUB_NAME = "hub.ynet.invalid"
"""The name in the hub's certificate, wherever the hub is."""

SITE_URI = "ynet://site/"
SITE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}\Z")

AUTHORITY_LIFE = dt.timedelta(days=3650)
LEAF_LIFE = dt.timedelta(days=90)
CLOCK_SLACK = dt.timedelta(minutes=15)
"""Certificates are valid from this long before they are made: clocks differ."""


class Identity(NamedTuple):
    """A private key and its certificate, PEM; of a site also its lasting key (`lasting_key.py`), PEM or empty."""

    key: bytes
    certificate: bytes
    lasting: bytes = b""


class Signer(Protocol):
    """A current key and its certificate: an Identity, or an authority that may be rotated."""

    @property
    def key(self) -> bytes:
        """PEM."""

    @property
    def certificate(self) -> bytes:
        """PEM."""


def check_site_name(name: str) -> str:
    """Return `name` if it is a valid site name.

    Raises:
        UserError: It is not.
    """
    if not SITE_NAME.match(name):
        raise UserError(
            f"{name[:40]!r} cannot name a site",
            "a site's name has 1 to 32 letters, digits, '-' or '_', and begins with a letter or digit",
            "choose such a name",
        )
    return name


def new_key() -> bytes:
    """Make a P-256 key, PEM (PKCS 8, not encrypted)."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_authority(federation: str, now: dt.datetime) -> Identity:
    """Make the consortium's certificate authority."""
    key = _private(new_key())
    name = _name(f"ynet authority of {federation}")
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Identity(_pem(key), certificate.public_bytes(serialization.Encoding.PEM))


def issue_hub(authority: Signer, now: dt.datetime) -> Identity:
    """Make a key and a certificate for the hub's two ports."""
    key = _private(new_key())
    alternative = x509.SubjectAlternativeName([x509.DNSName(HUB_NAME)])
    certificate = _issue(authority, HUB_NAME, key.public_key(), alternative, ExtendedKeyUsageOID.SERVER_AUTH, now)
    return Identity(_pem(key), certificate)


def issue_site(authority: Signer, site: str, csr: bytes, now: dt.datetime) -> bytes:
    """Issue a site's certificate, PEM, for the key in `csr`. The request's names are ignored.

    Raises:
        RefusedError: The request cannot be used.
    """
    public = public_key_of(csr)
    alternative = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SITE_URI + check_site_name(site))])
    return _issue(authority, site, public, alternative, ExtendedKeyUsageOID.CLIENT_AUTH, now)


def signing_request(key: bytes, site: str) -> bytes:
    """Make a certificate signing request, PEM, which proves possession of `key`."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_name(site))
    return builder.sign(_private(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def public_key_of(csr: bytes) -> ec.EllipticCurvePublicKey:
    """Return the P-256 key of a PEM signing request.

    Raises:
        RefusedError: The request cannot be read, or its signature or key is wrong.
    """
    try:
        request = x509.load_pem_x509_csr(csr)
        public, is_signed = request.public_key(), request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm):
        raise RefusedError("enrolment refused", "the signing request cannot be read", "update ynet") from None
    if not (isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)):
        raise RefusedError("enrolment refused", "the signing request's key is not P-256", "update ynet")
    if not is_signed:
        raise RefusedError("enrolment refused", "the signing request's signature is wrong", "try again")
    return public


def same_key(certificate: bytes, public: ec.EllipticCurvePublicKey) -> bool:
    """Return whether a PEM certificate is for `public`.

    Raises:
        ValueError: It is not a certificate.
    """
    return _public(certificate) == public


def has_key(certificate: bytes, key: bytes) -> bool:
    """Return whether a PEM certificate is for a PEM private key.

    Raises:
        ValueError: One of them cannot be read.
        TypeError: The key is not an elliptic-curve key.
    """
    return same_key(certificate, _private(key).public_key())


def fingerprint(certificate: bytes) -> bytes:
    """Return the SHA-256 of the DER form of a PEM certificate, 32 bytes.

    Raises:
        ValueError: It is not a certificate.
    """
    return _loaded(certificate).fingerprint(hashes.SHA256())


def public_bytes(certificate: bytes) -> bytes:
    """Return the key of a PEM certificate, DER.

    Raises:
        ValueError: It is not a certificate.
    """
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _public(certificate).public_bytes(serialization.Encoding.DER, form)


def first_certificate(pem: bytes) -> bytes:
    """Return the first certificate in a PEM text without anything that follows.

    Raises:
        ValueError: There is none.
    """
    return _loaded(pem).public_bytes(serialization.Encoding.PEM)


def each_certificate(pem: bytes) -> list[bytes]:
    """Return the certificates in a PEM text, each alone, in order.

    Raises:
        ValueError: There is none.
    """
    try:
        found = x509.load_pem_x509_certificates(pem)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None
    return [one.public_bytes(serialization.Encoding.PEM) for one in found]


def is_issued_by(certificate: bytes, authorities: bytes) -> bool:
    """Return whether one of the authorities in a PEM text signed a PEM certificate; False if one cannot be read."""
    try:
        parsed, issuers = _loaded(certificate), x509.load_pem_x509_certificates(authorities)
    except (ValueError, x509.InvalidVersion):
        return False
    return any(_is_directly_issued_by(parsed, issuer) for issuer in issuers)


def _is_directly_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


class Leaf(NamedTuple):
    """The contents of a hub's or a site's certificate."""

    site: str | None
    serial: int
    begins: dt.datetime
    ends: dt.datetime

    @property
    def life(self) -> Life:
        """The validity period."""
        return Life(self.begins, self.ends)


def read_leaf(certificate: bytes) -> Leaf:
    """Read the site (from the SAN URI), the serial number and the validity of a PEM certificate.

    Raises:
        ValueError: It is not a certificate.
    """
    parsed = _loaded(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from None
    sites = [uri.removeprefix(SITE_URI) for uri in uris if uri.startswith(SITE_URI)]
    site = sites[0] if len(sites) == 1 and SITE_NAME.match(sites[0]) else None
    return Leaf(site, parsed.serial_number, parsed.not_valid_before_utc, parsed.not_valid_after_utc)


def sign(key: bytes, message: bytes) -> bytes:
    """Sign `message` with a PEM key (ECDSA, SHA-256)."""
    return _private(key).sign(message, ec.ECDSA(hashes.SHA256()))


def check_signature(certificate: bytes, signature: bytes, message: bytes) -> None:
    """Verify a signature by the key of a PEM certificate.

    Raises:
        RefusedError: The signature is wrong.
    """
    try:
        public = _public(certificate)
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise InvalidSignature
        public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise _untrusted("its signature is not that of its certificate") from None


def check_member(certificate: bytes, site: str | None, authorities: bytes, now: dt.datetime) -> None:
    """Verify that a PEM certificate is for `site` (None: the hub), valid, and issued by one of the PEM authorities.

    Raises:
        RefusedError: It is not.
    """
    try:
        leaf, issuers = read_leaf(certificate), each_certificate(authorities)
    except ValueError:
        raise _untrusted("its certificate is not one of the consortium's authority") from None
    if not is_issued_by(certificate, authorities):
        raise _untrusted("its certificate is not one of the consortium's authority")
    if leaf.site != site or certificate.strip() in (issuer.strip() for issuer in issuers):
        raise _untrusted("its certificate is another site's")
    if not leaf.begins <= now <= leaf.ends:
        raise _untrusted("its certificate is not in force")


def _untrusted(why: str) -> RefusedError:
    return RefusedError("another site's message was refused", why, "ask the coordinator")


def due_for_renewal(certificate: bytes, now: dt.datetime) -> bool:
    """Return whether two thirds of a certificate's validity are over, or it has not begun (a clock was ahead)."""
    leaf = read_leaf(certificate)
    return now < leaf.begins or now >= leaf.begins + (leaf.ends - leaf.begins) * 2 / 3


def _issue(
    authority: Signer,
    subject: str,
    public: ec.EllipticCurvePublicKey,
    alternative: x509.SubjectAlternativeName,
    usage: x509.ObjectIdentifier,
    now: dt.datetime,
) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    certificate = (
        _builder(_name(subject), issuer.subject, public, now, LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(alternative, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(_private(authority.key).public_key()), False)
        .sign(_private(authority.key), hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    life: dt.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + life)
    )


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return the key usage: certificates and revocation lists, or digital signatures only."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _loaded(certificate: bytes) -> x509.Certificate:
    """Load a PEM certificate; raises ValueError."""
    try:
        return x509.load_pem_x509_certificate(certificate)
    except x509.InvalidVersion as error:
        raise ValueError(str(error)) from None


def _public(certificate: bytes) -> CertificatePublicKeyTypes:
    """Return the key of a PEM certificate; raises ValueError."""
    try:
        return _loaded(certificate).public_key()
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = serialization.load_pem_private_key(key, password=None)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise TypeError("not an elliptic-curve key")
    return loaded


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
