"""Hosts and ports: `host:port` read and written, and sockets that listen, the same way for IPv4, IPv6 and names."""

import ipaddress
import re
import socket
from typing import Any, NamedTuple

LONGEST_NAME = 253
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Address(NamedTuple):
    """Where a server is reached. Its text is `host:port`, an IPv6 address in brackets: what `read` reads."""

    host: str  # a name, or an IP address without brackets
    port: int

    def __str__(self) -> str:
        return f"{in_brackets(self.host)}:{self.port}"


def read(text: str) -> Address:
    """The address in `host:port`. Raises ValueError, also for an IPv6 address without brackets: its port is unclear."""
    name, colon, port = text.rpartition(":")
    if not colon or (":" in name and not name.startswith("[")):
        raise ValueError("it is not HOST:PORT (an IPv6 address in brackets: [::1]:8440)")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError("its port is no number from 1 to 65535")
    return Address(host(name), int(port))


def host(text: str) -> str:
    """A name or an IP address, without brackets. Raises ValueError for anything else, such as one with a port."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if (found := ip(bare)) is not None and (bare == text or found.version == 6):
        return str(found)
    if bare != text or not _NAME.fullmatch(text) or len(text) > LONGEST_NAME:
        raise ValueError("it is neither a name nor an IP address; a port does not belong here")
    return text


def host_or_all(text: str) -> str:
    """As `host`; an empty one stands for every IPv4 address of the machine."""
    return host(text) if text else text


def ip(text: str) -> IP | None:
    """The IP address that a text is, without brackets; None of a name. One of IPv4 that IPv6 carries is of IPv4."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def in_brackets(bare: str) -> str:
    """A host as it stands before a port, or in a URL."""
    return f"[{bare}]" if ":" in bare else bare


def is_loopback(bare: str) -> bool:
    """Whether a host is this machine alone."""
    found = ip(bare)
    return bare.lower() == "localhost" if found is None else found.is_loopback


def neighbourhood(address: str) -> str:
    """An IPv4 address; of an IPv6 address the /64 that one customer has whole."""
    found = ip(address)
    if found is None:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def place(bare: str, port: int) -> tuple[int, Any]:
    """The family and the socket address at which a host is listened on. Raises OSError.

    Of a name with addresses of both, that of IPv4 counts.
    """
    found = socket.getaddrinfo(bare or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104
    family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, where


def listen(bare: str, port: int, backlog: int = 128) -> socket.socket:
    """A socket that listens at a host's `place`: `::` at every address of the machine, of IPv4 too. Raises OSError."""
    family, where = place(bare, port)
    is_all = family == socket.AF_INET6 and where[0] == "::"
    is_dual = is_all and socket.has_dualstack_ipv6()
    return socket.create_server(where, family=family, backlog=backlog, dualstack_ipv6=is_dual)
