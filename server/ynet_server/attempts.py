"""How often one address may be refused at enrolment before it must wait."""

import ipaddress
from collections import deque

from ynet.errors import RefusedError

MAX_FAILURES = 10
WITHIN_S = 600.0
"""After so many refusals in this time, an address is not listened to until the oldest of them is that old."""
MAX_ADDRESSES = 4_096


class Attempts:
    """The newest refusals by address, in bounded memory; the address that failed longest ago is forgotten first."""

    def __init__(self) -> None:
        self._failures: dict[str, deque[float]] = {}

    def check(self, address: str, now: float) -> None:
        """Whether an address may try. Raises RefusedError."""
        times = self._failures.get(_neighbourhood(address))
        if times is not None and len(times) == MAX_FAILURES and now - times[0] < WITHIN_S:
            wait_min = int((WITHIN_S - (now - times[0])) // 60) + 1
            why = f"{MAX_FAILURES} attempts from this address were refused"
            raise RefusedError("enrolment refused", why, f"try again in {wait_min} minutes")

    def failed(self, address: str, now: float) -> None:
        """An attempt was refused."""
        place = _neighbourhood(address)
        times = self._failures.pop(place, None) or deque(maxlen=MAX_FAILURES)
        times.append(now)
        self._failures[place] = times
        if len(self._failures) > MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]


def _neighbourhood(address: str) -> str:
    """An IPv4 address; of an IPv6 address the /64 that one customer has whole."""
    try:
        read = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((read, 64), strict=False)) if read.version == 6 else str(read)
