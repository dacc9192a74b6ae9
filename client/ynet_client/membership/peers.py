"""The other sites that this one asks and answers: those whose lasting keys its admin has confirmed.

The server issues the certificates, so it could issue itself one in the name of any site, real or invented. Therefore a
site is identified by the fingerprint of its lasting key. Nothing is sent to it before the admin has compared the
fingerprint with the other site's admin: `ynet-client sites trust NAME`, or `sites` in client.yaml.

The home folder's `peers/` holds up to three files per site: the fingerprint that it showed (`NAME.seen`, written by the
running client), the one that the admin confirmed (`NAME.trusted`), and that the admin refused the site
(`NAME.distrusted`). Commands write the last two while the client runs; they take effect with the next query.
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
"""The largest number of sites that are remembered, so that a hostile server cannot fill the disk."""

State = Literal["trusted", "new", "changed", "distrusted"]
UNCONFIRMED = "this site's admin has not confirmed it: compare fingerprints by telephone, see ynet-client sites"


class Sighting(NamedTuple):
    """The fingerprint that a site shows, and since when; seconds since 1970."""

    fingerprint: str
    since: float


class Peer(NamedTuple):
    """Another site, as `ynet-client sites` shows it."""

    site: str
    state: State
    fingerprint: str  # that it shows; empty before it was seen
    trusted: str  # that the admin has confirmed; empty if none
    since: float  # since when it shows the fingerprint; 0 before it was seen


class Confirmed(Protocol):
    """Decides which sites may be asked and answered."""

    def is_trusted(self, site: str, fingerprint: str) -> bool:
        """Return whether the admin has confirmed the site with this fingerprint."""


class Everybody:
    """Admits every site, for experiments and benchmarks."""

    def is_trusted(self, site: str, fingerprint: str) -> bool:  # noqa: ARG002 (as `Confirmed` has it)
        """Return True."""
        return True


Tell = Callable[[Peer], None]
_SIGHTING = TypeAdapter(Sighting)


class Peers:
    """The other sites, as the home folder and the settings know them. Any thread may call."""

    def __init__(
        self, home: Path, pinned: Mapping[str, str] = MappingProxyType({}), tell: Tell = lambda _: None
    ) -> None:
        """Open the peers of a home folder.

        Args:
            home: the site's folder.
            pinned: fingerprints by site, from the settings; they override what commands confirmed.
            tell: is called with each site that shows a new fingerprint.
        """
        self._folder, self._tell = home / FOLDER, tell
        self._pinned = {site: lasting_key.read(text) for site, text in pinned.items()}
        self._lock, self._seen = threading.Lock(), dict[str, str]()

    def is_trusted(self, site: str, fingerprint: str) -> bool:
        """Return whether the admin has confirmed the site with this fingerprint, and store what it shows."""
        self._see(site, fingerprint)
        return self._state(site, fingerprint) == "trusted"

    def listed(self) -> list[Peer]:
        """Return every site that was seen, confirmed or refused, sorted by name."""
        files = (path.stem for path in self._folder.glob("*.*") if path.suffix[1:] in (SEEN, TRUSTED, DISTRUSTED))
        return [self._peer(site) for site in sorted({*files, *self._pinned})]

    def trust(self, site: str, fingerprint: str = "") -> Peer:
        """Confirm a site by the fingerprint that its admin read out, or by the one that it shows now.

        Raises UserError when it was not seen yet, or shows another fingerprint.
        """
        check_site_name(site)
        shown, read_out = self._sighting(site).fingerprint, lasting_key.read(fingerprint) if fingerprint else ""
        if read_out and shown and read_out != shown:
            why = f"it shows {lasting_key.spoken(shown)}: another party may intercept, or it was read out wrongly"
            raise UserError(f"site {site} is not confirmed", why, "call its admin again, and then the coordinator")
        if (pinned := self._pinned.get(site)) and pinned != (read_out or shown):
            why = f"the settings name another fingerprint, {lasting_key.spoken(pinned)}"
            raise UserError(f"site {site} is not confirmed", why, f"edit `sites.{site}` in client.yaml, and join again")
        if not (read_out or shown):
            do = "join, then see `ynet-client sites`; or give --fingerprint as its admin reads it out"
            raise UserError(f"site {site} is not confirmed", "it was not seen yet", do)
        prepare(self._folder)
        write_private(self._file(site, TRUSTED), (read_out or shown).encode())
        self._file(site, DISTRUSTED).unlink(missing_ok=True)
        return self._peer(site)

    def distrust(self, site: str) -> Peer:
        """Refuse a site from now on, whatever fingerprint it shows. Raises UserError."""
        check_site_name(site)
        prepare(self._folder)
        write_private(self._file(site, DISTRUSTED), b"")
        self._file(site, TRUSTED).unlink(missing_ok=True)
        return self._peer(site)

    def _peer(self, site: str) -> Peer:
        fingerprint, since = self._sighting(site)
        return Peer(site, self._state(site, fingerprint), fingerprint, self._confirmed(site), since)

    def _state(self, site: str, fingerprint: str) -> State:
        if self._file(site, DISTRUSTED).exists():
            return "distrusted"
        confirmed = self._confirmed(site)
        if not confirmed:
            return "new"
        return "trusted" if fingerprint in ("", confirmed) else "changed"

    def _confirmed(self, site: str) -> str:
        """Return the confirmed fingerprint, that of the settings first; empty if there is none."""
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
    """Return the lines that the terminal shows for a site; none for one that the admin has decided on."""
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
        f"compare it with that site's admin by telephone, then run `ynet-client sites trust {peer.site} --home {home}`",
    ]
