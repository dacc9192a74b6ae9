"""The door of a home folder: open to the processes of its owner, on this machine, to nobody else."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.runtime import control_client, control_server, unix_socket
from ynet.runtime.home import Lock, prepare

Call = Callable[..., Awaitable[Any]]
NOBODY = 65_534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")

BECOME = """
import asyncio, concurrent.futures.thread, http.client, os, pathlib, socket, sys
import ynet.runtime.control_server, ynet_client.membership.membership
import ynet_client.commands.cli, ynet_server.commands.cli  # another user may not read this Python
if user := int(sys.argv.pop(1)):
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
"""
SERVE = """
import asyncio, os, pathlib, sys
from starlette.responses import JSONResponse
from starlette.routing import Route
from ynet.runtime import control_server as control
from ynet.runtime.home import Lock, prepare

async def hello(request):
    return JSONResponse({"hello": os.getpid(), "said": (await request.body()).decode()})

async def main(home):
    with Lock(home, "the server"):
        door = await control.serve(home, [Route("/hello", hello, methods=["GET", "POST"])])
        print("open", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await door.end()

asyncio.run(main(prepare(pathlib.Path(sys.argv[1]))))
"""
CALL = """
import pathlib, sys
from ynet.runtime import control_server as control
from ynet.errors import UserError
try:
    print(control.call(pathlib.Path(sys.argv[1]), "POST", "/hello", "the server", "ynet-server start", json="mine"))
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""
CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    try:
        connection.connect(sys.argv[1])
    except OSError as error:
        sys.exit(error.strerror)
    try:
        connection.sendall(b"POST /hello HTTP/1.1\\r\\nhost: ynet\\r\\ncontent-length: 4\\r\\n\\r\\nmine")
        print(connection.recv(1000))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""


def with_door(home: Path, story: Callable[[Call], Awaitable[None]]) -> None:
    """Run `story` beside an open door; it gets `control.call`."""

    async def hello(_: Request) -> Response:
        return JSONResponse({"hello": "there"})

    async def echo(request: Request) -> Response:
        return JSONResponse(await request.json())

    async def parameters(request: Request) -> Response:
        return JSONResponse(request.query_params.multi_items())

    async def early(_: Request) -> Response:
        raise UserError("too large", "b", "c")

    async def yours(_: Request) -> Response:
        raise UserError("a", "b", "c")

    async def refused(_: Request) -> Response:
        raise RefusedError("a", "b", "c")

    async def ours(_: Request) -> Response:
        raise RuntimeError("a secret of the log")

    async def slow(_: Request) -> Response:
        await asyncio.sleep(0.4)
        return JSONResponse({})

    routes = [Route(f"/{f.__name__}", f) for f in (hello, yours, refused, ours, slow, parameters)]
    routes += [Route(f"/{f.__name__}", f, methods=["POST"]) for f in (echo, early)]

    async def main() -> None:
        door = await control_server.serve(home, routes)
        try:
            await story(
                lambda method, path, **request: asyncio.to_thread(
                    control_server.call, home, method, path, "the server", "ynet-server start", **request
                )
            )
        finally:
            await door.end()

    asyncio.run(main())


@contextlib.contextmanager
def process(home: Path, user: int = 0, script: str = SERVE) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `home` and its door; ended by what comes first, its stdin's end or a signal."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", BECOME + script, str(user), home]
    running = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        assert running.stdout
        if running.stdout.readline() != "open\n":
            raise AssertionError(running.communicate()[1])
        yield running
    finally:
        running.communicate()


def run(script: str, *arguments: object, user: int = 0) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", BECOME + script, str(user), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def hello(home: Path) -> Any:
    return control_server.call(home, "GET", "/hello", "the server", "ynet-server start")


def unreachable(home: Path) -> None:
    with pytest.raises(UnreachableError) as caught:
        hello(home)
    assert str(caught.value).splitlines()[2] == "   do: start it: ynet-server start"
    assert caught.value.exit_code == 4


# --- what is said over it


def test_a_command_in_the_same_home_gets_its_answer(tmp_path: Path) -> None:
    async def story(call: Call) -> None:
        assert await call("GET", "/hello") == {"hello": "there"}
        assert await call("POST", "/echo", json={"a": ["é"]}) == {"a": ["é"]}
        assert await call("POST", "/echo", content='{"b": "é"}') == {"b": "é"}
        given = {"k": 3, "label": ["a b", "é&c"], "none": [], "empty": "", "x": "1/2"}
        said = [["k", "3"], ["label", "a b"], ["label", "é&c"], ["empty", ""], ["x", "1/2"]]
        assert await call("GET", "/parameters", params=given) == said

    with_door(tmp_path, story)


def test_a_large_body_goes_whole_and_one_that_is_refused_early_is_told_why(tmp_path: Path) -> None:
    async def story(call: Call) -> None:
        assert len(await call("POST", "/echo", json="x" * (16 << 20))) == 16 << 20
        with pytest.raises(UserError, match="too large"):
            await call("POST", "/early", content=bytes(64 << 20))

    with_door(tmp_path, story)


def test_a_users_error_reaches_the_command_as_it_was_raised(tmp_path: Path) -> None:
    async def story(call: Call) -> None:
        for path, kind in (("/yours", UserError), ("/refused", RefusedError)):
            with pytest.raises(kind) as caught:
                await call("GET", path)
            assert type(caught.value) is kind
            assert (caught.value.what, caught.value.why, caught.value.do) == ("a", "b", "c")

    with_door(tmp_path, story)


def test_a_fault_of_the_process_is_no_users_error_and_tells_nothing(tmp_path: Path) -> None:
    async def story(call: Call) -> None:
        with pytest.raises(RuntimeError, match="its log says why") as caught:
            await call("GET", "/ours")
        assert "secret" not in str(caught.value)

    with_door(tmp_path, story)


def test_an_answer_that_takes_too_long_is_not_waited_for(tmp_path: Path) -> None:
    async def story(call: Call) -> None:
        with pytest.raises(UnreachableError, match="did not answer"):
            await call("GET", "/slow", timeout_s=0.1)

    with_door(tmp_path, story)


def test_a_frozen_process_whose_queue_is_full_is_not_waited_for(tmp_path: Path) -> None:
    with unix_socket.listen(tmp_path) as listening:
        listening.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / unix_socket.NAME))
            with pytest.raises(UnreachableError, match="did not answer"):
                control_server.call(tmp_path, "GET", "/", "the server", "ynet-server start", 0.2)


