"""The client of the control socket: a command calls the process that runs in a home folder, by HTTP."""

from collections.abc import Mapping
from contextlib import suppress
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ynet.errors import EXIT_REFUSED, EXIT_UNREACHABLE, RefusedError, UnreachableError, UserError
from ynet.runtime import unix_socket
from ynet.runtime.home import is_held

if TYPE_CHECKING:
    from http.client import HTTPConnection

OLD = "control.json"
"""A file of older versions, which listened on a port of 127.0.0.1: the port and its token."""


def call(
    home: Path,
    method: str,
    path: str,
    what: str,
    start: str,
    timeout_s: float = 60.0,
    *,
    params: Mapping[str, Any] | None = None,
    json: Any = None,
    content: bytes | str = b"",
) -> Any:
    """Call the process that runs in `home`; return its JSON.

    Raises:
        UserError: The process reported it, or has another version.
        UnreachableError: No process runs there, or it did not answer in time.
        RefusedError: The process belongs to another user.
    """
    import http.client  # ssl and email: `--help` and completion do not wait for them

    body = content if json is None else dumps(json)
    target = f"{path}?{urlencode(params, doseq=True)}" if params else path
    connection = http.client.HTTPConnection("ynet", timeout=timeout_s)
    try:
        connection.sock = unix_socket.connect(home, timeout_s)
        status, said = _exchange(connection, method, target, body.encode() if isinstance(body, str) else body)
    except TimeoutError:
        raise UnreachableError(f"{what} did not answer", f"it took more than {timeout_s:g} s", "try again") from None
    except (OSError, http.client.HTTPException):
        raise _gone(home, what, start) from None
    finally:
        connection.close()
    if status == 404:
        raise _other_version(what, start, f"it does not know {path}")
    if status == 409:
        raise _user_error(loads(said)["error"])
    if status >= 400:
        raise RuntimeError(f"{what} answered {status}; its log says why")
    return loads(said)


def _exchange(connection: "HTTPConnection", method: str, target: str, body: bytes) -> tuple[int, bytes]:
    with suppress(BrokenPipeError, ConnectionResetError):  # it may answer early: the request is too large
        connection.request(method, target, body)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _gone(home: Path, what: str, start: str) -> UserError:
    if (home / OLD).exists() and is_held(home):
        return _other_version(what, start, "it listens on a port, as older versions do")
    why = f"nothing answers for the home folder {home}"
    return UnreachableError(f"{what} is not running", why, f"start it: {start}")


def _other_version(what: str, start: str, why: str) -> UserError:
    return UserError(f"{what} is of another version of ynet", why, f"stop it, and start it again: {start}")


def _user_error(error: dict[str, Any]) -> UserError:
    kinds: dict[int, type[UserError]] = {EXIT_REFUSED: RefusedError, EXIT_UNREACHABLE: UnreachableError}
    return kinds.get(error["exit_code"], UserError)(error["what"], error["why"], error["do"])
