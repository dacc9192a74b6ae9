"""The port for strangers: who says nothing, says it slowly, or comes in crowds does not keep others out."""

import asyncio
import datetime as dt
import ssl
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ynet.trust import identity
from ynet.web import https_server
from ynet.web.https_server import HttpsServer
from ynet_server.authority import certificates

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)
HUB = identity.issue_hub(AUTHORITY, NOW)


async def hello(request: Request) -> Response:
    return PlainTextResponse(await request.body() or b"hello")


def play(story: Callable[[HttpsServer, int], Awaitable[None]]) -> None:
    async def main() -> None:
        app = Starlette(routes=[Route("/", hello, methods=["GET", "POST"])])
        door = HttpsServer(app, certificates.tls(HUB, AUTHORITY), "127.0.0.1", 0)
        port = await door.begin()
        try:
            await asyncio.wait_for(story(door, port), 30)
        finally:
            await door.end()
        assert door.room.total() == 0

    asyncio.run(main())


def context() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY.certificate.decode())


async def get(port: int) -> str:
    async with httpx.AsyncClient(verify=context(), trust_env=False) as client:
        answer = await client.get(f"https://127.0.0.1:{port}/", extensions={"sni_hostname": identity.HUB_NAME})
        return answer.text


async def closed(reader: asyncio.StreamReader) -> None:
    try:
        while await reader.read(1000):
            pass
    except OSError:
        pass


SAID = {
    "nothing": b"",
    "half a request": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
    "half a header": b"GET / HTT",
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
def test_an_idle_or_half_sent_connection_is_closed(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    monkeypatch.setattr(https_server, "CONNECTION_S", 0.5)

    async def story(door: HttpsServer, port: int) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context(), server_hostname=identity.HUB_NAME
        )
        writer.write(said)
        begun = time.monotonic()
        await closed(reader)
        assert 0.3 < time.monotonic() - begun < 3
        writer.transport.abort()
        assert await get(port) == "hello"

    play(story)


def test_a_request_that_comes_byte_by_byte_is_cut_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https_server, "CONNECTION_S", 0.5)

    async def story(door: HttpsServer, port: int) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context(), server_hostname=identity.HUB_NAME
        )
        ending = asyncio.ensure_future(closed(reader))
        begun = time.monotonic()
        while not ending.done():
            writer.write(b"x")
            await asyncio.sleep(0.05)
            assert time.monotonic() - begun < 3
        writer.transport.abort()

    play(story)


def test_a_connection_that_never_begins_its_handshake_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https_server, "HANDSHAKE_S", 0.3)

    async def story(door: HttpsServer, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.wait_for(closed(reader), 5)
        writer.transport.abort()

    play(story)


def test_from_one_address_few_connections_are_open_and_who_says_nothing_makes_room() -> None:
    async def story(door: HttpsServer, port: int) -> None:
        taken = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3 * https_server.MAX_OF_ONE)]
        await asyncio.sleep(0.2)
        assert door.room.total() == https_server.MAX_OF_ONE
        await asyncio.wait_for(closed(taken[0][0]), 5)  # the oldest
        assert await get(port) == "hello"  # from the same address
        for _, writer in taken:
            writer.transport.abort()

    play(story)


def test_silent_tls_connections_from_two_addresses_do_not_keep_a_browser_out() -> None:
    async def story(door: HttpsServer, port: int) -> None:
        def connect(host: str) -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
            return asyncio.open_connection(
                "127.0.0.1", port, local_addr=(host, 0), ssl=context(), server_hostname=identity.HUB_NAME
            )

        taken = [await connect(f"127.0.0.{2 + number % 12}") for number in range(https_server.MAX_CONNECTIONS + 20)]
        assert door.room.total() == https_server.MAX_CONNECTIONS
        begun = time.monotonic()
        assert await get(port) == "hello"
        assert time.monotonic() - begun < 5
        for _, writer in taken:
            writer.transport.abort()

    play(story)


def test_of_all_addresses_together_no_more_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https_server, "MAX_CONNECTIONS", 3)

    async def story(door: HttpsServer, port: int) -> None:
        taken = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        await asyncio.sleep(0.2)
        assert door.room.total() == 3
        for _, writer in taken:
            writer.transport.abort()

    play(story)


def test_a_connection_that_has_lived_long_takes_no_further_request_but_ends_the_one_under_way() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        https_server.signed_in(request)
        began.set()
        await go_on.wait()
        return PlainTextResponse("slow")

    async def main() -> None:
        app = Starlette(routes=[Route("/slow", slow)])
        door = HttpsServer(app, certificates.tls(HUB, AUTHORITY), "127.0.0.1", 0, life_s=0.3)
        port = await door.begin()
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context(), server_hostname=identity.HUB_NAME
            )
            writer.write(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
            await began.wait()
            await asyncio.sleep(0.5)  # longer than its life
            go_on.set()
            answered = await asyncio.wait_for(reader.read(), 20)  # to the end: the connection is closed
            assert answered.endswith(b"slow")
            writer.close()
        finally:
            await door.end()

    asyncio.run(main())


def test_who_has_signed_in_stays_when_strangers_come_in_crowds_and_a_stranger_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(https_server, "CONNECTION_S", 1.0)

    async def page(request: Request) -> Response:
        if request.url.path == "/in":
            https_server.signed_in(request)
        return PlainTextResponse("page")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> bytes:
        writer.write(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        return await asyncio.wait_for(reader.readuntil(b"page"), 5)

    async def main() -> None:
        app = Starlette(routes=[Route("/in", page), Route("/out", page)])
        door = HttpsServer(app, certificates.tls(HUB, AUTHORITY), "127.0.0.1", 0, life_s=60.0, most_of_one=8)
        port = await door.begin()
        try:
            connect = lambda: asyncio.open_connection(  # noqa: E731
                "127.0.0.1", port, ssl=context(), server_hostname=identity.HUB_NAME
            )
            reader, writer = await connect()
            assert b"200" in await answer(reader, writer, "/in")
            out_reader, out_writer = await connect()
            assert b"200" in await answer(out_reader, out_writer, "/out")
            crowd = [await connect() for _ in range(20)]
            assert b"200" in await answer(reader, writer, "/in")
            await asyncio.wait_for(closed(out_reader), 5)
            await asyncio.sleep(1.2)
            assert door.room.strangers() == 0
            assert b"200" in await answer(reader, writer, "/in")
            for _, one in [*crowd, (reader, writer), (out_reader, out_writer)]:
                one.transport.abort()
        finally:
            await door.end()

    asyncio.run(main())
