"""A site's data and network, cached between messages: manifest, decoded cases, model."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ynet.data.batch import CaseSource
from ynet.data.cases import CaseCache
from ynet.data.frames import source
from ynet.data.gaps import gaps
from ynet.data.manifest import Case, Manifest, read
from ynet.errors import RefusedError
from ynet.learning.code_moments import GalleryEncoder
from ynet.learning.device import choose
from ynet.learning.dp_sgd import Patients
from ynet.learning.map_cache import MapCache
from ynet.learning.model import YNet, build
from ynet.learning.train import Progress
from ynet.plan import Plan
from ynet.weights import Arrays
from ynet_client.training.fixed_files import FixedFiles
from ynet_client.training.microbatches import MicroBatches
from ynet_client.training.privacy_budget import Budget
from ynet_client.training.secure_aggregation import Party
from ynet_client.training.took_part import TookPart

Report = Callable[[Progress], None]

log = logging.getLogger("ynet.site_data")


class _Prepared(NamedTuple):
    """A site's cases, prepared for one plan."""

    plan_id: str
    manifest: Manifest
    made_from: tuple[object, ...]
    """Everything that the prepared cases depend on; another plan with the same keeps them."""
    train: CaseSource
    test: CaseSource


class LocalSite:
    """One hospital's data and network. One thread at a time trains or evaluates; any thread may encode.

    `gallery` encodes the training cases for an evaluation.
    """

    def __init__(
        self,
        manifest: Path | None,
        device: str,
        cache_bytes: int,
        report: Report | None = None,
        *,
        is_validation: bool = False,
        budget: Budget | None = None,
        party: Callable[[], Party | None] = lambda: None,
        admits: Callable[[Plan], bool] = lambda _: True,
        forgotten: Callable[[Iterable[str]], set[str]] = lambda _: set(),
        micro_batches: MicroBatches | None = None,
        took_part: TookPart | None = None,
        tells_classes: bool = True,
        trains: bool = True,
        fixed_files: FixedFiles | None = None,
    ) -> None:
        """Describe the site; its data is read when a plan needs it.

        Args:
            manifest: the manifest's path; None for a site without cases.
            device: where the network runs.
            cache_bytes: memory for decoded cases, and for a frozen encoder's maps of them.
            report: is called with the progress of a training.
            is_validation: use some training patients in place of the test cases.
            budget: the privacy budget; without it the site trains no private plan.
            party: returns who the site is in secure sums; without it the site takes part in none.
            admits: says whether the site takes part in a plan; False while the decision is open.
            forgotten: returns which patients were forgotten.
            micro_batches: remembers how many micro-batches fit into memory.
            took_part: records in which runs the site took part.
            tells_classes: whether scores include the number of cases of each class.
            trains: False for a site that only asks; its cases may have any labels.
            fixed_files: the files of arrays that no round changes; without them each message must carry all arrays.
        """
        self._path, self._cache_bytes, self._is_validation = manifest, cache_bytes, is_validation
        self.device, self.report, self._budget, self._party = choose(device), report, budget, party
        self.admits, self._forgotten, self.micro_batches = admits, forgotten, micro_batches or MicroBatches()
        self.took_part, self.tells_classes = took_part or TookPart(), tells_classes
        self.trains, self._fixed_files = trains, fixed_files
        self._fixed: tuple[str, str, Arrays] | None = None  # of a plan and the run's own file
        self._lock = threading.Lock()
        self._prepared: _Prepared | None = None
        self._network: tuple[str, YNet] | None = None
        self.gallery = GalleryEncoder()

    @property
    def manifest_file(self) -> Path | None:
        """Where the manifest is, if there is one."""
        return self._path

    def manifest(self, seed: int = 1) -> Manifest:
        """The manifest as it is now, without the patients that were forgotten. Raises UserError."""
        if self._path is None:
            return Manifest(Path(), ())
        found = read(self._path, seed)
        found = found.without(self._forgotten(case.patient for case in found.cases))
        return found.for_validation() if self._is_validation else found

    def cases(self, plan: Plan) -> tuple[CaseSource, CaseSource]:
        """Training and test cases prepared for `plan`, decoded once. Raises UserError.

        They stay for the next plan if it prepares images in the same way, and the manifest and its files are the same.
        Where the plan trains only the heads, the sources keep the encoder's maps (`MapCache`).
        """
        prepared = self._prepare(plan)
        return prepared.train, prepared.test

    @property
    def budget(self) -> Budget:
        """The site's privacy budget. Raises RefusedError when it has none."""
        if self._budget is None:
            do = "give the node's config a `home`, which holds its privacy ledger"
            raise RefusedError("private training was refused", "the site has no privacy ledger", do)
        return self._budget

    @property
    def party(self) -> Party:
        """The site's identity in secure sums. Raises RefusedError when it has not enrolled."""
        party = self._party()
        if party is None:
            do = "give the node's config the `home` of a site that has joined"
            raise RefusedError("a secure sum was refused", "the site has no certificate of the consortium", do)
        return party

    def to_encode(self, manifest: Manifest, cases: Sequence[Case], plan: Plan) -> CaseCache:
        """Prepare cases for the plan's network, without a cache.

        Raises UserError for labels that the plan does not have. A site that only asks may have any labels.
        """
        classes = plan.classes if self.trains else sorted({case.label for case in cases})
        return CaseCache(manifest, cases, plan.image, classes, 0, plan.regions)

    def drop_cases(self) -> None:
        """Drop the cached cases: the next message reads the manifest again."""
        with self._lock:
            self._prepared, self.gallery = None, GalleryEncoder()

    def patients(self, plan: Plan) -> Patients:
        """Return the patients of the training cases. Raises UserError."""
        return Patients([case.patient for case in self._prepare(plan).manifest.train])

    def network(self, plan: Plan) -> YNet:
        """Return the plan's network on the site's device, with the weights that the last message left."""
        if self._network is None or self._network[0] != plan.id:
            self._network = (plan.id, build(plan).to(self.device))
        return self._network[1]

    def has_encoder(self, plan: Plan) -> bool:
        """Return whether the file of the plan's pretrained encoder is at the site."""
        return self._fixed_files is not None and self._fixed_files.has_encoder(plan)

    def fixed_arrays(self, plan: Plan, rest: str) -> Arrays:
        """Return the arrays of a plan that the site has in files. Raises UserError for a damaged file.

        `rest` is the SHA-256 of the run's own file; empty where it has none.
        """
        if self._fixed_files is None:
            return {}
        if self._fixed is None or self._fixed[:2] != (plan.id, rest):
            self._fixed = (plan.id, rest, self._fixed_files.arrays(plan, rest))
        return self._fixed[2]

    def generator(self, plan: Plan, round_number: int) -> torch.Generator:
        """Return the generator for the order of cases and their augmentation in a round without privacy.

        It depends on the plan and the round alone, so it is not secret.
        """
        return torch.Generator().manual_seed(plan.training.seed * 1_000_003 + round_number)

    def _prepare(self, plan: Plan) -> "_Prepared":
        with self._lock:
            if self._prepared is None or self._prepared.plan_id != plan.id:
                manifest, before = self.manifest(plan.training.seed), self._prepared
                made_from = _made_from(manifest, plan)
                if before is not None and before.made_from == made_from:
                    train, test = before.train, before.test
                else:
                    train, test = (self._cache(manifest, part, plan) for part in (manifest.train, manifest.test))
                self._prepared = _Prepared(plan.id, manifest, made_from, train, test)
                for gap in () if self._is_validation else gaps(manifest.cases, plan.classes):
                    log.warning("split under plan %s: %s; %s", plan.id[:16], gap.what, gap.do)
            return self._prepared

    def _cache(self, manifest: Manifest, cases: tuple[Case, ...], plan: Plan) -> CaseSource:
        half = self._cache_bytes // 2
        if not plan.is_encoder_frozen:
            return CaseCache(manifest, cases, plan.image, plan.classes, half, plan.regions)
        share = self._cache_bytes * len(cases) // max(1, len(manifest.train) + len(manifest.test))
        images = 0 if plan.augmentation.only_flips else share // 2  # maps replace images in all rounds, or in some
        decoded = CaseCache(manifest, cases, plan.image, plan.classes, images, plan.regions)
        return MapCache(decoded, share - images, is_mirrored=plan.augmentation.flip)


def _made_from(manifest: Manifest, plan: Plan) -> tuple[object, ...]:
    """Return what prepared cases depend on: the manifest, its files' sizes and times, and parts of the plan."""
    paths = sorted({path for case in manifest.cases for path in (case.image, case.mask) if path})
    files = tuple(_size_and_time(source(manifest.root / path).path) for path in paths)
    keeps_maps, augmentation = plan.is_encoder_frozen, plan.augmentation
    return manifest, files, plan.image, plan.classes, keeps_maps and (augmentation.flip, augmentation.only_flips)


def _size_and_time(path: Path) -> tuple[int, int] | None:
    """Return a file's size and the time of its last change; None where it cannot be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
