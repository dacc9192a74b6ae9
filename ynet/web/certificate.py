"""The TLS certificate of a page: the intranet's, or a self-signed one, which people verify by its fingerprint."""

import datetime as dt
import ipaddress
import socket
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ynet.errors import UserError
from ynet.runtime.home import write_private
from ynet.trust.identity import key_usage

FILE = "web.pem"
LIFE = dt.timedelta(days=397)
RENEWED_BEFORE = dt.timedelta(days=60)


class Presented(NamedTuple):
    """The certificate that a browser sees."""

    context: ssl.SSLContext
    fingerprint: str  # SHA-256 of the certificate, hexadecimal
    is_own: bool  # self-signed: browsers warn
    names: tuple[str, ...]  # its host names


def present(home: Path, certificate: str, key: str, host: str, now: dt.datetime) -> Presented:
    """Configure TLS 1.2 and 1.3 with the named PEM files, or with a self-signed certificate in `home`.

    The self-signed certificate is made again before it expires.

    Raises:
        UserError: The named files cannot be used.
    """
    if bool(certificate) != bool(key):
        raise _unfit("one of certificate and key is missing", "name both in the settings, or neither")
    path = Path(certificate) if certificate else home / FILE
    if not certificate and not _is_good(path, host, now):
        write_private(path, _make(host, now))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(path, key or None, password=lambda: "")
        read = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:  # SSLError is an OSError
        why = f"{path.name}: {getattr(error, 'reason', None) or getattr(error, 'strerror', None) or 'not PEM'}"
        raise _unfit(why, "name a PEM certificate chain and its unencrypted key") from None
    return Presented(context, read.fingerprint(hashes.SHA256()).hex(), not certificate, _named_in(read))


def address(host: str, port: int) -> str:
    """Return the page's URL for a browser on this machine, with the IP address that the page listens on.

    Not `localhost`: a browser tries ::1 first, where another user of the machine may listen.
    """
    try:
        read = ipaddress.ip_address("127.0.0.1" if host.lower() == "localhost" else host)
    except ValueError:
        return f"https://{host}:{port}/"
    if read.is_unspecified:
        read = ipaddress.ip_address("::1" if read.version == 6 else "127.0.0.1")
    return f"https://[{read}]:{port}/" if read.version == 6 else f"https://{read}:{port}/"


def _named_in(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return tuple(found.get_values_for_type(x509.DNSName))
    except (x509.ExtensionNotFound, ValueError):
        return ()


def _unfit(why: str, do: str) -> UserError:
    return UserError("the page's certificate cannot be used", why, do)


def _is_good(path: Path, host: str, now: dt.datetime) -> bool:
    try:
        data = path.read_bytes()
        read = x509.load_pem_x509_certificate(data)
        serialization.load_pem_private_key(data, None)
    except (OSError, ValueError):
        return False
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    is_long = read.not_valid_before_utc <= now and now + RENEWED_BEFORE < read.not_valid_after_utc
    return is_long and set(names) == set(_names(host))


def _names(host: str) -> list[x509.GeneralName]:
    texts = dict.fromkeys(["localhost", "127.0.0.1", "::1", socket.gethostname().lower(), host.lower()])
    found: list[x509.GeneralName] = []
    for text in texts:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            found += [x509.DNSName(text)] if text.isascii() and text else []
        else:
            found += [] if address.is_unspecified else [x509.IPAddress(address)]
    return found


def _make(host: str, now: dt.datetime) -> bytes:
    """Make a key and a self-signed certificate in one PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ynet")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + made.public_bytes(serialization.Encoding.PEM)
