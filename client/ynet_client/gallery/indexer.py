"""The site's archive: encodes images under the model in use and keeps the gallery in step with the manifest."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ynet import plan as plans
from ynet import weights
from ynet.data import images
from ynet.data.manifest import Case, Manifest
from ynet.data.prepare import prepare, restore_mask
from ynet.data.regions import packed
from ynet.errors import RefusedError, UserError
from ynet.learning import hashing
from ynet.learning.model import build, layout_of_plan, load_arrays
from ynet.runtime import private_files
from ynet.runtime.home import write_private
from ynet_client.adoption.model_check import ActiveModel
from ynet_client.gallery.case_rows import GalleryCase
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.stored_codes import CaseCode
from ynet_client.training.site_data import LocalSite

ENCODE_BATCH = 64
TRIED = ".tried"
MOST_MODELS = 8
"""The number of model files that are kept: the newest, and the one in use."""
Progress = Callable[[str, int, int], None]
Admit = Callable[[ActiveModel | None, ActiveModel, bool], None]
"""Checks a new model. Arguments: the model in use, the new one, and whether one is in use even if its file is lost."""


class EncodedImage(NamedTuple):
    """A query image and what the network computes from it."""

    code: bytes
    mask: npt.NDArray[np.uint8]  # (height, width) of the image, 0 or 1; of several regions as `regions.packed` does
    pixels: npt.NDArray[np.float32]  # (channels, height, width), 0 to 1
    sha256: str
    regions: tuple[str, ...] = ()  # the plan's named regions


class Archive:
    """The gallery and the network that fills it."""

    def __init__(self, folder: Path, site: LocalSite, gallery: Gallery, admit: Admit = lambda *_: None) -> None:
        """`admit` raises RefusedError for a new model that must not be adopted."""
        private_files.make_folder(folder)
        self._folder, self._site, self.gallery, self._admit = folder, site, gallery, admit
        self._lock = threading.Lock()
        self._active: ActiveModel | None = None
        if gallery.active_model is not None:
            with contextlib.suppress(UserError):  # the hub announces it on connecting, and it is fetched again
                self._active = self._load(gallery.active_model, self.file_of(gallery.active_model))

    @property
    def model_id(self) -> str | None:
        """The id of the model in use."""
        return self._active.id if self._active else None

    def file_of(self, model_id: str) -> Path:
        """Return the path of a model's weights."""
        return self._folder / f"{model_id}.safetensors"

    @property
    def manifest_file(self) -> Path | None:
        """The path of the manifest; None if there is none."""
        return self._site.manifest_file

    def manifest(self) -> Manifest:
        """Read the manifest, split as the model's plan says. Raises UserError."""
        return self._site.manifest(self.active().plan.training.seed)

    def adopt(self, model_id: str, path: Path, progress: Progress) -> dict[str, int]:
        """Check a model, encode every case under it, then switch. The old model answers until then.

        Raises RefusedError when the model must not be adopted, and UserError.
        """
        with self._trying(model_id):
            model = self._load(model_id, path)
            rehearse(model, self._site.device)
        if model_id != self.gallery.active_model:  # else it is in use, and its file was lost
            self._admit(self._active, model, self.gallery.active_model is not None)
        counts = self._encode_missing(model, progress)
        with self._lock:
            self.gallery.activate(model_id)
            self._active = model
        self._delete_old_files()
        return counts

    def _delete_old_files(self) -> None:
        files = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in files[MOST_MODELS:]:
            if path.stem != self.model_id:
                path.unlink(missing_ok=True)

    def update(self, progress: Progress) -> dict[str, int]:
        """Encode new cases of the manifest and remove old ones. Raises RefusedError before there is a model."""
        return self._encode_missing(self.active(), progress)

    def active(self) -> ActiveModel:
        """Return the model in use. Raises RefusedError before there is one."""
        if self._active is None:
            raise RefusedError(
                "the site cannot search yet",
                "it has no model",
                "wait for the end of the first run, or accept a model that waits (ynet-client status)",
            )
        return self._active

    def encode(self, path: Path) -> EncodedImage:
        """Compute the code and the mask of an image. Raises UserError when the file is no image."""
        model = self.active()
        settings = model.plan.image
        pixels = images.decode(path, settings.channels)
        prepared = prepare(pixels, settings)
        output = model.net.read(torch.from_numpy(prepared.image)[None].to(self._site.device))
        masks = (output.mask_logits[0] > 0).to(torch.uint8).cpu().numpy()
        code = hashing.pack(output.code.float().cpu())[0].tobytes()
        full = np.stack([restore_mask(mask, prepared.region, *pixels.shape[1:]) for mask in masks])
        return EncodedImage(code, packed(full), pixels, images.digest(path), model.plan.regions.names)

    @contextlib.contextmanager
    def _trying(self, model_id: str) -> Iterator[None]:
        """Keep a mark beside a model while it is tried, to detect that a process died during an earlier attempt.

        Raises RefusedError when there is a mark.
        """
        mark = self.file_of(model_id).with_suffix(TRIED)
        if mark.exists():
            raise RefusedError(
                f"model {model_id[:16]} was not adopted",
                "this site's process ended during an earlier attempt, perhaps out of memory",
                f"check the machine's memory; then, to try it again, delete {mark}",
            )
        write_private(mark, b"")
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _load(self, model_id: str, path: Path) -> ActiveModel:
        """Load a model and check its id. Raises UserError and deletes the file, so that it is fetched again."""
        try:
            arrays, metadata = weights.load(path)
            plan = plans.from_canonical(metadata.get("plan", ""))
            if weights.model_id(arrays, plan.id) != model_id:
                why = "its weights and plan do not match its id"
                raise UserError("a model was refused", why, "it is fetched again")
            if any(name.startswith(weights.FORMER) for name in arrays):
                why = "an earlier ynet trained it: its network has a detail code, which this one no longer has"
                raise UserError("a model was refused", why, "ask the coordinator to train a new model")
            if {*weights.layout_of(arrays)} != {*layout_of_plan(plan)}:
                why = "its arrays do not match its plan's network"
                raise UserError("a model was refused", why, "tell the coordinator")
            net = build(plan)
            load_arrays(net, arrays)
        except UserError:
            path.unlink(missing_ok=True)
            raise
        return ActiveModel(model_id, plan, net.to(self._site.device).eval())

    def _encode_missing(self, model: ActiveModel, progress: Progress) -> dict[str, int]:
        manifest = self._site.manifest(model.plan.training.seed)
        self.gallery.sync_cases([_gallery_case(manifest, case) for case in manifest.cases])
        by_image = {case.image: case for case in manifest.cases}
        missing = [(case_id, by_image[image]) for case_id, image in self.gallery.missing(model.id)]
        for start in range(0, len(missing), ENCODE_BATCH):
            part = missing[start : start + ENCODE_BATCH]
            codes = self._codes(model, manifest, [case for _, case in part])
            made = [CaseCode(case_id, code) for (case_id, _), code in zip(part, codes, strict=True)]
            self.gallery.add_codes(model.id, made)
            progress("indexing", start + len(part), len(missing))
        return {"cases": len(manifest.cases), "encoded": len(missing)}

    def _codes(self, model: ActiveModel, manifest: Manifest, cases: Sequence[Case]) -> list[bytes]:
        """Compute the code of each case."""
        source = self._site.to_encode(manifest, cases, model.plan)
        batch = source.batch(torch.arange(len(cases)))
        output = model.net.read(batch.image.to(self._site.device))
        return [code.tobytes() for code in hashing.pack(output.code.float().cpu())]


def rehearse(model: ActiveModel, device: torch.device) -> None:
    """Encode a batch of empty images, so that a model that needs too much memory fails here."""
    image = model.plan.image
    model.net.read(torch.zeros(ENCODE_BATCH, image.channels, image.size, image.size, device=device))


def _gallery_case(manifest: Manifest, case: Case) -> GalleryCase:
    try:
        digest = images.digest(manifest.path_of(case.image))
    except OSError as error:
        what = f"row {case.row} of the manifest cannot be used"
        raise UserError(
            what, f"its image cannot be read: {error.strerror}", "check the file and its permissions"
        ) from None
    return GalleryCase(case.image, digest, case.label, case.patient, case.split, case.attributes)
