"""Notifications to the service manager (systemd): readiness, status and watchdog."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
WITHIN_S = 1.0
STATUS_EVERY_S = 5.0


def tell(*lines: str) -> None:
    """Send lines such as `READY=1` (sd_notify(3)). Does nothing without a service manager."""
    address = os.environ.get(SOCKET, "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.settimeout(WITHIN_S)
        sender.sendto("\n".join(lines).encode(), "\0" + address[1:] if address.startswith("@") else address)


@contextlib.asynccontextmanager
async def told(status: Callable[[], str]) -> AsyncIterator[None]:
    """Report readiness on entry and stopping on exit; in between, report `status` whenever it changes.

    The event loop also sends the watchdog's keep-alive, at the interval that the service manager asks for.
    """
    tell("READY=1", _status(status()))
    telling = asyncio.create_task(_keep_telling(status))
    try:
        yield
    finally:
        telling.cancel()
        tell("STOPPING=1", _status("stopping"))


def watchdog_s() -> float | None:
    """Return the watchdog's interval in seconds; None where this process has no watchdog."""
    given, pid = os.environ.get(WATCHDOG, ""), os.environ.get(WATCHDOG_PID, "")
    return int(given) / 1e6 if given.isdigit() and pid in ("", str(os.getpid())) else None


async def _keep_telling(status: Callable[[], str]) -> None:
    if not os.environ.get(SOCKET):
        return
    alive_s, last = watchdog_s(), status()
    while True:
        await asyncio.sleep(min(STATUS_EVERY_S, alive_s / 3 if alive_s else STATUS_EVERY_S))
        now = status()
        lines = [*(["WATCHDOG=1"] if alive_s else []), *([_status(now)] if now != last else [])]
        last = now
        if lines:
            tell(*lines)


def _status(line: str) -> str:
    return "STATUS=" + " ".join(line.split())
