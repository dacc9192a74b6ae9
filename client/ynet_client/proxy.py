"""The choice between a direct connection to the server and an HTTP proxy, for every connection of a site.

gRPC, curl and Python's libraries interpret the environment differently. This module applies one rule for all, and
passes the outcome to gRPC (decision 37). `doctor` uses the same code.
"""

import base64
import ipaddress
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic.dataclasses import dataclass as settings_dataclass

from ynet.config import STRICT
from ynet.errors import UnreachableError, UserError
from ynet.runtime import address, hidden_words
from ynet.runtime.address import Address

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "all_proxy")
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
"""The first one that is set counts, in lower or upper case, except HTTP_PROXY, which a web server may set."""
SETTING, NONE, USUAL_PORT = "proxy.url", "none", 80
MAX_ANSWER_BYTES = 65_536
SAYS = {
    403: "it forbids this connection",
    407: "it asks for a user and a password, or for others",
    502: "it does not reach the server",
    503: "it does not reach the server",
    504: "it does not reach the server in time",
}


@settings_dataclass(frozen=True, config=STRICT)
class ProxySettings:
    """The [HTTP proxy] between the site and the server."""

    url: str = ""
    """`http://HOST:PORT`; `none` connects directly; empty follows the environment (`https_proxy`, `no_proxy`)."""
    credentials: str = ""
    """A file with one line `USER:PASSWORD` for the proxy, readable by its owner only."""


class Proxy(NamedTuple):
    """A proxy, and the setting that names it."""

    source: str  # an environment variable, or SETTING
    address: Address
    credentials: str = ""  # USER:PASSWORD

    def __str__(self) -> str:
        return f"the proxy {self.address} ({self.source})"


class ProxyError(ConnectionError):
    """A proxy does not connect to the server; the message says why."""


@dataclass(frozen=True)
class Way:
    """The connection to one address, direct or through a proxy."""

    target: Address
    proxy: Proxy | None = None

    def __str__(self) -> str:
        return f"{self.target} through {self.proxy}" if self.proxy else str(self.target)

    def open(self, within_s: float) -> socket.socket:
        """Connect to the target. Raises ProxyError for faults of the proxy, and OSError."""
        if self.proxy is None:
            return socket.create_connection(self.target, within_s)
        try:
            connection = socket.create_connection(self.proxy.address, within_s)
        except OSError as error:
            raise ProxyError(f"{self.proxy} cannot be reached: {in_words(error)}") from None
        try:
            self._connect(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def grpc_target(self) -> str:
        """Return the address that gRPC connects to."""
        return str(self.proxy.address if self.proxy else self.target)

    def grpc_options(self) -> list[tuple[str, Any]]:
        """Return the channel options that make gRPC use this proxy and ignore the environment."""
        options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)]
        if self.proxy is not None:
            options.append(("grpc.http_connect_server", str(self.target)))
            if self.proxy.credentials:
                options.append(("grpc.http_connect_headers", f"Proxy-Authorization:{_basic(self.proxy)}"))
        return options

    def _connect(self, connection: socket.socket) -> None:
        assert self.proxy is not None  # noqa: S101 (as the caller has seen)
        proof = f"Proxy-Authorization: {_basic(self.proxy)}\r\n" if self.proxy.credentials else ""
        answer = b""
        try:
            connection.sendall(f"CONNECT {self.target} HTTP/1.1\r\nHost: {self.target}\r\n{proof}\r\n".encode())
            while b"\r\n\r\n" not in answer and len(answer) < MAX_ANSWER_BYTES and (part := connection.recv(1024)):
                answer += part
        except OSError as error:
            raise ProxyError(f"{self.proxy} does not answer: {in_words(error)}") from None
        status = answer.split(b"\r\n")[0].decode("ascii", "replace").split(" ")[1:2]
        if not status or not status[0].isdigit():
            raise ProxyError(f"{self.proxy} does not answer as a proxy does")
        if not 200 <= int(status[0]) < 300:
            raise ProxyError(f"{self.proxy} answers {refusal(int(status[0]))}")


Ways = Callable[[str], Way]
"""Returns the `Way` to a `host:port`. Raises UserError when the configured proxy cannot be used."""


def refusal(status: int) -> str:
    """Describe a proxy's status that is no success."""
    return f"{status}: {SAYS.get(status, 'it does not let this connection through')}"


