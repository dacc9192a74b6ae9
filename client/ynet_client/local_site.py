"""What a site keeps warm between two messages: its manifest, its decoded cases, its network."""

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from ynet.data.cases import CaseCache
from ynet.data.manifest import Case, Manifest, read
from ynet.device import choose
from ynet.federation.plan import Plan
from ynet.model import YNet, build
from ynet.train import Progress

Report = Callable[[Progress], None]


class LocalSite:
    """One hospital's data and network. One thread trains or evaluates at a time; any may encode."""

    def __init__(
        self,
        manifest: Path,
        device: str,
        cache_bytes: int,
        report: Report | None = None,
        *,
        is_validation: bool = False,
    ) -> None:
        """`is_validation`: the test cases are left out, and some training patients stand in for them."""
        self._path, self._cache_bytes, self._is_validation = manifest, cache_bytes, is_validation
        self.device, self.report = choose(device), report
        self._lock = threading.Lock()
        self._prepared: tuple[str, Manifest, CaseCache, CaseCache] | None = None
        self._network: tuple[str, YNet] | None = None

    def manifest(self, seed: int = 1) -> Manifest:
        """The manifest as it is now. Raises UserError."""
        found = read(self._path, seed)
        return found.for_validation() if self._is_validation else found

    def cases(self, plan: Plan) -> tuple[CaseCache, CaseCache]:
        """Training and test cases prepared for `plan`; decoded once for as long as the plan stays. Raises UserError."""
        with self._lock:
            if self._prepared is None or self._prepared[0] != plan.id:
                manifest = self.manifest(plan.training.seed)
                train, test = (self._cache(manifest, part, plan) for part in (manifest.train, manifest.test))
                self._prepared = (plan.id, manifest, train, test)
            return self._prepared[2], self._prepared[3]

    def network(self, plan: Plan) -> YNet:
        """The plan's network on the site's device; its weights are whatever the last message left."""
        if self._network is None or self._network[0] != plan.id:
            self._network = (plan.id, build(plan).to(self.device))
        return self._network[1]

    def generator(self, plan: Plan, round_number: int) -> torch.Generator:
        """The order of the cases and their augmentation in one round; not for privacy's noise."""
        return torch.Generator().manual_seed(plan.training.seed * 1_000_003 + round_number)

    def _cache(self, manifest: Manifest, cases: tuple[Case, ...], plan: Plan) -> CaseCache:
        return CaseCache(manifest, cases, plan.image, plan.classes, self._cache_bytes // 2)
