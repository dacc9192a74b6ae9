"""The host names of a page, and the client's address behind a reverse proxy.

Requests to other host names are refused, against DNS rebinding: there an attacker's host name resolves to this
machine, and the browser sends that name.
"""

import ipaddress
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from ynet.runtime import address
from ynet.runtime.address import in_brackets


def _outer(text: str) -> str:
    """Validate HOST or HOST:PORT, or an empty text; return it in lower case. Raises ValueError."""
    if not text:
        return text
    fault = "it is not HOST or HOST:PORT: leave out https:// and any path"
    try:
        name, port = address.host(text), 443
    except ValueError:
        try:
            name, port = address.read(text)
        except ValueError:
            raise ValueError(fault) from None
    return in_brackets(name.lower()) + ("" if port == 443 else f":{port}")


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise ValueError("it is neither an IP address nor a network") from None


OuterName = Annotated[str, AfterValidator(_outer)]
TrustedProxy = Annotated[str, AfterValidator(_network)]


@dataclass(frozen=True)
class PublicAddress:
    """The names under which clients reach a page."""

    outer: str = ""  # host[:port] of the reverse proxy
    proxies: tuple[str, ...] = ()  # networks of the reverse proxies whose X-Forwarded-For is trusted
    names: Collection[str] = ()  # of its certificate; some begin with `*.`

    def is_own(self, host: str) -> bool:
        """Return whether a Host header names this page: an IP address (no rebinding), localhost, or its names."""
        bare = _without_port(host.lower()).removesuffix(".")
        own = ("localhost", _without_port(self.outer), *(one.lower() for one in self.names))
        return address.ip(bare) is not None or (bare != "" and any(_is_for(bare, one) for one in own))

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Return whether an Origin header is this page's, by the request's Host or by the outer name."""
        return origin.lower() in (f"https://{host.lower()}", *([f"https://{self.outer}"] if self.outer else []))

    def asker(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return the client's address: the peer's, or behind trusted proxies the last address that is not a proxy's.

        `forwarded` are the values of X-Forwarded-For. Only the parts that trusted proxies appended are reliable.
        """
        asker = str(address.ip(peer) or peer)
        for one in reversed([part.strip() for value in forwarded for part in value.split(",")]):
            if not self._is_trusted(asker) or (found := address.ip(one)) is None:
                break
            asker = str(found)
        return asker

    def _is_trusted(self, one: str) -> bool:
        found = address.ip(one)
        networks = map(ipaddress.ip_network, self.proxies)
        return found is not None and any(found.version == net.version and found in net for net in networks)


def _without_port(text: str) -> str:
    bare = text if text.endswith("]") else text.rpartition(":")[0] or text
    return bare.removeprefix("[").removesuffix("]")


def names_of_machine(host: str) -> tuple[str, ...]:
    """Return this machine's names, for a page that listens on `host`; none on loopback."""
    return () if address.is_loopback(host) else (socket.gethostname(), socket.getfqdn())


def _is_for(name: str, own: str) -> bool:
    return name == own or (own.startswith("*.") and name.partition(".")[2] == own[2:])
