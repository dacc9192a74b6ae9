"""The way to the hub, layer by layer: name, port, proxy, TLS. For finding out which of them is broken."""

import contextlib
import datetime as dt
import json
import socket
import ssl
import tempfile
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ynet.federation import identity
from ynet.federation.identity import HUB_NAME
from ynet_client.membership import Membership

WITHIN_S = 5.0
ENROLMENT_PORT = 8441  # the default, for a site that enrolled before it was remembered
MAX_SUCCESSIONS_BYTES = 1 << 16
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""What gRPC reads, in its order; in small letters only."""


class Proxy(NamedTuple):
    """A proxy that gRPC would take to the hub."""

    variable: str
    host: str
    port: int


class Shown(NamedTuple):
    """The certificate that a server shows."""

    certificate: x509.Certificate

    @property
    def names(self) -> list[str]:
        """The host names that it is for."""
        with contextlib.suppress(x509.ExtensionNotFound, ValueError):
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
            return found.value.get_values_for_type(x509.DNSName)
        return []

    @property
    def issuer(self) -> str:
        """Who issued it, by its own word."""
        return self.certificate.issuer.rfc4514_string()

    @property
    def begins(self) -> dt.datetime:
        """Its first moment."""
        return self.certificate.not_valid_before_utc

    @property
    def ends(self) -> dt.datetime:
        """Its last one."""
        return self.certificate.not_valid_after_utc

    def is_issued_by(self, authority: bytes) -> bool:
        """Whether the authority, or one of several (PEM), signed it."""
        return identity.is_issued_by(self.certificate.public_bytes(serialization.Encoding.PEM), authority)


class Line:
    """From this machine to a `host:port`, through the proxy that gRPC would take."""

    def __init__(self, address: str, environment: Mapping[str, str]) -> None:
        self.target = _split(address)
        self.proxy = proxy_for(self.target[0], environment)
        self.host, self.port = (self.proxy.host, self.proxy.port) if self.proxy else self.target

    def addresses(self) -> list[str]:
        """The addresses of the first machine on the way. Raises OSError."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(one[4][0]) for one in found))

    def connect(self) -> socket.socket:
        """A connection to the first machine on the way. Raises OSError."""
        return socket.create_connection((self.host, self.port), WITHIN_S)

    def open(self) -> socket.socket:
        """A connection to the target, through the proxy if there is one. Raises OSError."""
        connection = self.connect()
        if self.proxy is None:
            return connection
        target = f"{self.target[0]}:{self.target[1]}"
        try:
            connection.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < 65_536 and (part := connection.recv(1024)):
                answer += part
            status = answer.split(b"\r\n")[0].decode("ascii", "replace")
            if status.split(" ")[1:2] != ["200"]:
                raise ConnectionError("it answers " + ("".join(filter(str.isprintable, status))[:80] or "nothing"))
        except BaseException:
            connection.close()
            raise
        return connection

    def handshake(self) -> Shown:
        """What the target shows when TLS 1.3 begins. Raises OSError, of which ssl.SSLError is one."""
        with self.open() as plain, _unverified().wrap_socket(plain, server_hostname=HUB_NAME) as tls:
            der = tls.getpeercert(binary_form=True)
        if der is None:
            raise ssl.SSLError("no certificate was shown")
        return Shown(x509.load_der_x509_certificate(der))

    def takes(self, member: Membership) -> bool:
        """Whether the target goes on once it has seen the site's certificate; gRPC hangs up without a word."""
        context = _unverified()
        with tempfile.TemporaryDirectory() as folder:  # the ssl module reads keys from files only; this one is 0700
            pem = Path(folder) / "pem"
            pem.write_bytes(member.key + member.certificate)
            context.load_cert_chain(pem)
        try:
            with self.open() as plain, context.wrap_socket(plain, server_hostname=HUB_NAME) as tls:
                return bool(tls.recv(1))
        except OSError:
            return False


class Door:
    """The enrolment port, as somebody who does not trust it yet sees it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def time(self) -> dt.datetime | None:
        """The server's time, by its own word; None where it says none."""
        if self._answer is None:
            return None
        with contextlib.suppress(KeyError, ValueError, TypeError):
            return parsedate_to_datetime(self._answer.headers["date"]).astimezone(dt.UTC)
        return None

    def authority(self) -> bytes:
        """The authority that it shows, PEM; empty where it shows none."""
        return self._answer.content if self._answer is not None else b""

    def successions(self) -> list[object]:
        """Which authorities were followed by which, by their own signatures; empty where it shows none."""
        answer = self._get("/successions")
        return [] if answer is None else read_successions(answer.content)

    @cached_property
    def _answer(self) -> httpx.Response | None:
        return self._get("/authority")

    def _get(self, path: str) -> httpx.Response | None:
        try:
            with httpx.Client(verify=_unverified(alpn=False), timeout=WITHIN_S) as client:
                return client.get(f"https://{self._address}{path}", extensions={"sni_hostname": HUB_NAME})
        except (httpx.HTTPError, httpx.InvalidURL, OSError):
            return None


def enrolment_of(member: Membership) -> Door:
    """Where the site enrolled; where that was not kept, the default port of the hub's machine."""
    return Door(member.enrolment or f"{member.hub.rpartition(':')[0]}:{ENROLMENT_PORT}")


def fingerprint_of(pem: bytes) -> str:
    """SHA-256 of a certificate, hexadecimal; empty when it is none."""
    try:
        return identity.fingerprint(identity.first_certificate(pem)).hex()
    except ValueError:
        return ""


def read_successions(content: bytes) -> list[object]:
    """What the enrolment port tells of earlier authorities; nothing where it cannot be read."""
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        if len(content) <= MAX_SUCCESSIONS_BYTES:
            return list(json.loads(content)["successions"])
    return []


def proxy_for(host: str, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that gRPC takes to a host, by the environment's variables."""
    excepted = environment.get("no_grpc_proxy") or environment.get("no_proxy") or ""
    if any(host.endswith(one.strip()) for one in excepted.split(",") if one.strip()):
        return None
    for variable in PROXIES:
        if value := environment.get(variable, ""):
            read = urlsplit(value if "://" in value else f"http://{value}")
            with contextlib.suppress(ValueError):
                return Proxy(variable, read.hostname or "", read.port or 80)
    return None


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _unverified(*, alpn: bool = True) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # what is shown is what is looked at
    if alpn:
        context.set_alpn_protocols(["h2"])
    return context
