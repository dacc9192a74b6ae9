"""The real images outside the repository pass the check and can be prepared for the network."""

from pathlib import Path

import pytest
import torch

from ynet.data import manifest
from ynet.data.cases import CaseCache
from ynet.data.check import check
from ynet.plan_sections import Image

REAL = Path(__file__).parents[3].parent / "shared" / "data"
SITES = {
    "lgg_mri4": (("tcga_cs", "tcga_du", "tcga_fg", "tcga_ht"), ("frontal", "no_lesion", "temporal"), 1),
    "wbc4": (("cellavision", "tecom_a", "tecom_b"), ("eosinophil", "lymphocyte", "monocyte", "neutrophil"), 3),
}

pytestmark = pytest.mark.real_data


@pytest.mark.parametrize(("federation", "site"), [(name, site) for name, each in SITES.items() for site in each[0]])
def test_real_site_has_no_error_and_is_prepared(federation: str, site: str) -> None:
    path = REAL / federation / site / "manifest.csv"
    assert path.is_file(), f"no real images at {path}; put them there, or leave these tests out: -m 'not real_data'"
    _, classes, channels = SITES[federation]
    report = check(path, classes, channels)
    assert report.errors == ()
    cases = manifest.read(path)
    assert report.cases == len(cases.cases)
    cache = CaseCache(cases, cases.cases, Image(channels=channels, size=96), classes, 1 << 30)
    image, mask, *_ = cache.batch(torch.arange(len(cache)))
    assert image.isfinite().all()
    assert image.mean().abs() < 1e-2
    assert set(mask.unique().tolist()) == {0.0, 1.0}
