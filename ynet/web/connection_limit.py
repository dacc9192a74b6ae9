"""Who is let in at a port: few strangers at a time, and where it is full, who has waited longest makes room.

A stranger who says nothing keeps nobody out: the next who comes takes his place. Who has shown who he is (a site's
certificate, a sign-in) counts among the known, and is not sent away for any stranger's sake.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ynet.runtime.address import neighbourhood


@dataclass(eq=False)
class LimitedConnection:
    """One connection."""

    address: str
    send_away: Callable[[], object]
    has_spoken: bool = False  # who has not is sent away first
    name: str | None = None  # of who is known
    _place: str = field(default="", init=False)


class ConnectionLimit:
    """The connections of one port. Lives in one event loop."""

    def __init__(self, most: int, most_of_one: int, most_of_known: int) -> None:
        """`most` strangers in all, `most_of_one` from one address (of IPv6: its /64), `most_of_known` of one name."""
        self._most, self._most_of_one, self._most_of_known = most, most_of_one, most_of_known
        self._strangers: dict[str, dict[LimitedConnection, None]] = {}  # by address, the oldest first
        self._known: dict[str, dict[LimitedConnection, None]] = {}  # by name, likewise
        self._count = 0

    def strangers(self) -> int:
        """How many are in, of whom nobody knows who they are."""
        return self._count

    def total(self) -> int:
        """How many are in."""
        return self._count + sum(map(len, self._known.values()))

    def enter(self, guest: LimitedConnection) -> None:
        """Let a stranger in, in the place of another where there is none left."""
        guest._place = neighbourhood(guest.address)
        if len(self._strangers.get(guest._place, ())) >= self._most_of_one:
            self._make_room(guest._place)
        elif self._count >= self._most:
            self._make_room(max(self._strangers, key=lambda place: len(self._strangers[place])))
        self._strangers.setdefault(guest._place, {})[guest] = None
        self._count += 1

    def know(self, guest: LimitedConnection, name: str) -> None:
        """It is known now who that is. Of too many of one name the oldest goes."""
        if guest.name is not None or guest not in self._strangers.get(guest._place, ()):
            return
        self.leave(guest)
        guest.name = name
        of_name = self._known.setdefault(name, {})
        if len(of_name) >= self._most_of_known:
            self._send_away(next(iter(of_name)))
        self._known.setdefault(name, {})[guest] = None

    def leave(self, guest: LimitedConnection) -> None:
        """The connection has ended."""
        groups, key = (self._strangers, guest._place) if guest.name is None else (self._known, guest.name)
        group = groups.get(key, {})
        if guest not in group:
            return
        del group[guest]
        self._count -= guest.name is None
        if not group:
            del groups[key]

    def _make_room(self, place: str) -> None:
        here = self._strangers[place]
        self._send_away(next((one for one in here if not one.has_spoken), next(iter(here))))

    def _send_away(self, guest: LimitedConnection) -> None:
        self.leave(guest)
        guest.send_away()
