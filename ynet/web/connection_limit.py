"""Limits on the connections of a port: when it is full, a new connection replaces an old anonymous one.

So silent connections cannot block the port. A connection that has identified itself (by a site's certificate or a
sign-in) is never closed for an anonymous one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ynet.runtime.address import neighbourhood


@dataclass(eq=False)
class LimitedConnection:
    """A connection under a limit."""

    address: str
    send_away: Callable[[], object]
    has_spoken: bool = False  # silent connections are closed first
    name: str | None = None  # once identified
    _network: str = field(default="", init=False)


class ConnectionLimit:
    """The connections of one port. Used in one event loop."""

    def __init__(self, most: int, most_of_one: int, most_of_known: int) -> None:
        """Set the limits.

        Args:
            most: Anonymous connections in all.
            most_of_one: Anonymous connections from one address (IPv6: from one /64).
            most_of_known: Identified connections of one name.
        """
        self._most, self._most_of_one, self._most_of_known = most, most_of_one, most_of_known
        self._strangers: dict[str, dict[LimitedConnection, None]] = {}  # by address, the oldest first
        self._known: dict[str, dict[LimitedConnection, None]] = {}  # by name, the oldest first
        self._count = 0

    def strangers(self) -> int:
        """Return the number of anonymous connections."""
        return self._count

    def total(self) -> int:
        """Return the number of connections."""
        return self._count + sum(map(len, self._known.values()))

    def enter(self, guest: LimitedConnection) -> None:
        """Add an anonymous connection; close another one where the port is full."""
        guest._network = neighbourhood(guest.address)
        if len(self._strangers.get(guest._network, ())) >= self._most_of_one:
            self._make_room(guest._network)
        elif self._count >= self._most:
            self._make_room(max(self._strangers, key=lambda network: len(self._strangers[network])))
        self._strangers.setdefault(guest._network, {})[guest] = None
        self._count += 1

    def know(self, guest: LimitedConnection, name: str) -> None:
        """Mark a connection as identified; close the oldest of the name where there are too many."""
        if guest.name is not None or guest not in self._strangers.get(guest._network, ()):
            return
        self.leave(guest)
        guest.name = name
        of_name = self._known.setdefault(name, {})
        if len(of_name) >= self._most_of_known:
            self._send_away(next(iter(of_name)))
        self._known.setdefault(name, {})[guest] = None

    def leave(self, guest: LimitedConnection) -> None:
        """Remove a connection that has ended."""
        groups, key = (self._strangers, guest._network) if guest.name is None else (self._known, guest.name)
        group = groups.get(key, {})
        if guest not in group:
            return
        del group[guest]
        self._count -= guest.name is None
        if not group:
            del groups[key]

    def _make_room(self, network: str) -> None:
        here = self._strangers[network]
        self._send_away(next((one for one in here if not one.has_spoken), next(iter(here))))

    def _send_away(self, guest: LimitedConnection) -> None:
        self.leave(guest)
        guest.send_away()