def test_a_command_that_the_process_does_not_know_says_that_versions_differ(tmp_path: Path) -> None:
    async def story(call: Call) -> None:
        with pytest.raises(UserError, match="another version") as caught:
            await call("GET", "/of-a-later-version")
        assert caught.value.do == "stop it, and start it again: ynet-server start"

    with_door(tmp_path, story)


# --- where it is


def test_a_door_is_a_socket_for_its_owner_whatever_the_umask_and_no_port_and_no_token(tmp_path: Path) -> None:
    home = prepare(tmp_path / "home")

    async def story(_: Call) -> None:
        assert [path.name for path in home.iterdir()] == [unix_socket.NAME]
        assert (home / unix_socket.NAME).is_socket()
        assert (home / unix_socket.NAME).stat().st_mode & 0o777 == 0o600
        assert not _listening_ports()

    before = os.umask(0)
    try:
        with_door(home, story)
    finally:
        os.umask(before)
    assert not list(home.iterdir())


def _listening_ports() -> list[str]:
    """Of this process, from /proc/net/tcp: state 0A is LISTEN."""
    inodes = {str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if os.path.lexists(one)}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


@pytest.mark.parametrize("name", ["h", "x" * 200, "é" * 100])
def test_a_home_with_a_longer_path_than_a_socket_may_have_has_its_door(name: str, tmp_path: Path) -> None:
    home = prepare(tmp_path / name / name)

    async def story(call: Call) -> None:
        assert await call("GET", "/hello") == {"hello": "there"}

    with_door(home, story)
    unreachable(home)


def test_a_home_without_a_name_of_its_own_has_its_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def story(call: Call) -> None:
        assert await call("GET", "/hello") == {"hello": "there"}

    with_door(Path(), story)


def test_a_home_on_a_file_system_without_sockets_is_the_users_to_move() -> None:
    with pytest.raises(UserError, match="cannot be used") as caught:
        unix_socket.listen(Path("/proc/self"))
    assert caught.value.do == "choose another --home, on a disk of this machine"


def test_a_home_in_which_nothing_runs_is_unreachable(tmp_path: Path) -> None:
    unreachable(tmp_path / "none")
    unreachable(tmp_path)
    (tmp_path / "file").touch()
    unreachable(tmp_path / "file")


@pytest.mark.parametrize("kind", ["file", "folder", "link", "datagrams", "pipe"])
def test_what_is_no_door_in_its_place_is_unreachable_and_a_start_puts_it_right(kind: str, tmp_path: Path) -> None:
    place = tmp_path / unix_socket.NAME
    with contextlib.ExitStack() as stack:
        if kind == "file":
            place.write_text("{}")
        elif kind == "folder":
            place.mkdir()
        elif kind == "link":
            place.symlink_to("/nowhere")
        elif kind == "datagrams":
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind(str(place))
        else:
            os.mkfifo(place)
        unreachable(tmp_path)
        if kind == "folder":
            with pytest.raises(UserError, match="cannot be used"):
                unix_socket.listen(tmp_path)
        else:
            unix_socket.listen(tmp_path).close()
            assert place.is_socket()


def test_something_that_speaks_no_http_is_unreachable(tmp_path: Path) -> None:
    async def main() -> None:
        async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 mail\r\n")
            writer.close()

        async with await asyncio.start_unix_server(rude, sock=unix_socket.listen(tmp_path)):
            await asyncio.to_thread(unreachable, tmp_path)

    asyncio.run(main())


