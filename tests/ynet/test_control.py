"""The door on loopback: opened by the token in the home folder, by nothing else."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet import control
from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.home import write_private

Call = Callable[..., Awaitable[Any]]


def with_door(home: Path, story: Callable[[Call, dict[str, Any]], Awaitable[None]]) -> None:
    """Run `story` beside an open door; it gets `control.call` and what the door's file says."""

    async def hello(_: Request) -> Response:
        return JSONResponse({"hello": "there"})

    async def echo(request: Request) -> Response:
        return JSONResponse(await request.json())

    async def yours(_: Request) -> Response:
        raise UserError("a", "b", "c")

    async def refused(_: Request) -> Response:
        raise RefusedError("a", "b", "c")

    async def ours(_: Request) -> Response:
        raise RuntimeError("a secret of the log")

    async def slow(_: Request) -> Response:
        await asyncio.sleep(0.4)
        return JSONResponse({})

    routes = [Route(f"/{f.__name__}", f) for f in (hello, yours, refused, ours, slow)]
    routes.append(Route("/echo", echo, methods=["POST"]))

    async def main() -> None:
        door = await control.serve(home, routes)
        try:
            await story(
                lambda method, path, **request: asyncio.to_thread(
                    control.call, home, method, path, "the server", "ynet-server start", **request
                ),
                json.loads((home / control.FILE).read_bytes()),
            )
        finally:
            await door.end()

    asyncio.run(main())


def test_a_command_in_the_same_home_gets_its_answer(tmp_path: Path) -> None:
    async def story(call: Call, door: dict[str, Any]) -> None:
        assert await call("GET", "/hello") == {"hello": "there"}
        assert await call("POST", "/echo", json={"a": ["é"]}) == {"a": ["é"]}

    with_door(tmp_path, story)


def test_where_the_door_is_can_be_read_by_its_owner_alone(tmp_path: Path) -> None:
    async def story(call: Call, door: dict[str, Any]) -> None:
        assert (tmp_path / control.FILE).stat().st_mode & 0o777 == 0o600
        assert door["url"].startswith("http://127.0.0.1:")

    with_door(tmp_path, story)


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer"}, {"authorization": "Bearer wrong"}, {"authorization": b"Bearer \xff"}]
)
def test_without_the_token_every_path_answers_401(tmp_path: Path, headers: dict[str, Any]) -> None:
    async def story(call: Call, door: dict[str, Any]) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            for method, path in (("GET", "/hello"), ("GET", "/ours"), ("POST", "/echo"), ("HEAD", "/hello")):
                answer = await client.request(method, door["url"] + path, headers=headers)
                assert (answer.status_code, answer.content) == (401, b"")
            token_only = {"authorization": door["token"]}
            assert (await client.get(door["url"] + "/hello", headers=token_only)).status_code == 401

    with_door(tmp_path, story)


def test_a_users_error_reaches_the_command_as_it_was_raised(tmp_path: Path) -> None:
    async def story(call: Call, door: dict[str, Any]) -> None:
        for path, kind in (("/yours", UserError), ("/refused", RefusedError)):
            with pytest.raises(kind) as caught:
                await call("GET", path)
            assert type(caught.value) is kind
            assert (caught.value.what, caught.value.why, caught.value.do) == ("a", "b", "c")

    with_door(tmp_path, story)


def test_a_fault_of_the_process_is_no_users_error_and_tells_nothing(tmp_path: Path) -> None:
    async def story(call: Call, door: dict[str, Any]) -> None:
        with pytest.raises(RuntimeError, match="its log says why") as caught:
            await call("GET", "/ours")
        assert "secret" not in str(caught.value)

    with_door(tmp_path, story)


def test_an_answer_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    async def story(call: Call, door: dict[str, Any]) -> None:
        with pytest.raises(UnreachableError, match="did not answer"):
            await call("GET", "/slow", timeout_s=0.1)

    with_door(tmp_path, story)


def unreachable(home: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        control.call(home, "GET", "/hello", "the server", "ynet-server start")
    assert str(caught.value).splitlines()[2] == "   do: start it: ynet-server start"
    assert caught.value.exit_code == 4


def test_a_home_in_which_nothing_runs_is_unreachable(tmp_path: Path) -> None:
    unreachable(tmp_path / "none")
    unreachable(tmp_path)


def test_a_door_that_its_process_left_behind_is_unreachable(tmp_path: Path) -> None:
    async def story(call: Call, door: dict[str, Any]) -> None:
        pass

    with_door(tmp_path, story)
    unreachable(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "{}", "[" * 100_000),
        *('{"url": "x", "token": "y"}', '{"url": 1, "token": 2}', '{"url": "\\u0000", "token": "y"}'),
    ],
)
def test_a_door_file_that_cannot_be_read_is_unreachable(tmp_path: Path, text: str) -> None:
    (tmp_path / control.FILE).write_text(text)
    unreachable(tmp_path)


def test_a_stranger_that_listens_where_the_door_was_is_not_taken_for_it(tmp_path: Path) -> None:
    async def hello(_: Request) -> Response:
        return JSONResponse({"hello": "stranger"})

    (tmp_path / "other").mkdir()

    async def main() -> None:
        stranger = await control.serve(tmp_path / "other", [Route("/hello", hello)])
        door = json.loads((tmp_path / "other" / control.FILE).read_bytes())
        write_private(tmp_path / control.FILE, json.dumps({**door, "token": "of a process long gone"}).encode())
        try:
            await asyncio.to_thread(unreachable, tmp_path)
        finally:
            await stranger.end()

    asyncio.run(main())


def test_something_that_speaks_no_http_is_unreachable(tmp_path: Path) -> None:
    async def main() -> None:
        async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail\r\n")
            writer.close()

        server = await asyncio.start_server(rude, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        (tmp_path / control.FILE).write_text(json.dumps({"url": url, "token": "t"}))
        async with server:
            await asyncio.to_thread(unreachable, tmp_path)

    asyncio.run(main())


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = control.quiet_config(Starlette(), "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            asyncio.run(control.QuietServer(config).begin())
