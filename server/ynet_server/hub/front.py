"""The hub's open port: accepts connections, limits those of strangers, and passes the bytes on to gRPC unchanged.

gRPC counts all connections alike, and would close a site's connection when strangers hold too many. Here a stranger's
connection makes room for the next one. TLS passes through unchanged: the hub reads the certificate, and reports which
site a connection belongs to.
"""

import asyncio
import contextlib
import itertools
import shutil
import socket
import tempfile
from pathlib import Path
from typing import NamedTuple

from ynet.runtime import address as addresses
from ynet.web.accepting import accept
from ynet.web.connection_limit import ConnectionLimit, LimitedConnection

PART_BYTES = 256 << 10
HANDSHAKE_RECORD = 22
"""The first byte of every TLS connection."""


class Bounds(NamedTuple):
    """The limits of the port."""

    strangers: int = 512  # connections without a valid certificate so far
    of_address: int = 64  # of those, from one address, which several hospitals may share
    of_site: int = 16
    first_within_s: float = 10.0  # the first bytes
    call_within_s: float = 20.0  # a call with a valid certificate


BOUNDS = Bounds()


class Front:
    """The open port, and behind it a socket that no other user can reach."""

    def __init__(self, host: str, port: int, bounds: Bounds = BOUNDS) -> None:
        self._host, self._port, self._bounds = host, port, bounds
        self.room = ConnectionLimit(bounds.strangers, bounds.of_address, bounds.of_site)
        self._guests: dict[str, LimitedConnection] = {}  # by gRPC's name of their connection
        self._numbers, self._tasks = itertools.count(), set[asyncio.Task[None]]()
        self._accepting: asyncio.Task[None] | None = None

    def listen(self) -> int:
        """Start to listen. Returns the port. Accepts nothing before `begin`. Raises OSError."""
        self._listening = addresses.listen(self._host, self._port, backlog=1024)
        self._listening.setblocking(False)
        self._folder = Path(tempfile.mkdtemp(prefix="ynet-"))  # 0700; its path is short enough for a socket
        self._path = self._folder / "hub"
        return int(self._listening.getsockname()[1])

    @property
    def target(self) -> str:
        """The address where gRPC must listen, in gRPC's notation."""
        return f"unix:{self._path}"

    def begin(self) -> None:
        """Accept connections. Call this once gRPC listens at `target`."""
        self._accepting = asyncio.create_task(accept(self._listening, self._serve, self._tasks))

    async def end(self) -> None:
        """Close the port and every connection."""
        tasks = [*self._tasks, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listening.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def know(self, peer: str, site: str) -> None:
        """Note that the connection with this gRPC name belongs to a site with a valid certificate."""
        if guest := self._guests.get(peer):
            self.room.know(guest, site)

    async def _serve(self, connection: socket.socket, address: str) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (it is one)
        guest = LimitedConnection(address, task.cancel)
        self.room.enter(guest)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with connection, contextlib.suppress(TimeoutError, OSError, asyncio.CancelledError):
                async with asyncio.timeout(self._bounds.first_within_s):
                    first = await asyncio.get_running_loop().sock_recv(connection, PART_BYTES)
                if first[:1] == bytes([HANDSHAKE_RECORD]):
                    guest.has_spoken = True
                    await self._pass_on(guest, connection, first)
        finally:
            self.room.leave(guest)

    async def _pass_on(self, guest: LimitedConnection, connection: socket.socket, first: bytes) -> None:
        """Pass bytes on in both directions until one side ends."""
        loop, path = asyncio.get_running_loop(), self._folder / str(next(self._numbers))
        peer = f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as behind:
            behind.setblocking(False)
            behind.bind(str(path))  # the name by which gRPC tells its connections apart
            try:
                await loop.sock_connect(behind, str(self._path))
            finally:
                path.unlink()
            self._guests[peer] = guest
            ends = [
                asyncio.create_task(_copy(connection, behind, first)),
                asyncio.create_task(_copy(behind, connection)),
            ]
            try:
                await asyncio.wait(ends, timeout=self._bounds.call_within_s, return_when=asyncio.FIRST_COMPLETED)
                if guest.name is not None:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            finally:
                del self._guests[peer]
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)


async def _copy(source: socket.socket, target: socket.socket, first: bytes = b"") -> None:
    """Pass bytes on until the source ends."""
    loop, data = asyncio.get_running_loop(), first or await asyncio.get_running_loop().sock_recv(source, PART_BYTES)
    while data:
        await loop.sock_sendall(target, data)
        data = await loop.sock_recv(source, PART_BYTES)
