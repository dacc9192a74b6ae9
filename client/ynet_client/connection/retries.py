"""The wait before a site reconnects: seconds after a lost connection, minutes while another process holds its place."""

FIRST_S, LAST_S = 0.5, 15.0
ELSEWHERE_FIRST_S, ELSEWHERE_LAST_S = 60.0, 900.0
"""The wait while the site is connected from elsewhere, where a person must stop one of the two."""


class Retries:
    """Exponential backoff. A connection resets it."""

    def __init__(self) -> None:
        self.connected()

    def connected(self) -> None:
        """Reset the backoff: a connection was made."""
        self._next_s, self._elsewhere_s = FIRST_S, ELSEWHERE_FIRST_S

    def wait_s(self, *, is_elsewhere: bool) -> float:
        """Return the next wait, in seconds."""
        if is_elsewhere:
            wait_s, self._elsewhere_s = self._elsewhere_s, min(ELSEWHERE_LAST_S, 2 * self._elsewhere_s)
        else:
            wait_s, self._next_s = self._next_s, min(LAST_S, 2 * self._next_s)
        return wait_s