def test_a_killed_process_leaves_no_door_and_the_next_one_opens_it_again(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        assert hello(tmp_path)["hello"] == first.pid
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert (tmp_path / unix_socket.NAME).is_socket()
        unreachable(tmp_path)
    with process(tmp_path) as second:
        assert hello(tmp_path)["hello"] == second.pid
    assert not (tmp_path / unix_socket.NAME).exists()
    unreachable(tmp_path)


def test_a_second_process_does_not_take_the_door_of_the_first(tmp_path: Path) -> None:
    with process(tmp_path) as first:
        with pytest.raises(AssertionError, match="the server is running already"), process(tmp_path):
            pass
        assert hello(tmp_path)["hello"] == first.pid


# --- after an update


def test_a_token_that_an_older_version_left_is_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / control_client.OLD).write_text(json.dumps({"url": "http://127.0.0.1:1", "token": "t"}))
    with process(tmp_path):
        assert not (tmp_path / control_client.OLD).exists()


def test_a_process_of_an_older_version_is_named_as_such_and_gets_no_command(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as port:
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        (tmp_path / control_client.OLD).write_text(json.dumps({"url": url, "token": "t"}))
        with Lock(tmp_path, "the server"), pytest.raises(UserError, match="of another version of ynet") as caught:
            hello(tmp_path)
        assert caught.value.do == "stop it, and start it again: ynet-server start"
        unreachable(tmp_path)  # its process is gone
        port.settimeout(0.1)
        with pytest.raises(TimeoutError):
            port.accept()


# --- who may


def test_a_user_and_root_have_a_say_over_what_is_theirs_and_nobody_else() -> None:
    for owner in (0, 1000, NOBODY):
        assert {uid for uid in (0, 1, 999, 1000, 1001, NOBODY) if unix_socket.may_tell(uid, owner)} == {0, owner}


def test_the_system_says_whose_process_is_at_the_other_end(tmp_path: Path) -> None:
    with unix_socket.listen(tmp_path) as listening, unix_socket.connect(tmp_path, 1.0) as connection:
        accepted, _ = listening.accept()
        with accepted:
            assert unix_socket.peer(accepted) == unix_socket.peer(connection) == os.geteuid()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and write to: a test's own lies in root's."""
    folder = Path(f"/tmp/ynet-door-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@as_root
def test_another_user_does_not_get_at_the_socket(open_folder: Path) -> None:
    home = open_folder / "home"
    with process(home):
        done = run(CONNECT, home / unix_socket.NAME, user=NOBODY)
        assert done.stderr.strip() == "Permission denied"
        done = run(CALL, home, user=NOBODY)
        assert (done.returncode, done.stdout.splitlines()[0]) == (2, f"error: the home folder {home} cannot be entered")


@as_root
def test_another_user_is_not_listened_to_where_the_folder_was_opened_to_all(open_folder: Path) -> None:
    home = open_folder / "home"
    with process(home):
        home.chmod(0o777)
        (home / unix_socket.NAME).chmod(0o777)
        done = run(CONNECT, home / unix_socket.NAME, user=NOBODY)
        assert (done.returncode, done.stdout) == (0, "b''\n"), done.stderr
        assert run(CALL, home, user=NOBODY).returncode == 2
        assert hello(home)["said"] == ""


@as_root
def test_a_command_is_not_told_to_another_user_who_took_the_sockets_place(open_folder: Path) -> None:
    home = open_folder / "home"
    home.mkdir()
    home.chmod(0o777)
    of_all = SERVE.replace("prepare(pathlib.Path(sys.argv[1]))", "pathlib.Path(sys.argv[1])")
    with process(home, NOBODY, of_all):
        (home / unix_socket.NAME).chmod(0o777)
        with pytest.raises(RefusedError, match=f"a process of another user listens, of uid {NOBODY}"):
            hello(home)


@as_root
def test_root_may_command_a_users_process_and_the_user_too(open_folder: Path) -> None:
    home = open_folder / "home"
    with process(home, user=NOBODY) as running:
        assert hello(home)["hello"] == running.pid
        done = run(CALL, home, user=NOBODY)
        assert done.stdout == str({"hello": running.pid, "said": '"mine"'}) + "\n"


@as_root
def test_a_home_in_a_folder_of_another_users_is_three_lines_and_no_fault(tmp_path: Path) -> None:
    for program, command in (("ynet_server", "status"), ("ynet_client", "status"), ("ynet_client", "query")):
        image = ["/dev/null"] if command == "query" else []
        main = f"{program}.commands.cli.main()"
        done = run(main, command, *image, "--home", tmp_path / "home", user=NOBODY)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 3), done.stderr
        assert "cannot be entered" in done.stderr


# --- the port of the metrics


def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = control_server.quiet_config(Starlette(), "127.0.0.1", taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            asyncio.run(control_server.QuietServer(config).begin())
