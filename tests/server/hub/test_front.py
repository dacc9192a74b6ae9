"""The hub's port under a crowd of strangers: sites connect all the same, and those that are connected stay."""

import asyncio
import contextlib
import datetime as dt
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust import identity
from ynet_server import ports
from ynet_server.authority import renewal
from ynet_server.hub.front import Bounds, Front
from ynet_server.hub.peers import CertificateCheck
from ynet_server.registry import Registry

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)
HUB = identity.issue_hub(AUTHORITY, NOW)
FEW = Bounds(strangers=40, of_address=16, of_site=3, first_within_s=5.0, call_within_s=5.0)
Story = Callable[["Door"], Awaitable[None]]


class Door:
    """A front, and a hub behind it that answers probes."""

    def __init__(self, front: Front, registry: Registry, port: int) -> None:
        self.front, self.registry, self.port = front, registry, port

    def member(self, site: str) -> tuple[bytes, bytes]:
        key = identity.new_key()
        certificate = identity.issue_site(AUTHORITY, site, identity.signing_request(key, site), NOW)
        leaf = identity.read_leaf(certificate)
        self.registry.invite(site, b"s" * 16, NOW.timestamp(), replace=True)
        self.registry.enrol(site, leaf.serial, certificate, NOW.timestamp(), leaf.ends.timestamp())
        return key, certificate

    @contextlib.asynccontextmanager
    async def channel(self, member: tuple[bytes, bytes]) -> AsyncIterator[grpc.aio.Channel]:
        credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate, *member)
        options = [("grpc.ssl_target_name_override", identity.HUB_NAME), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options) as channel:
            yield channel

    def crowd(self, host: str, size: int, said: bytes = b"") -> list[socket.socket]:
        made = [socket.create_connection(("127.0.0.1", self.port), 5, (host, 0)) for _ in range(size)]
        for one in made:
            one.sendall(said) if said else None
            one.setblocking(False)
        return made


async def probe(channel: grpc.aio.Channel) -> str:
    ask = channel.unary_unary(f"/{protocol.SERVICE}/Probe", pb.ProbeRequest.SerializeToString, pb.ProbeReply.FromString)
    return str((await ask(pb.ProbeRequest(), timeout=5)).site)


def is_closed(one: socket.socket) -> bool:
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


async def until(true: Callable[[], object], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await asyncio.sleep(0.02)


def play(folder: Path, story: Story, bounds: Bounds = FEW) -> None:
    async def main() -> None:
        registry, front = Registry(folder / "registry.sqlite"), Front("127.0.0.1", 0, bounds)
        port = front.listen()
        server = grpc.aio.server(interceptors=[CertificateCheck(registry, front.know)], options=ports.OPTIONS)
        server.add_generic_rpc_handlers([renewal.service(registry, AUTHORITY)])
        pair = [(HUB.key, HUB.certificate)]
        server.add_secure_port(front.target, grpc.ssl_server_credentials(pair, AUTHORITY.certificate, True))
        await server.start()
        front.begin()
        try:
            await asyncio.wait_for(story(Door(front, registry, port)), 60)
        finally:
            await server.stop(None)
            await front.end()
            registry.close()
        assert front.room.total() == 0

    asyncio.run(main())


SAID = {"nothing": b"", "the beginning of a handshake": b"\x16\x03\x01\x02\x00\x01"}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
def test_idle_connections_keep_no_site_out_not_even_one_behind_the_same_address(tmp_path: Path, said: bytes) -> None:
    async def story(door: Door) -> None:
        crowd = door.crowd("127.0.0.1", 60, said)  # the address that the sites come from
        for host in range(2, 8):
            crowd += door.crowd(f"127.0.0.{host}", 20, said)
        await until(lambda: sum(map(is_closed, crowd)) >= len(crowd) - FEW.strangers)
        assert door.front.room.strangers() <= FEW.strangers
        for site in ("A", "B", "C"):
            async with door.channel(door.member(site)) as channel:
                assert await probe(channel) == site
        for one in crowd:
            one.close()

    play(tmp_path, story)


def test_a_site_that_is_connected_stays_whatever_comes_from_its_address(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        async with door.channel(door.member("A")) as channel:
            assert await probe(channel) == "A"
            assert (door.front.room.strangers(), door.front.room.total()) == (0, 1)
            (kept,) = door.front._guests
            crowd = door.crowd("127.0.0.1", 100)
            await until(lambda: sum(map(is_closed, crowd)) >= 100 - FEW.of_address)
            assert await probe(channel) == "A"
            assert kept in door.front._guests
            for one in crowd:
                one.close()

    play(tmp_path, story)


def test_who_says_nothing_or_no_tls_or_makes_no_call_is_cut_off(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        plain = door.crowd("127.0.0.1", 1, b"GET / HTTP/1.1\r\n\r\n")
        await until(lambda: all(map(is_closed, plain)), 0.4)
        silent, half = door.crowd("127.0.0.1", 1), door.crowd("127.0.0.1", 1, b"\x16\x03\x01\x02\x00\x01")
        async with door.channel(door.member("A")) as channel:
            await until(lambda: channel.get_state(try_to_connect=True) is grpc.ChannelConnectivity.READY)
            assert door.front.room.total() >= 1
            await until(lambda: door.front.room.total() == 0, 5)
            assert is_closed(silent[0])
            assert is_closed(half[0])
        for one in [*plain, *silent, *half]:
            one.close()

    play(tmp_path, story, FEW._replace(first_within_s=0.5, call_within_s=1.0))


def test_one_site_has_few_connections_and_its_newest_counts(tmp_path: Path) -> None:
    async def story(door: Door) -> None:
        member = door.member("A")
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3 * FEW.of_site):
                assert await probe(await stack.enter_async_context(door.channel(member))) == "A"
                assert door.front.room.total() <= FEW.of_site

    play(tmp_path, story)


def test_what_is_sent_arrives_whole(tmp_path: Path) -> None:
    """A megabyte and more, in both directions, over many parts."""

    async def story(door: Door) -> None:
        async with door.channel(door.member("A")) as channel:
            await probe(channel)
            ask = channel.unary_unary(f"/{protocol.SERVICE}/Renew", None, None)
            with pytest.raises(grpc.aio.AioRpcError, match="too large"):
                await ask(pb.RenewRequest(csr=bytes(3 << 20)).SerializeToString())

    play(tmp_path, story)
