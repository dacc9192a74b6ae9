"""A message may leave out what its plan does not train, and nothing else; the site has the rest in files."""

import hashlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import RefusedError
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, CONFIG, FIXED, TRAIN, flat_weights, to_records, weights_record
from ynet.fixed_arrays import fixed_arrays
from ynet.learning.model import arrays_of, build
from ynet.plan import Plan
from ynet.weights import Flat, Layout
from ynet_client.training import app_call, client_app, fixed_files
from ynet_client.training.fixed_files import FixedFile, FixedFiles
from ynet_client.training.site_data import LocalSite

PLAN = parse(
    Plan,
    {
        "name": "left-out",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"width": 4, "code_bits": 32},
        "training": {"rounds": 4, "learning_rate": 1e-3, "batch_size": 8, "trained": "heads"},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    },
    "the test's plan",
)
WHOLE = {name: array + np.float32(0.5) for name, array in arrays_of(build(PLAN)).items()}
LAYOUT = weights.layout_of(WHOLE)
HELD = fixed_arrays(PLAN, list(WHOLE))


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    make_federation(tmp_path, {"A": 16}, seed=1, size=32)
    return LocalSite(tmp_path / "A/manifest.csv", "cpu", 1 << 24, fixed_files=FixedFiles(tmp_path / "home"))


def kept(home: Path, arrays: dict[str, Flat]) -> str:
    """Put a run's own file into a site's home. Returns its SHA-256."""
    home.mkdir(exist_ok=True)
    weights.save(home / "made", arrays, {})
    file = FixedFile(
        "fixed arrays", fixed_files.RESTS_FOLDER, hashlib.sha256((home / "made").read_bytes()).hexdigest(), 0
    )
    files = FixedFiles(home)
    (home / "made").replace(files.partial(file))
    files.store(file)
    return file.sha256


def trained(site: LocalSite, left_out: Collection[str], fixed: str = "", layout: Layout | None = None) -> Content:
    named = weights.layout_without(LAYOUT, left_out) if layout is None else layout
    config = {"plan": PLAN.canonical(), "server-round": 1, "layout": weights.layout_to_json(named)}
    flat = weights.without(weights.flatten(WHOLE), LAYOUT, left_out)
    received = RecordDict(
        {ARRAYS: weights_record(flat), CONFIG: ConfigRecord({**config, **({FIXED: fixed} if fixed else {})})}
    )
    return app_call.call(client_app.build(lambda _: site), app_call.new_context(), TRAIN, received)


def update(reply: Content) -> Flat:
    return flat_weights(to_records(reply).array_records[ARRAYS])


def test_update_of_heads_is_that_of_a_whole_message(site: LocalSite, tmp_path: Path) -> None:
    fixed = kept(tmp_path / "home", {name: WHOLE[name] for name in HELD})
    whole = update(trained(site, ()))
    carried = update(trained(site, HELD, fixed))
    assert carried.size < whole.size
    np.testing.assert_array_equal(carried, weights.without(whole, LAYOUT, HELD))


def test_message_without_a_trained_array_is_refused(site: LocalSite, tmp_path: Path) -> None:
    fixed = kept(tmp_path / "home", WHOLE)
    with pytest.raises(RefusedError, match="which is trained"):
        trained(site, {*HELD, "segmentation.logit.weight"}, fixed)


def test_message_that_leaves_out_what_the_site_does_not_have_is_refused(site: LocalSite) -> None:
    with pytest.raises(RefusedError, match="which this site does not have"):
        trained(site, HELD)


def test_layout_of_another_network_is_refused(site: LocalSite, tmp_path: Path) -> None:
    fixed = kept(tmp_path / "home", WHOLE)
    with pytest.raises(RefusedError, match="its layout is not of the plan's network"):
        trained(site, HELD, fixed, weights.layout_without(LAYOUT, HELD)[::-1])
