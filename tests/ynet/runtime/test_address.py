"""Hosts and ports: what is written can be read again, and every listener listens on IPv6 as on IPv4."""

import socket

import pytest

from ynet.runtime import address, listening
from ynet.runtime.address import Address
from ynet.runtime.listening import ListenAddress


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("hub.example.org:8440", Address("hub.example.org", 8440)),
        ("10.1.2.3:1", Address("10.1.2.3", 1)),
        ("[::1]:8440", Address("::1", 8440)),
        ("[2001:DB8:0::1]:65535", Address("2001:db8::1", 65535)),
    ],
)
def test_read_and_written_are_inverse(text: str, found: Address) -> None:
    assert address.read(text) == found
    assert address.read(str(found)) == found


@pytest.mark.parametrize(
    "text",
    ["", ":", "hub", "hub:", ":8440", "::1", "::1:8440", "[::1]", "[hub]:1", "[10.1.2.3]:1", "hub:0", "hub:65536",
     "hub:http", "hub:-1", "h ub:1", "a/b:1", "user@hub:1", "[::1]x:1", "hub:٣"],
)  # fmt: skip
def test_read_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|address"):
        address.read(text)


@pytest.mark.parametrize(
    ("text", "bare"), [("::1", "::1"), ("[::1]", "::1"), ("::", "::"), ("0.0.0.0", "0.0.0.0"), ("A-b.c", "A-b.c")]
)
def test_host_is_kept_without_brackets(text: str, bare: str) -> None:
    assert address.host(text) == bare


@pytest.mark.parametrize("text", ["[::1]:8443", "hub:8443", "1.2.3.4:8443", "[hub]", "", "a b", "https://hub", "-a"])
def test_host_with_a_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a port does not belong here"):
        address.host(text)


def test_listens_at_every_address_of_ipv4_and_ipv6() -> None:
    with address.listen("::", 0) as listening:
        port = listening.getsockname()[1]
        for host in ("::1", "127.0.0.1"):
            socket.create_connection((host, port), 5).close()
    with address.listen("::1", 0) as listening:
        port = listening.getsockname()[1]
        socket.create_connection(("::1", port), 5).close()
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 5)
    for host in ("127.0.0.1", "localhost", ""):
        with address.listen(host, 0) as listening:
            socket.create_connection(("127.0.0.1", listening.getsockname()[1]), 5).close()


def test_ipv4_that_came_over_ipv6_is_its_own_neighbourhood() -> None:
    """Else every IPv4 address of a listener at `::` would share one limit."""
    assert address.neighbourhood("::ffff:10.1.2.3") == "10.1.2.3"
    assert address.neighbourhood("2001:db8::1") == address.neighbourhood("2001:db8::ffff:2") == "2001:db8::/64"
    assert address.neighbourhood("2001:db8:0:1::1") == "2001:db8:0:1::/64"
    assert address.neighbourhood("") == ""


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("LocalHost", True), ("::", False), ("hub", False)],
)
def test_loopback(host: str, is_loopback: bool) -> None:
    assert address.is_loopback(host) == is_loopback


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "127.0.0.1", "::1", "localhost"])
def test_host_that_can_be_listened_on_is_one_that_settings_may_name(host: str) -> None:
    address.listen(host, 0).close()
    listening.check([ListenAddress("metrics.port", host, 0)])
