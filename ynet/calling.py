"""How a command reaches the process that runs in a home folder, through its door on loopback."""

import json
from pathlib import Path
from typing import Any

from ynet.errors import EXIT_REFUSED, EXIT_UNREACHABLE, RefusedError, UnreachableError, UserError

FILE = "control.json"


def call(home: Path, method: str, path: str, what: str, start: str, timeout_s: float = 60.0, **request: Any) -> Any:
    """Call the process that runs in `home`; its JSON. Raises UserError, UnreachableError when none runs there."""
    import httpx  # a tenth of a second that help and completion need not wait

    gone = UnreachableError(
        f"{what} is not running", f"nothing answers for the home folder {home}", f"start it: {start}"
    )
    try:
        door = json.loads((home / FILE).read_bytes())
        headers = {"authorization": f"Bearer {door['token']}"}
        answer = httpx.request(
            method, door["url"] + path, headers=headers, timeout=timeout_s, trust_env=False, **request
        )
    except httpx.TimeoutException:
        raise UnreachableError(f"{what} did not answer", f"it took more than {timeout_s:g} s", "try again") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, httpx.TransportError, httpx.InvalidURL):
        raise gone from None
    if answer.status_code == 401:
        raise gone
    if answer.status_code == 409:
        raise _user_error(answer.json()["error"])
    if answer.is_error:
        raise RuntimeError(f"{what} answered {answer.status_code}; its log says why")
    return answer.json()


def _user_error(error: dict[str, Any]) -> UserError:
    kinds: dict[int, type[UserError]] = {EXIT_REFUSED: RefusedError, EXIT_UNREACHABLE: UnreachableError}
    return kinds.get(error["exit_code"], UserError)(error["what"], error["why"], error["do"])
