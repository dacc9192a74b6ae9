"""Check early that the addresses in the settings can be listened on."""

import socket
from collections.abc import Sequence
from typing import NamedTuple

from ynet.errors import UserError
from ynet.runtime import address


class ListenAddress(NamedTuple):
    """An address that a process will listen on."""

    key: str  # of the setting with the port
    host: str
    port: int  # 0: any free one


def check(places: Sequence[ListenAddress]) -> None:
    """Check that no two addresses are equal and that each host is an address of this machine.

    Does not check which ports are free: that shows when the process listens.

    Raises:
        UserError: Two addresses are equal, or a host is not this machine's.
    """
    taken: dict[int, ListenAddress] = {}
    for place in places:
        if place.port and (other := taken.setdefault(place.port, place)) is not place and _meet(place.host, other.host):
            why = f"{other.key} is {place.port} too"
            raise UserError(
                f"the setting {place.key} cannot be used", why, f"set another {place.key}; 0 is any free one"
            )
        if why := _unfit(place.host):
            key = f"{place.key.rpartition('.')[0]}.host"
            do = f"set {key} to an address of this machine: 127.0.0.1, or 0.0.0.0 for all of them"
            raise UserError(f"the setting {key} is {place.host!r}", why, do)


def _meet(one: str, other: str) -> bool:
    return one == other or not {one, other}.isdisjoint({"0.0.0.0", "::", ""})  # noqa: S104 (compared, not listened on)


def _unfit(host: str) -> str:
    """Return why a host cannot be listened on; empty where it can."""
    try:
        family, where = address.place(host, 0)
        with socket.socket(family, socket.SOCK_STREAM) as tried:
            tried.bind(where)
    except OSError as error:
        return "the name is unknown here" if isinstance(error, socket.gaierror) else error.strerror or "bind failed"
    return ""
