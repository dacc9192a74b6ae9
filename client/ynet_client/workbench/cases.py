"""The site's own cases for the page: a list to search, and pictures of listed cases only."""

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from ynet.data import images
from ynet.data.manifest import UNDRAWN, Case, Manifest
from ynet.data.regions import drawn_on
from ynet.errors import UserError
from ynet_client.retrieval.overlay import outlined
from ynet_client.retrieval.picture import shown
from ynet_client.workbench.image_view import jpeg

if TYPE_CHECKING:
    from ynet_client.gallery.indexer import Archive

PAGE = 60
SIDES = (96, 192, 384, 768)
MAX_CACHED_BYTES = 32 << 20
MAX_TEXT = 200


class CaseFilter(NamedTuple):
    """The filter of the list of own cases."""

    text: str = ""  # in the file's name, the label or an attribute
    label: str = ""
    offset: int = 0


class OwnCases:
    """The current manifest, and a cache of thumbnails. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: tuple[object, Manifest | None, dict[str, Case]] = (None, None, {})
        self._thumbnails: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._bytes = 0

    def listed(self, archive: "Archive", wanted: CaseFilter) -> dict[str, Any]:
        """Return a page of the cases that fit, how many fit, and all labels; nothing about patients.

        Raises UserError, RefusedError before there is a model.
        """
        _, cases = self._manifest(archive)
        text = wanted.text.casefold()[:MAX_TEXT]
        fits = [
            case
            for case in cases.values()
            if (not wanted.label or case.label == wanted.label) and (not text or text in _words(case))
        ]
        part = fits[wanted.offset : wanted.offset + PAGE]
        return {
            "total": len(fits),
            "cases": [describe(case) for case in part],
            "labels": sorted({case.label for case in cases.values() if case.label}),
            "attributes": sorted({name for case in cases.values() for name in case.attributes}),
        }

    def find(self, archive: "Archive", image: str) -> tuple[Manifest, Case]:
        """Return the case of an image. Raises UserError when the site does not have it."""
        manifest, cases = self._manifest(archive)
        if image not in cases:
            raise UserError("the case was not found", "this site does not have this case", "choose another")
        return manifest, cases[image]

    def picture(self, archive: "Archive", image: str, side: int, *, is_outlined: bool) -> bytes:
        """Return a case as a JPEG of at most `side` pixels a side, with or without its outline. Raises UserError."""
        manifest, case = self.find(archive, image)
        if side not in SIDES:
            raise UserError("the picture cannot be made", f"{side} is no size", f"say one of {SIDES}")
        path = manifest.path_of(case.image)
        key = (image, side, is_outlined, path.stat().st_mtime_ns if path.exists() else 0)
        with self._lock:
            if key in self._thumbnails:
                self._thumbnails.move_to_end(key)
                return self._thumbnails[key]
        small = shown(images.decode(path, 3 if images.is_colour(path) else 1), side)
        mask = drawn_on(manifest, case, archive.active().plan.regions) if is_outlined else None
        if mask is not None:
            small = outlined(small, mask, 0.0, max(1.2, side / 200))
        made = jpeg(small)
        with self._lock:
            self._keep(key, made)
        return made

    def _keep(self, key: tuple[object, ...], made: bytes) -> None:
        self._bytes += len(made) - len(self._thumbnails.pop(key, b""))
        self._thumbnails[key] = made
        while self._bytes > MAX_CACHED_BYTES:
            self._bytes -= len(self._thumbnails.popitem(last=False)[1])

    def _manifest(self, archive: "Archive") -> tuple[Manifest, dict[str, Case]]:
        """Return the manifest; read it again when the file, the model or the number of cases has changed."""
        status = archive.manifest_file.stat() if archive.manifest_file else None
        size, changed = (status.st_size, status.st_mtime_ns) if status else (0, 0)
        state = (changed, size, archive.model_id, archive.gallery.stats()["cases"])
        with self._lock:
            known, manifest, cases = self._read
        if known != state or manifest is None:
            manifest = archive.manifest()
            cases = {case.image: case for case in manifest.cases}
            with self._lock:
                self._read = (state, manifest, cases)
        return manifest, cases


def describe(case: Case) -> dict[str, Any]:
    """Return what the page shows of an own case; not the patient."""
    return {
        "image": case.image,
        "label": case.label,
        "split": case.split,
        "has_mask": bool(case.mask) or any(cell not in ("", UNDRAWN) for cell in case.regions.values()),
        "attributes": dict(case.attributes),
    }


def _words(case: Case) -> str:
    return "\n".join((case.image, case.label, *case.attributes.values())).casefold()
