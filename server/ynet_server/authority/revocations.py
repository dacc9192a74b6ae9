"""Revocations: in memory at once, then on disk; while the disk is full, writing is repeated."""

import logging
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from ynet.errors import UserError
from ynet.federation import protocol
from ynet.runtime.reserve import Reserve
from ynet_server.audit import Write
from ynet_server.hub.hub import Hub
from ynet_server.registry import Registry

log = logging.getLogger("ynet.revocations")
WHY = "the site was revoked"


class Revoked(NamedTuple):
    """The result of a revocation."""

    at: float  # seconds since 1970
    was_connected: bool
    is_written: bool  # else the server loses it at its next start


class Revocations:
    """Revokes sites; the only place that does."""

    def __init__(self, registry: Registry, hub: Hub, audit: Write, reserve: Reserve) -> None:
        self._registry, self._hub, self._audit, self._reserve = registry, hub, audit, reserve
        self._unaudited = set[str]()

    def revoke(self, site: str, now: float) -> Revoked:
        """Revoke a site. Raises UserError for an unknown site."""
        self._registry.shut_out(site, now)
        was_connected = site in self._hub.connected()
        self._hub.dismiss(site, WHY)
        log.warning("site %s was revoked", protocol.plain(site, 40))
        self._unaudited.add(site)
        at = self._write(site, now)
        return Revoked(at or now, was_connected, at is not None and not self._unaudited)

    def settle(self, say: Callable[[str], None]) -> None:
        """Write the revocations that could not be written before; call this at intervals."""
        for site in {*self._registry.shut_out_unwritten(), *self._unaudited}:
            when = self._registry.shut_out_unwritten().get(site, 0.0)
            if self._write(site, when) is not None and site not in self._unaudited:
                say(f"the revocation of site {site} is written down now")

    def _write(self, site: str, now: float) -> float | None:
        """The time of a revocation, once the registry has stored it."""
        at = self._registered(site, now)
        if at is None and self._reserve.give_up():
            at = self._registered(site, now)
        if at is not None and site in self._unaudited:
            try:
                self._audit("revoked", site)
                self._unaudited.discard(site)
            except UserError as error:
                log.error("the audit log does not have the revocation of site %s: %s", site, error.why)
        return at

    def _registered(self, site: str, now: float) -> float | None:
        try:
            return self._registry.revoke(site, now)
        except sqlite3.Error as error:
            log.error("the revocation of site %s could not be written down: %s", site, error)
            return None
