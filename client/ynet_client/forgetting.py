"""The removal of a patient from every store of a site: gallery, workbench history and import records.

A removal is first written down, in a file without the patient's id, and then done store by store. A process that is
killed during it completes it at the next start.
"""

import asyncio
import datetime as dt
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict, TypeVar

from pydantic import TypeAdapter

from ynet.data import manifest
from ynet.errors import UserError
from ynet.runtime.home import write_private
from ynet_client.audit import Audit
from ynet_client.dicom import import_records

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

log = logging.getLogger("ynet.agent")
T = TypeVar("T")
FILE = "forgetting.json"


class Receipt(TypedDict):
    """The result of `ynet-client forget`. It does not cover image files, and models trained before."""

    pseudonym: str  # names the patient in the gallery's file and keeps them out
    at: str
    removed: int  # cases
    images: list[str]  # of those cases, as in the manifest
    cases: int  # left


class Intent(NamedTuple):
    """The removal of one patient, as it is written down."""

    pseudonyms: list[str]  # the gallery's, hexadecimal: one for each name that the patient is known by
    imported: list[str]  # pseudonyms that an import has given
    images: list[str]  # as in the manifest


_INTENTS = TypeAdapter(list[Intent])


class Search(Protocol):
    """Calls a function with the archive in the thread that searches it."""

    async def __call__(self, work: "Callable[[Archive], T]") -> T:
        """Return what `work` returns."""


class Forgetting:
    """Removes patients, one after the other."""

    def __init__(self, home: Path, audit: Audit, search: Search, drop_cases: Callable[[], Awaitable[None]]) -> None:
        """`drop_cases` lets training read the cases again, without those of forgotten patients."""
        self._home, self._audit, self._search, self._drop_cases = home, audit, search, drop_cases
        self._lock = asyncio.Lock()
        self.listeners: list[Callable[[list[str]], None]] = []
        """Other stores: each is called with the images of a forgotten patient and removes what it has of them."""

    async def forget(self, patient: str) -> Receipt:
        """Remove a patient from the gallery at once, and from training when the round under way has ended.

        `patient` is the id in the manifest, or that in the PACS which `ynet-client import` made the manifest from.
        A second call completes a removal that a kill interrupted. Raises UserError.
        """
        from ynet_client.dicom import deidentify  # loads pydicom, which is slow

        now = dt.datetime.now(dt.UTC)
        known_as = deidentify.known_as(self._home, patient)
        async with self._lock:
            here = await self._search(lambda archive: [archive.gallery.known(name) for name in known_as])
            listed = await self._search(lambda archive: _listed(archive.manifest_file, known_as))
            images = sorted({image for one in here for image in one.images})
            pseudonyms = [one.pseudonym for one in here]
            before = {image for one in begun(self._home) for image in one.images if _is_of(one, pseudonyms)}
            imported = [name for name in known_as if import_records.is_pseudonym(name)] if known_as[1:] else []
            begin(self._home, Intent(pseudonyms, imported, sorted({*images, *listed})))
            await self._complete(now)
        await self._drop_cases()
        left = await self._search(lambda archive: archive.gallery.stats())
        gone = sorted(before.union(images))
        return {
            "pseudonym": next((one.pseudonym for one in here if one.images), here[0].pseudonym),
            "at": now.isoformat(timespec="seconds"),
            "removed": len(gone),
            "images": gone,
            "cases": left["cases"],
        }

    async def resume(self) -> int:
        """Complete the removals that a kill or a full disk interrupted, and return how many there were.

        Call it once all listeners are there. Raises UserError; what is not complete stays written down.
        """
        async with self._lock:
            done = await self._complete(dt.datetime.now(dt.UTC))
        if done:
            await self._drop_cases()
        return done

    async def _complete(self, now: dt.datetime) -> int:
        """Do every removal that is written down. Each step may be repeated. Raises UserError."""
        intents = begun(self._home)
        for intent in intents:
            await self._search(lambda archive, of=intent: _forget(archive, of, now))  # type: ignore[misc]
            for forget in self.listeners:
                forget(intent.images)
            if intent.imported:
                import_records.Records(self._home).forget(intent.imported, intent.images)
            self._audit.did(now.timestamp(), "forgot")
            end(self._home, intent)
        return len(intents)


def begun(home: Path) -> list[Intent]:
    """Return the removals that are not complete. Raises UserError when the file cannot be read."""
    path = home / FILE
    if not path.exists():
        return []
    try:
        return _INTENTS.validate_json(path.read_bytes())
    except ValueError:
        do = f"delete {FILE} in the site's folder, then run ynet-client forget again for each patient"
        raise UserError("a removal of a patient cannot be completed", f"{path} cannot be read", do) from None


def begin(home: Path, intent: Intent) -> Intent:
    """Write a removal down, joined with an earlier one of the same patient. Raises UserError when the disk fails."""
    others = []
    for one in begun(home):
        if set(one.pseudonyms) & set(intent.pseudonyms):
            intent = Intent(*(_both(old, new) for old, new in zip(one, intent, strict=True)))
        else:
            others.append(one)
    _write(home, [*others, intent])
    return intent


def end(home: Path, intent: Intent) -> None:
    """Delete a removal that is complete. Raises UserError when the disk fails."""
    left = [one for one in begun(home) if one != intent]
    if left:
        _write(home, left)
    else:
        (home / FILE).unlink(missing_ok=True)


def _both(old: Sequence[str], new: Sequence[str]) -> list[str]:
    return sorted({*old, *new})


def _write(home: Path, intents: Sequence[Intent]) -> None:
    try:
        write_private(home / FILE, json.dumps(intents).encode())
    except OSError as error:
        do = "make sure that its disk has room and is writable, then repeat the command"
        raise UserError("the patient was not forgotten", f"{FILE}: {error.strerror}", do) from None


def _forget(archive: "Archive", intent: Intent, now: dt.datetime) -> None:
    for pseudonym in intent.pseudonyms:
        archive.gallery.forget_named(bytes.fromhex(pseudonym), now)


def _is_of(intent: Intent, pseudonyms: Sequence[str]) -> bool:
    return not set(intent.pseudonyms).isdisjoint(pseudonyms)


def _listed(path: Path | None, names: Collection[str]) -> list[str]:
    """Return a patient's images in the manifest: an import may have added some that are not indexed yet."""
    if path is None:
        return []
    try:
        return [case.image for case in manifest.read(path).cases if case.patient in names]
    except UserError:  # the gallery's cases are removed anyway
        return []
