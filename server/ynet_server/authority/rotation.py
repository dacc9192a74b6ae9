"""The rotation from one authority to its successor: all sites pin the successor, then move, then the older one ends.

The older authority issues certificates until every connected site has reported that it pinned the successor. Only then
does the successor issue them, so that every site can verify a certificate that it is shown. The hub's own certificate
comes from the older authority until the end, since a site that was away may know no other.
"""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable, Collection
from typing import Literal, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ynet.errors import UserError
from ynet.federation import hub_pb2 as pb
from ynet.trust import identity, succession
from ynet.trust.identity import Signer
from ynet_server.audit import Write
from ynet_server.authority.authorities import Authorities
from ynet_server.authority.certificates import HubCertificate, days
from ynet_server.hub.hub import Hub
from ynet_server.registry import Registry

log = logging.getLogger("ynet.rotation")
LOOK_EVERY_S = 0.5

Stage = Literal["moved", "pinned", "told", "away"]
"""The stage of a site: its certificate is from the newest authority; it has pinned that; it is connected and has not
pinned it; or it is away with a certificate of the older one."""


class Follower(NamedTuple):
    """A site's stage in a rotation."""

    site: str
    stage: Stage
    version: str | None


class Rotation:
    """The rotation of a running server. Lives in the hub's event loop."""

    def __init__(
        self, authorities: Authorities, registry: Registry, hub: Hub, own: HubCertificate, audit: Write
    ) -> None:
        self._authorities, self._registry, self._hub, self._own, self._audit = authorities, registry, hub, own, audit
        self._moves = False
        if authorities.past:  # a server killed while ending one may not have done this
            registry.retire(self._is_in_force, dt.datetime.now(dt.UTC).timestamp())
        self.look()
        self._announce()

    def look(self) -> None:
        """Let the sites move once all connected sites have pinned the successor."""
        if self._moves or self._authorities.successor is None:
            return
        newest = identity.fingerprint(self._authorities.newest.certificate)
        pinned = self._hub.pinned().values()
        has_begun = any(self._is_of_newest(held) for held in self._registry.in_use().values())
        if has_begun or (pinned and all(newest in one for one in pinned)):
            self._moves = True
            log.info("every connected site has pinned the new authority: certificates are of it from now on")
            self._announce()

    def successor_for(self, pinned: Collection[bytes]) -> Signer | None:
        """The successor, when it must issue a site's next certificate."""
        successor = self._authorities.successor
        if successor is None or not self._moves or identity.fingerprint(successor.certificate) not in pinned:
            return None
        return successor

    def followers(self) -> list[Follower]:
        """The stage of each site that is not revoked."""
        newest, pinned = identity.fingerprint(self._authorities.newest.certificate), self._hub.pinned()
        versions = {site.name: site.version for site in self._registry.sites()}

        def stage(site: str, held: list[bytes | None]) -> Stage:
            if self._is_of_newest(held[:1]):  # the one that it uses
                return "moved"
            if site not in pinned:
                return "away"
            return "pinned" if newest in pinned[site] else "told"

        found = self._registry.in_use().items()
        return [Follower(site, stage(site, held), versions.get(site)) for site, held in found]

    def rotate(self, now: dt.datetime) -> None:
        """Make a successor. Raises UserError while there is one."""
        self._authorities.rotate(now)
        self._audit("authority-rotated", about=identity.fingerprint(self._authorities.newest.certificate).hex())
        self._changed(now)

    def retire(self, now: dt.datetime, *, force: bool) -> tuple[list[str], list[str]]:
        """End the older authority. Returns the sites that this shuts out, and those whose open invitations are void.

        Raises UserError where there is none, and when sites would be shut out, unless `force`.
        """
        if self._authorities.successor is not None and not force:
            behind = [one for one in self.followers() if one.stage != "moved"]
            if behind:
                why = "these sites have not moved yet: " + ", ".join(f"{one.site} ({one.stage})" for one in behind)
                do = (
                    "wait for them (ynet-server authority show), or shut them out: ynet-server authority retire --force"
                )
                raise UserError("the authority was not retired", why, do)
        ended = identity.fingerprint(self._authorities.certificate).hex()
        self._authorities.retire(now)
        self._audit("authority-retired", about=ended)
        return self._ended(now)

    def replace(self, now: dt.datetime) -> tuple[list[str], list[str]]:
        """Replace the authority at once. Returns the sites that must enrol again, and those with void invitations."""
        self._authorities.replace(now)
        self._audit("authority-replaced", about=identity.fingerprint(self._authorities.certificate).hex())
        return self._ended(now)

    def shown(self, now: dt.datetime) -> dict[str, object]:
        """What `ynet-server authority show` prints."""
        successor = self._authorities.successor
        return {
            **_shown("authority", self._authorities.certificate, now),
            **_shown("successor", successor.certificate if successor else None, now),
            "moves": self._moves,
            "sites": [one._asdict() for one in self.followers()],
            "past": [
                {"authority": identity.fingerprint(one.certificate).hex(), "until": one.until}
                for one in self._authorities.past
            ],
        }

    # --- within

    def _ended(self, now: dt.datetime) -> tuple[list[str], list[str]]:
        shut_out = self._registry.retire(self._is_in_force, now.timestamp())
        void = self._registry.void_invitations(now.timestamp())
        self._changed(now)
        log.warning("an authority was ended; these sites must enrol again: %s", ", ".join(shut_out) or "nobody")
        return shut_out, void

    def _changed(self, now: dt.datetime) -> None:
        self._moves = False
        self._own.renew(now)
        self._own.follow()
        self._announce()
        self.look()

    def _announce(self) -> None:
        message = pb.Authorities(moves=self._moves)
        message.in_force.extend(identity.fingerprint(one) for one in self._authorities.in_force)
        if self._authorities.successor is not None:
            message.successor.certificate = self._authorities.successor.certificate
            message.successor.signature = succession.sign(self._authorities, message.successor.certificate)
        self._hub.announce(message)

    def _is_in_force(self, certificate: bytes) -> bool:
        return identity.is_issued_by(certificate, self._authorities.trusted)

    def _is_of_newest(self, held: list[bytes | None]) -> bool:
        """Whether one of a site's certificates is of the newest authority."""
        newest = self._authorities.newest.certificate
        return any(one is not None and identity.is_issued_by(one, newest) for one in held)


