"""Certificates: who may be what, and for how long."""

import base64
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from ynet.errors import RefusedError, UserError
from ynet.trust import identity
from ynet.trust.identity import HUB_NAME, LEAF_LIFE, Identity

NOW = dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)
PEM = serialization.Encoding.PEM


@pytest.fixture(scope="module")
def authority() -> Identity:
    return identity.make_authority("test", NOW)


def site_certificate(authority: Identity, site: str = "A") -> bytes:
    return identity.issue_site(authority, site, identity.signing_request(identity.new_key(), site), NOW)


def policy(authority: Identity, now: dt.datetime = NOW) -> PolicyBuilder:
    """An independent judge: the verifier of `cryptography`, which follows the web's rules."""
    return PolicyBuilder().store(Store([x509.load_pem_x509_certificate(authority.certificate)])).time(now)


def load(certificate: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(certificate)


def test_a_sites_certificate_names_the_site_for_its_whole_life(authority: Identity) -> None:
    leaf = identity.read_leaf(site_certificate(authority, "A"))
    assert leaf.site == "A"
    assert leaf.begins < NOW < leaf.ends == NOW + LEAF_LIFE


def test_the_sites_name_is_the_one_invited_whatever_the_request_says(authority: Identity) -> None:
    csr = identity.signing_request(identity.new_key(), "B")
    certificate = identity.issue_site(authority, "A", csr, NOW)
    assert identity.read_leaf(certificate).site == "A"
    assert b"B" not in [name.value.encode() for name in load(certificate).subject]


def test_the_common_name_names_no_site(authority: Identity) -> None:
    assert identity.read_leaf(identity.issue_hub(authority, NOW).certificate).site is None
    assert identity.read_leaf(authority.certificate).site is None


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["ynet://site/A", "ynet://site/B"],
        ["ynet://site/"],
        ["ynet://site/A/../B"],
        ["ynet://site/A%00"],
        ["https://site/A"],
        ["YNET://site/A"],
        ["ynet://site/" + "A" * 33],
        ["ynet://site/A\n"],
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_site_names_none(authority: Identity, uris: list[str]) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + LEAF_LIFE)
    if uris:
        names = [x509.UniformResourceIdentifier(uri) for uri in uris]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    assert identity.read_leaf(builder.sign(key, hashes.SHA256()).public_bytes(PEM)).site is None


def test_an_independent_verifier_takes_the_hub_for_the_hub_and_for_no_site(authority: Identity) -> None:
    hub = load(identity.issue_hub(authority, NOW).certificate)
    policy(authority).build_server_verifier(x509.DNSName(HUB_NAME)).verify(hub, [])
    with pytest.raises(VerificationError):
        policy(authority).build_client_verifier().verify(hub, [])


def test_an_independent_verifier_takes_a_site_for_a_site_and_for_no_hub(authority: Identity) -> None:
    site = load(site_certificate(authority))
    assert policy(authority).build_client_verifier().verify(site, []).subjects
    with pytest.raises(VerificationError):
        policy(authority).build_server_verifier(x509.DNSName(HUB_NAME)).verify(site, [])
    usage = site.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_an_independent_verifier_refuses_another_authority_a_site_that_signs_and_a_life_that_is_over(
    authority: Identity,
) -> None:
    site = load(site_certificate(authority))
    with pytest.raises(VerificationError):
        policy(identity.make_authority("test", NOW)).build_client_verifier().verify(site, [])
    with pytest.raises(VerificationError):
        policy(authority, NOW + LEAF_LIFE + dt.timedelta(seconds=1)).build_client_verifier().verify(site, [])
    key = identity.new_key()
    signer = Identity(key, identity.issue_site(authority, "A", identity.signing_request(key, "A"), NOW))
    forged = load(site_certificate(signer, "B"))
    with pytest.raises(VerificationError):
        policy(authority).build_client_verifier().verify(forged, [load(signer.certificate)])


def test_serial_numbers_differ(authority: Identity) -> None:
    csr = identity.signing_request(identity.new_key(), "A")
    assert len({identity.read_leaf(identity.issue_site(authority, "A", csr, NOW)).serial for _ in range(5)}) == 5


def test_a_certificate_is_renewed_after_two_thirds_of_its_life(authority: Identity) -> None:
    certificate = site_certificate(authority)
    assert not identity.due_for_renewal(certificate, NOW + LEAF_LIFE * 0.66)
    assert identity.due_for_renewal(certificate, NOW + LEAF_LIFE * 0.67)


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "../a", "a\n", "é", "a" * 33, "a\0", "a.b"])
def test_a_name_that_could_be_taken_for_something_else_names_no_site(authority: Identity, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a site"):
        identity.check_site_name(name)
    csr = identity.signing_request(identity.new_key(), "A")
    with pytest.raises(UserError, match="cannot name a site"):
        identity.issue_site(authority, name, csr, NOW)


def request(key: object) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "A")])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return x509.CertificateSigningRequestBuilder(name).sign(key, digest).public_bytes(PEM)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP384R1()),
        lambda: ec.generate_private_key(ec.SECP256K1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["P-384", "secp256k1", "Ed25519", "RSA"],
)
def test_a_key_that_is_not_p256_is_refused(make: object) -> None:
    with pytest.raises(RefusedError, match="not P-256"):
        identity.public_key_of(request(make()))  # type: ignore[operator]


def test_a_request_without_proof_of_the_key_is_refused() -> None:
    der = bytearray(x509.load_pem_x509_csr(identity.signing_request(identity.new_key(), "A")).public_bytes(
        serialization.Encoding.DER
    ))  # fmt: skip
    der[-1] ^= 1
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(PEM)
    with pytest.raises(RefusedError, match="signature is wrong"):
        identity.public_key_of(forged)


@pytest.mark.parametrize(
    "csr", [b"", b"x", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----"]
)
def test_what_is_no_request_is_refused(csr: bytes) -> None:
    with pytest.raises(RefusedError, match="cannot be read"):
        identity.public_key_of(csr)


def test_the_same_key_is_known_again(authority: Identity) -> None:
    key = identity.new_key()
    certificate = identity.issue_site(authority, "A", identity.signing_request(key, "A"), NOW)
    assert identity.same_key(certificate, identity.public_key_of(identity.signing_request(key, "A")))
    other = identity.signing_request(identity.new_key(), "A")
    assert not identity.same_key(certificate, identity.public_key_of(other))


def test_a_key_of_an_unknown_kind_is_no_key(authority: Identity) -> None:
    """`cryptography` has an exception of its own for it, which is neither ValueError nor TypeError."""
    key = identity.new_key()
    certificate = identity.issue_site(authority, "A", identity.signing_request(key, "A"), NOW)
    der = bytearray(
        serialization.load_pem_private_key(key, None).private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    place = der.index(bytes.fromhex("2a8648ce3d0201"))  # id-ecPublicKey
    der[place] = 0x1A
    unknown = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(bytes(der)) + b"-----END PRIVATE KEY-----\n"
    with pytest.raises(ValueError, match="Unknown key type"):
        identity.has_key(certificate, unknown)
    request = x509.load_pem_x509_csr(identity.signing_request(key, "A")).public_bytes(serialization.Encoding.DER)
    strange = request.replace(bytes.fromhex("2a8648ce3d0201"), bytes.fromhex("1a8648ce3d0201"))
    csr = b"".join(
        (b"-----BEGIN CERTIFICATE REQUEST-----\n", base64.encodebytes(strange), b"-----END CERTIFICATE REQUEST-----\n")
    )
    with pytest.raises(RefusedError, match="cannot be read"):
        identity.public_key_of(csr)
