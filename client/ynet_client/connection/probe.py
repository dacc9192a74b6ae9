"""The connection to the hub, tested layer by layer: name, port, proxy, TLS."""

import contextlib
import datetime as dt
import json
import socket
import ssl
import tempfile
from email.utils import parsedate_to_datetime
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ynet.trust import identity
from ynet.trust.identity import HUB_NAME
from ynet_client.membership.https_call import HttpReply, exchange
from ynet_client.membership.membership import Membership
from ynet_client.proxy import Way, Ways

WITHIN_S = 5.0
ENROLMENT_PORT = 8441  # the default, for a site that enrolled with an older ynet
MAX_SUCCESSIONS_BYTES = 1 << 16


class ServerCertificate(NamedTuple):
    """The certificate that a server presents."""

    certificate: x509.Certificate

    @property
    def names(self) -> list[str]:
        """The host names that it is valid for."""
        with contextlib.suppress(x509.ExtensionNotFound, ValueError):
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            return found.value.get_values_for_type(x509.DNSName)
        return []

    @property
    def issuer(self) -> str:
        """The issuer that it names."""
        return self.certificate.issuer.rfc4514_string()

    @property
    def begins(self) -> dt.datetime:
        """The start of its validity."""
        return self.certificate.not_valid_before_utc

    @property
    def ends(self) -> dt.datetime:
        """The end of its validity."""
        return self.certificate.not_valid_after_utc

    def is_issued_by(self, authority: bytes) -> bool:
        """Return whether the authority, or one of several (PEM), signed it."""
        return identity.is_issued_by(self.certificate.public_bytes(serialization.Encoding.PEM), authority)


class Probe:
    """Tests the connection to the server, through the same proxy that the site uses."""

    def __init__(self, way: Way) -> None:
        self.way = way

    def addresses(self) -> list[str]:
        """Resolve the server's host name. Raises OSError."""
        found = socket.getaddrinfo(*self.way.target, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(one[4][0]) for one in found))

    def open(self) -> socket.socket:
        """Connect to the target, through the proxy if there is one. Raises OSError."""
        return self.way.open(WITHIN_S)

    def handshake(self) -> ServerCertificate:
        """Return the certificate of the target in a TLS 1.3 handshake. Raises OSError, ssl.SSLError included."""
        with self.open() as plain, _unverified().wrap_socket(plain, server_hostname=HUB_NAME) as tls:
            der = tls.getpeercert(binary_form=True)
        if der is None:
            raise ssl.SSLError("no certificate was presented")
        return ServerCertificate(x509.load_der_x509_certificate(der))

    def takes(self, member: Membership) -> bool:
        """Return whether the target accepts the site's certificate; gRPC closes the connection if not."""
        context = _unverified()
        with tempfile.TemporaryDirectory() as folder:  # the ssl module reads keys from files only; the folder is 0700
            pem = Path(folder) / "pem"
            pem.write_bytes(member.key + member.certificate)
            context.load_cert_chain(pem)
        try:
            with self.open() as plain, context.wrap_socket(plain, server_hostname=HUB_NAME) as tls:
                return bool(tls.recv(1))
        except OSError:
            return False


class EnrolmentPort:
    """The enrolment port, read without trusting it."""

    def __init__(self, way: Way) -> None:
        self._way = way

    def time(self) -> dt.datetime | None:
        """Return the time that the server sends; None if there is none."""
        if self._answer is None:
            return None
        with contextlib.suppress(KeyError, ValueError, TypeError):
            return parsedate_to_datetime(self._answer.date).astimezone(dt.UTC)
        return None

    def authority(self) -> bytes:
        """Return the authority that it sends, PEM; empty if there is none."""
        return self._answer.content if self._answer is not None else b""

    def successions(self) -> list[object]:
        """Return the signed successions of authorities that it sends; empty if there are none."""
        answer = self._get("/successions")
        return [] if answer is None else read_successions(answer.content)

    @cached_property
    def _answer(self) -> HttpReply | None:
        return self._get("/authority")

    def _get(self, path: str) -> HttpReply | None:
        try:
            return exchange(self._way, _unverified(alpn=False), "GET", path, WITHIN_S)
        except (OSError, HTTPException):
            return None


def enrolment_of(member: Membership, ways: Ways) -> EnrolmentPort:
    """Return the port where the site enrolled, by default on the hub's machine. Raises UserError."""
    return EnrolmentPort(ways(member.enrolment or str(ways(member.hub).target._replace(port=ENROLMENT_PORT))))


def fingerprint_of(pem: bytes) -> str:
    """Return a certificate's SHA-256, hexadecimal; empty when it is no certificate."""
    try:
        return identity.fingerprint(identity.first_certificate(pem)).hex()
    except ValueError:
        return ""


def read_successions(content: bytes) -> list[object]:
    """Parse the successions of authorities; empty when they cannot be read."""
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        if len(content) <= MAX_SUCCESSIONS_BYTES:
            return list(json.loads(content)["successions"])
    return []


def _unverified(*, alpn: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the certificate itself is examined
    if alpn:
        context.set_alpn_protocols(["h2"])
    return context
