"""Which other sites this one asks and answers: those whose lasting keys its admin has confirmed, and nobody else.

The server gives out the certificates, so it could give itself one in any site's name, or in that of a site that does
not exist. So each site is known by its lasting key's fingerprint, and nothing is asked of it, nor told to it, before
the admin has compared that with the other site's admin: `ynet-client sites trust NAME`, or `sites` in client.yaml.

In the home folder's `peers/` lie, each in a file of its own, what was seen of a site (`NAME.seen`, written by the
running client), which fingerprint the admin has confirmed (`NAME.trusted`) and that the admin has said no
(`NAME.distrusted`). Commands write the last two while the client runs; it heeds them with the next query.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol

from pydantic import TypeAdapter

from ynet.errors import UserError
from ynet.runtime.home import prepare, write_private
from ynet.trust import lasting_key
from ynet.trust.identity import check_site_name

FOLDER = "peers"
SEEN, TRUSTED, DISTRUSTED = "seen", "trusted", "distrusted"
MOST_SEEN = 1_024
"""Sites that are remembered: a server that invents ever new ones fills no disk."""

State = Literal["trusted", "new", "changed", "distrusted"]
UNCONFIRMED = "this site's admin has not confirmed it: compare fingerprints by telephone, see ynet-client sites"


class Sighting(NamedTuple):
    """What a site showed, and since when; seconds since 1970."""

    fingerprint: str
    since: float


class Peer(NamedTuple):
    """Another site, as the admin sees it."""

    site: str
    state: State
    fingerprint: str  # that it shows; empty when it was not seen yet
    trusted: str  # that the admin has confirmed; empty: none
    since: float  # since when it shows the fingerprint; 0 when it was not seen yet


class Confirmed(Protocol):
    """Says who may be asked and answered."""

    def is_trusted(self, site: str, fingerprint: str) -> bool:
        """Whether a site that shows this fingerprint is one that the admin has confirmed."""


class Everybody:
    """Of a site that keeps no list: an experiment, a measurement."""

    def is_trusted(self, site: str, fingerprint: str) -> bool:  # noqa: ARG002 (one form for all)
        """Always."""
        return True


Tell = Callable[[Peer], None]
_SIGHTING = TypeAdapter(Sighting)


class Peers:
    """The other sites, by what the home folder and the settings hold. Any thread may ask."""

    def __init__(
        self, home: Path, pinned: Mapping[str, str] = MappingProxyType({}), tell: Tell = lambda _: None
    ) -> None:
        """`pinned`: fingerprints by site, from the settings; for these sites no other counts.

        `tell` is given each site that shows another fingerprint than it did when it was last seen, or a first one.
        """
        self._folder, self._tell = home / FOLDER, tell
        self._pinned = {site: lasting_key.read(text) for site, text in pinned.items()}
        self._lock, self._seen = threading.Lock(), dict[str, str]()

    def is_trusted(self, site: str, fingerprint: str) -> bool:
        """Whether a site that shows this fingerprint is one that the admin has confirmed. What it shows is kept."""
        self._see(site, fingerprint)
        return self._state(site, fingerprint) == "trusted"

    def listed(self) -> list[Peer]:
        """Every site that was seen, confirmed or refused, by name."""
        files = (path.stem for path in self._folder.glob("*.*") if path.suffix[1:] in (SEEN, TRUSTED, DISTRUSTED))
        return [self._peer(site) for site in sorted({*files, *self._pinned})]

    def trust(self, site: str, fingerprint: str = "") -> Peer:
        """Confirm a site: by the fingerprint that its admin has read out, else by that which it shows now.

        Raises UserError where it was not seen yet, or shows another one.
        """
        check_site_name(site)
        shown, said = self._sighting(site).fingerprint, lasting_key.read(fingerprint) if fingerprint else ""
        if said and shown and said != shown:
            why = f"it shows {lasting_key.spoken(shown)}: somebody else may stand between, or it was read out wrongly"
            raise UserError(f"site {site} is not confirmed", why, "call its admin again, and then the coordinator")
        if (pinned := self._pinned.get(site)) and pinned != (said or shown):
            why = f"the settings name another fingerprint, {lasting_key.spoken(pinned)}"
            raise UserError(f"site {site} is not confirmed", why, f"edit `sites.{site}` in client.yaml, and join again")
        if not (said or shown):
            do = "join, then see `ynet-client sites`; or give --fingerprint as its admin reads it out"
            raise UserError(f"site {site} is not confirmed", "it was not seen yet", do)
        prepare(self._folder)
        write_private(self._file(site, TRUSTED), (said or shown).encode())
        self._file(site, DISTRUSTED).unlink(missing_ok=True)
        return self._peer(site)

    def distrust(self, site: str) -> Peer:
        """From now on a site is not asked and not answered, whatever it shows. Raises UserError."""
        check_site_name(site)
        prepare(self._folder)
        write_private(self._file(site, DISTRUSTED), b"")
        self._file(site, TRUSTED).unlink(missing_ok=True)
        return self._peer(site)

    def _peer(self, site: str) -> Peer:
        fingerprint, since = self._sighting(site)
        return Peer(site, self._state(site, fingerprint), fingerprint, self._word(site), since)

    def _state(self, site: str, fingerprint: str) -> State:
        if self._file(site, DISTRUSTED).exists():
            return "distrusted"
        word = self._word(site)
        if not word:
            return "new"
        return "trusted" if fingerprint in ("", word) else "changed"

    def _word(self, site: str) -> str:
        """The fingerprint that was confirmed; empty where none was. The settings' goes before."""
        if pinned := self._pinned.get(site):
            return pinned
        try:
            return self._file(site, TRUSTED).read_text("ascii", errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _sighting(self, site: str) -> Sighting:
        try:
            return _SIGHTING.validate_json(self._file(site, SEEN).read_bytes())
        except (FileNotFoundError, ValueError):
            return Sighting("", 0.0)

    def _see(self, site: str, fingerprint: str) -> None:
        check_site_name(site)
        with self._lock:
            if self._seen.get(site) == fingerprint:
                return
            prepare(self._folder)
            if site not in self._seen and len(list(self._folder.glob(f"*.{SEEN}"))) >= MOST_SEEN:
                return
            is_new = self._sighting(site).fingerprint != fingerprint
            if is_new:
                write_private(self._file(site, SEEN), json.dumps([fingerprint, round(time.time(), 3)]).encode())
            self._seen[site] = fingerprint
        self._tell(self._peer(site))

    def _file(self, site: str, kind: str) -> Path:
        return self._folder / f"{site}.{kind}"


def advice(peer: Peer, home: Path) -> list[str]:
    """What the terminal says of a site that was seen; nothing of one that was confirmed."""
    if peer.state in ("trusted", "distrusted"):
        return []
    shown = lasting_key.spoken(peer.fingerprint)
    if peer.state == "new":
        what = f"site {peer.site} is new to this site, and is not asked or answered yet; its fingerprint: {shown}"
    else:
        was = lasting_key.spoken(peer.trusted)
        what = f"site {peer.site} shows another key, and is not asked or answered any more: {shown} (confirmed: {was})"
    return [
        what,
        f"compare it with that site's admin by telephone, then say `ynet-client sites trust {peer.site} --home {home}`",
    ]
