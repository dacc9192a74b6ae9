"""How often one address may be refused at enrolment before it must wait."""

from collections import deque

from ynet.errors import RefusedError
from ynet.runtime.address import neighbourhood

MAX_FAILURES = 10
WITHIN_S = 600.0
"""After MAX_FAILURES refusals within this time, an address must wait until the oldest of them is that old."""
MAX_ADDRESSES = 4_096


class EnrolmentAttempts:
    """The newest refusals by address, in bounded memory; the address that failed longest ago is forgotten first."""

    def __init__(self) -> None:
        self._failures: dict[str, deque[float]] = {}

    def check(self, address: str, now: float) -> None:
        """Check that an address may try. Raises RefusedError."""
        times = self._failures.get(neighbourhood(address))
        if times is not None and len(times) == MAX_FAILURES and now - times[0] < WITHIN_S:
            wait_min = int((WITHIN_S - (now - times[0])) // 60) + 1
            why = f"{MAX_FAILURES} attempts from this address were refused"
            raise RefusedError("enrolment refused", why, f"try again in {wait_min} minutes")

    def failed(self, address: str, now: float) -> None:
        """Count a refused attempt."""
        place = neighbourhood(address)
        times = self._failures.pop(place, None) or deque(maxlen=MAX_FAILURES)
        times.append(now)
        self._failures[place] = times
        if len(self._failures) > MAX_ADDRESSES:
            del self._failures[next(iter(self._failures))]
