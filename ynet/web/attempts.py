"""Limits on failed sign-ins: per account and address, per address, and per account."""

from collections import OrderedDict, deque

from ynet.runtime.address import neighbourhood

WITHIN_S = 900.0
MOST_OF_PAIR, MOST_OF_ADDRESS, MOST_OF_ACCOUNT = 8, 40, 100
"""Failures within WITHIN_S before a wait. The last is high, so that a stranger cannot easily lock an account."""
MAX_KEPT = 8_192


class Attempts:
    """Recent failures in bounded memory; the oldest are dropped first."""

    def __init__(self) -> None:
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()

    def begin(self, account: str, address: str, now: float) -> float:
        """Count an attempt before the password is checked; return 0.0, or the seconds to wait.

        Counting first also limits parallel attempts. An attempt that must wait is not counted.
        """
        limits = _limits(account, address)
        wait_s = max(self._wait(key, most, now) for key, most in limits.items())
        if wait_s > 0:
            return wait_s
        for key, most in limits.items():
            times = self._failures.pop(key, None) or deque(maxlen=most)
            times.append(now)
            self._failures[key] = times
        while len(self._failures) > MAX_KEPT:
            self._failures.popitem(last=False)
        return 0.0

    def succeeded(self, account: str, address: str) -> None:
        """Take back the count of an attempt, and clear the failures of this account and address."""
        for key in _limits(account, address):
            times = self._failures.get(key)
            if times:
                times.pop()
        self._failures.pop((account, neighbourhood(address)), None)

    def _wait(self, key: tuple[str, str], most: int, now: float) -> float:
        times = self._failures.get(key)
        if times and times[-1] > now:  # the clock was set back: limit the wait to WITHIN_S
            times = self._failures[key] = deque((min(time, now) for time in times), maxlen=times.maxlen)
        return WITHIN_S - (now - times[0]) if times is not None and len(times) == most else 0.0


def _limits(account: str, address: str) -> dict[tuple[str, str], int]:
    place = neighbourhood(address)
    return {(account, place): MOST_OF_PAIR, ("", place): MOST_OF_ADDRESS, (account, ""): MOST_OF_ACCOUNT}
