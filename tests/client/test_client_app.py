"""What a site keeps of its own between two rounds."""

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.federation.plan import Plan
from ynet.federation.records import ARRAYS, CONFIG, TRAIN, weights_record
from ynet.model import arrays_of, build
from ynet_client import app_call, client_app
from ynet_client.local_site import LocalSite

PLAN = parse(
    Plan,
    {
        "name": "moments",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"width": 4, "code_bits": 32},
        "training": {"rounds": 4, "learning_rate": 1e-3, "batch_size": 8},
        "cohort": {"minimum": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    },
    "the test's plan",
)


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    make_federation(tmp_path, {"A": 16}, seed=1, size=32)
    return LocalSite(tmp_path / "A/manifest.csv", "cpu", 1 << 24)


def trained(site: LocalSite, context: Context, number: int) -> np.ndarray:
    """What a round makes of the plan's initial weights."""
    flat = weights.flatten(arrays_of(build(PLAN)))
    config = ConfigRecord({"plan": PLAN.canonical(), "server-round": number})
    received = RecordDict({ARRAYS: weights_record(flat), CONFIG: config})
    reply = app_call.call(client_app.build(lambda _: site), context, TRAIN, received)
    return np.concatenate([reply.arrays[ARRAYS][key] for key in sorted(reply.arrays[ARRAYS])])


def test_a_round_goes_on_with_the_optimizers_moments_of_the_round_before_and_of_no_other(site: LocalSite) -> None:
    context = app_call.new_context()
    trained(site, context, 1)
    assert not np.array_equal(trained(site, context, 2), trained(site, app_call.new_context(), 2))
    assert np.array_equal(trained(site, context, 4), trained(site, app_call.new_context(), 4))


def test_moments_of_another_plan_are_not_gone_on_with(site: LocalSite) -> None:
    context = app_call.new_context()
    trained(site, context, 1)
    context.state.config_records[client_app.MOMENTS]["plan"] = "0" * 64
    assert np.array_equal(trained(site, context, 2), trained(site, app_call.new_context(), 2))


def test_moments_stay_at_the_site(site: LocalSite) -> None:
    context = app_call.new_context()
    flat = weights.flatten(arrays_of(build(PLAN)))
    config = ConfigRecord({"plan": PLAN.canonical(), "server-round": 1})
    received = RecordDict({ARRAYS: weights_record(flat), CONFIG: config})
    reply = app_call.call(client_app.build(lambda _: site), context, TRAIN, received)
    assert set(reply.arrays) == {ARRAYS}
    assert not reply.configs
    assert sum(array.size for array in reply.arrays[ARRAYS].values()) == flat.size
