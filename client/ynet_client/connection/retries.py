"""How long a site waits before it connects again: seconds after a broken line, minutes where another took its place."""

FIRST_S, LAST_S = 0.5, 15.0
ELSEWHERE_FIRST_S, ELSEWHERE_LAST_S = 60.0, 900.0
"""Where the site is connected from elsewhere: a person must stop one of the two."""


class Retries:
    """Each wait is twice the one before, up to the last; a connection begins anew."""

    def __init__(self) -> None:
        self.connected()

    def connected(self) -> None:
        """A connection was made."""
        self._next_s, self._elsewhere_s = FIRST_S, ELSEWHERE_FIRST_S

    def wait_s(self, *, is_elsewhere: bool) -> float:
        """How long to wait now."""
        if is_elsewhere:
            wait_s, self._elsewhere_s = self._elsewhere_s, min(ELSEWHERE_LAST_S, 2 * self._elsewhere_s)
        else:
            wait_s, self._next_s = self._next_s, min(LAST_S, 2 * self._next_s)
        return wait_s
