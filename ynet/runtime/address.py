"""Hosts and ports: parse and format `host:port`, and listen, for IPv4, IPv6 and names."""

import ipaddress
import re
import socket
from typing import Any, NamedTuple

LONGEST_NAME = 253
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
IP = ipaddress.IPv4Address | ipaddress.IPv6Address


class Address(NamedTuple):
    """A server's address. Its text is `host:port`, with brackets around an IPv6 address; `read` parses it."""

    host: str  # a name, or an IP address without brackets
    port: int

    def __str__(self) -> str:
        return f"{in_brackets(self.host)}:{self.port}"


def read(text: str) -> Address:
    """Parse `host:port`.

    Raises:
        ValueError: Also for an IPv6 address without brackets, whose port is ambiguous.
    """
    name, colon, port = text.rpartition(":")
    if not colon or (":" in name and not name.startswith("[")):
        raise ValueError("it is not HOST:PORT (an IPv6 address in brackets: [::1]:8440)")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
        raise ValueError("its port is no number from 1 to 65535")
    return Address(host(name), int(port))


def host(text: str) -> str:
    """Parse a name or an IP address; return it without brackets.

    Raises:
        ValueError: It is neither, or it has a port.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if (found := ip(bare)) is not None and (bare == text or found.version == 6):
        return str(found)
    if bare != text or not _NAME.fullmatch(text) or len(text) > LONGEST_NAME:
        raise ValueError("it is neither a name nor an IP address; a port does not belong here")
    return text


def host_or_all(text: str) -> str:
    """Parse a host as `host` does. An empty one means every IPv4 address of the machine."""
    return host(text) if text else text


def ip(text: str) -> IP | None:
    """Parse an IP address without brackets; None for a name. An IPv4-mapped IPv6 address becomes IPv4."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def in_brackets(bare: str) -> str:
    """Format a host for `host:port` or a URL."""
    return f"[{bare}]" if ":" in bare else bare


def is_loopback(bare: str) -> bool:
    """Return whether a host is a loopback address."""
    found = ip(bare)
    return bare.lower() == "localhost" if found is None else found.is_loopback


def neighbourhood(address: str) -> str:
    """Return the unit that rate limits count: an IPv4 address, or an IPv6 address's /64, which has one owner."""
    found = ip(address)
    if found is None:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def place(bare: str, port: int) -> tuple[int, Any]:
    """Return the family and the socket address for listening on a host. IPv4 is preferred for a name with both.

    Raises:
        OSError: The name is unknown.
    """
    found = socket.getaddrinfo(bare or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104
    family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
    return family, where


def listen(bare: str, port: int, backlog: int = 128) -> socket.socket:
    """Return a socket that listens on a host; `::` listens on every address of the machine, including IPv4.

    Raises:
        OSError: The address is in use or not this machine's.
    """
    family, where = place(bare, port)
    is_all = family == socket.AF_INET6 and where[0] == "::"
    is_dual = is_all and socket.has_dualstack_ipv6()
    return socket.create_server(where, family=family, backlog=backlog, dualstack_ipv6=is_dual)
