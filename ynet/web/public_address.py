"""By which names a page is reached, and who asks where a reverse proxy stands between.

A browser names the host that it believes to speak with. A page whose name an attacker has turned to this machine (DNS
rebinding) names the attacker's: no request with a name that is not this page's own is answered.
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
    """HOST or HOST:PORT, in small letters, or nothing. Raises ValueError."""
    if not text:
        return text
    fault = "it is no HOST or HOST:PORT: no https:// belongs before it, and no path behind it"
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
    """How a page is seen from outside."""

    outer: str = ""  # host[:port] by which a reverse proxy is reached
    proxies: tuple[str, ...] = ()  # networks of the reverse proxies whose X-Forwarded-For counts
    names: Collection[str] = ()  # that its certificate is for, `*.` before some

    def is_own(self, host: str) -> bool:
        """Whether a request's Host is this page: an IP address (no name leads elsewhere), localhost, or its names."""
        bare = _without_port(host.lower()).removesuffix(".")
        own = ("localhost", _without_port(self.outer), *(one.lower() for one in self.names))
        return address.ip(bare) is not None or (bare != "" and any(_is_for(bare, one) for one in own))

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Whether a request with this Host comes from a page of this very origin; the outer name is another word."""
        return origin.lower() in (f"https://{host.lower()}", *([f"https://{self.outer}"] if self.outer else []))

    def asker(self, peer: str, forwarded: Sequence[str]) -> str:
        """The address of who asks: the connection's, or behind trusted proxies the last that is none of theirs.

        `forwarded`: the values of X-Forwarded-For, which anybody may have written up to the last trusted one.
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
    """What this machine is called, where a page listens at `host`: on loopback alone nobody elsewhere calls it."""
    return () if address.is_loopback(host) else (socket.gethostname(), socket.getfqdn())


def _is_for(name: str, own: str) -> bool:
    return name == own or (own.startswith("*.") and name.partition(".")[2] == own[2:])