async def watch(rotation: Rotation) -> None:
    """Call `look` at intervals, until cancelled."""
    while True:
        try:
            rotation.look()
        except Exception:
            log.exception("it could not be looked at how far the sites are with the new authority")
        await asyncio.sleep(LOOK_EVERY_S)


def routes(rotation: Rotation, clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> list[Route]:
    """The routes that the coordinator's commands call. Bodies and answers are JSON."""

    async def show(_: Request) -> Response:
        return JSONResponse(rotation.shown(clock()))

    async def rotate(request: Request) -> Response:
        shut_out, void = list[str](), list[str]()
        if (await request.json())["now"]:
            shut_out, void = rotation.replace(clock())
        else:
            rotation.rotate(clock())
        return JSONResponse({**rotation.shown(clock()), "shut_out": shut_out, "void": void})

    async def retire(request: Request) -> Response:
        shut_out, void = rotation.retire(clock(), force=bool((await request.json())["force"]))
        return JSONResponse({**rotation.shown(clock()), "shut_out": shut_out, "void": void})

    return [
        Route("/authority", show),
        Route("/authority/rotation", rotate, methods=["POST"]),
        Route("/authority/retirement", retire, methods=["POST"]),
    ]


def _shown(name: str, certificate: bytes | None, now: dt.datetime) -> dict[str, object]:
    if certificate is None:
        return {name: None, f"{name}_days": None}
    ends = identity.read_leaf(certificate).ends.timestamp()
    return {name: identity.fingerprint(certificate).hex(), f"{name}_days": days(ends, now.timestamp())}