def ways(settings: ProxySettings, environment: Mapping[str, str] = os.environ) -> Ways:
    """Return the choice by the settings, or by the environment when they are empty."""

    def way(text: str) -> Way:
        try:
            target = address.read(text)
        except ValueError as error:
            why = f"nothing answers at {text}: {error}"
            raise UnreachableError(
                "the server could not be reached", why, "ask the coordinator for a new invitation"
            ) from None
        return Way(target, chosen(target, settings, environment))

    return way


BY_ENVIRONMENT = ways(ProxySettings())


def chosen(target: Address, settings: ProxySettings, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for a target, if any. Raises UserError when the configured one cannot be used."""
    if settings.credentials and settings.url in ("", NONE):
        do = "set proxy.url, or leave proxy.credentials out"
        raise UserError("proxy.credentials cannot be used", "it is for the proxy in proxy.url, which names none", do)
    if settings.url:
        return None if settings.url == NONE else _of_settings(settings)
    if is_excepted(target, _first(environment, EXCEPTIONS)[1]):
        return None
    variable, value = _first(environment, VARIABLES)
    return _read(variable, value) if value else None


def is_excepted(target: Address, listed: str) -> bool:
    """Return whether a list such as no_proxy covers a target: domains, addresses, networks, `*`."""
    return any(_covers(one.lower(), target) for one in listed.replace(",", " ").split())


def in_words(error: OSError) -> str:
    """Describe a connection error."""
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(error, TimeoutError):
        return "nothing answers, not even with a no"
    if isinstance(error, socket.gaierror):
        return "its name is not known here (DNS)"
    return error.strerror or str(error) or "it hangs up"


def _covers(entry: str, target: Address) -> bool:
    name = target.host.lower().rstrip(".")
    if entry == "*":
        return True
    if (network := _network(entry)) is not None:
        found = address.ip(name)
        return found is not None and found.version == network.version and found in network
    try:
        named = address.read(entry)
    except ValueError:
        pass
    else:
        return named.port == target.port and _covers(named.host, target)
    below = entry.removeprefix("*").strip(".")
    is_below = address.ip(name) is None and name.endswith(f".{below}")
    return bool(below) and (name == below or is_below)


def _network(entry: str) -> "ipaddress.IPv4Network | ipaddress.IPv6Network | None":
    bare = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
    try:
        return ipaddress.ip_network(bare, strict=False)
    except ValueError:
        return None


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> tuple[str, str]:
    spelt = [spelling for name in names for spelling in (name, name.upper()) if spelling != "HTTP_PROXY"]
    return next(((name, environment[name].strip()) for name in spelt if environment.get(name, "").strip()), ("", ""))


def _of_settings(settings: ProxySettings) -> Proxy:
    proxy = _read(SETTING, settings.url)
    if proxy.credentials:
        do = "name a file in proxy.credentials, with one line USER:PASSWORD"
        raise UserError(f"the proxy in {SETTING} cannot be used", "it holds a password, and settings are shown", do)
    if not settings.credentials:
        return proxy
    what = f"the proxy's credentials {settings.credentials}"
    text = hidden_words.of_file(Path(settings.credentials), what).strip()
    if ":" not in text or not text.isprintable():
        raise UserError(f"{what} cannot be used", "it has not one line USER:PASSWORD", "write that line")
    return proxy._replace(credentials=text)


def _read(source: str, value: str) -> Proxy:
    """Parse a proxy's URL. Raises UserError, which does not show the URL: it may hold a password."""
    what = f"the proxy in {source} cannot be used"
    do = f"write {source} as http://HOST:PORT"
    scheme = value.partition("://")[0].lower() if "://" in value else "http"
    if scheme != "http":
        shown = scheme if scheme in ("https", "socks", "socks4", "socks4a", "socks5", "socks5h") else "another"
        why = f"its URL is of the scheme {shown}: ynet speaks to proxies by HTTP and CONNECT alone"
        raise UserError(what, why, f"{do}, or except the server from it (no_proxy)")
    try:
        read = urlsplit(value if "://" in value else f"http://{value}")
        where = Address(address.host(read.hostname or ""), read.port or USUAL_PORT)
    except ValueError:
        raise UserError(what, "its URL cannot be read", do) from None
    credentials = f"{unquote(read.username or '')}:{unquote(read.password or '')}" if read.username else ""
    return Proxy(source, where, credentials)


def _basic(proxy: Proxy) -> str:
    return f"Basic {base64.b64encode(proxy.credentials.encode()).decode()}"
