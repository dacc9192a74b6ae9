"""The state that a site keeps between two rounds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import RefusedError
from ynet.federation import update_encoding
from ynet.federation.content import Content
from ynet.federation.records import (
    ARRAYS,
    CONFIG,
    EVALUATE,
    INITIAL,
    KEYS,
    MASK,
    METRICS,
    OPEN,
    TRAIN,
    flat_weights,
    weights_record,
)
from ynet.federation.update_encoding import Encoding
from ynet.learning.model import arrays_of, build
from ynet.plan import Plan
from ynet.scores import SHARES, coarse
from ynet_client.training import app_call, client_app, encoded_update, task_execution
from ynet_client.training.site_data import LocalSite

PLAN = parse(
    Plan,
    {
        "name": "moments",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"code": "trained", "width": 4, "code_bits": 32},
        "training": {"rounds": 4, "learning_rate": 1e-3, "batch_size": 8},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    },
    "the test's plan",
)


@pytest.fixture
def site(tmp_path: Path) -> LocalSite:
    make_federation(tmp_path, {"A": 16}, seed=1, size=32)
    return LocalSite(tmp_path / "A/manifest.csv", "cpu", 1 << 24)


def trained(site: LocalSite, context: Context, number: int, plan: Plan = PLAN) -> np.ndarray:
    """Train a round from the plan's initial weights."""
    flat = weights.flatten(arrays_of(build(plan)))
    config = ConfigRecord({"plan": plan.canonical(), "server-round": number})
    received = RecordDict({ARRAYS: weights_record(flat), CONFIG: config})
    reply = app_call.call(client_app.build(lambda _: site), context, TRAIN, received)
    return np.concatenate([reply.arrays[ARRAYS][key] for key in sorted(reply.arrays[ARRAYS])])


def test_round_uses_moments_of_the_previous_round_only(site: LocalSite) -> None:
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


def test_the_beginning_of_a_run_is_never_what_a_round_has_made(site: LocalSite) -> None:
    """After a round whose update was masked, noised or not sent, the trained weights would reveal that update."""
    context, app = app_call.new_context(), client_app.build(lambda _: site)
    asked = RecordDict({CONFIG: ConfigRecord({"plan": PLAN.canonical()})})
    before = app_call.call(app, context, INITIAL, asked).arrays[ARRAYS]
    trained(site, context, 1)
    after = app_call.call(app, context, INITIAL, asked).arrays[ARRAYS]
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_pull_towards_the_weights_that_the_plan_has_not_is_refused(site: LocalSite) -> None:
    flat = weights.flatten(arrays_of(build(PLAN)))
    config = ConfigRecord({"plan": PLAN.canonical(), "server-round": 1, "proximal-mu": 1000.0})
    with pytest.raises(RefusedError, match="does not fit the plan"):
        app_call.call(
            client_app.build(lambda _: site),
            app_call.new_context(),
            TRAIN,
            RecordDict({ARRAYS: weights_record(flat), CONFIG: config}),
        )


def evaluated(site: LocalSite) -> dict[str, float]:
    """Ask a site for the scores of the plan's initial weights."""
    flat = weights.flatten(arrays_of(build(PLAN)))
    config = ConfigRecord({"plan": PLAN.canonical(), "server-round": 1})
    received = RecordDict({ARRAYS: weights_record(flat), CONFIG: config})
    return dict(
        app_call.call(client_app.build(lambda _: site), app_call.new_context(), EVALUATE, received).metrics[METRICS]
    )


def test_site_of_one_class_without_masks_sends_counts_and_no_score(site: LocalSite) -> None:
    whole = evaluated(site)
    assert whole.keys() > {"macro_map10", "dice", "masks", "queries.0"}
    rows = [row.split(",") for row in site.manifest_file.read_text("utf-8").splitlines()]
    mask, label = rows[0].index("mask"), rows[0].index("label")
    for row in rows[1:]:
        row[mask], row[label] = "", CLASSES[0]
    site.manifest_file.write_text("\n".join(map(",".join, rows)), "utf-8")
    site.drop_cases()
    found = evaluated(site)
    assert set(SHARES) & found.keys() == {"empty_kept", "case_hit1", "case_hit10", "distinct_share"}
    assert (found["ranked"], found["masks"]) == (0, 0)
    assert [found[f"queries.{place}"] for place in range(len(CLASSES))] == [
        coarse(int(found["queries"])),
        *[0] * (len(CLASSES) - 1),
    ]


def test_site_that_tells_no_labels_tells_no_counts_by_class(site: LocalSite) -> None:
    silent = evaluated(LocalSite(site.manifest_file, "cpu", 1 << 24, tells_classes=False))
    assert "masks" in silent
    assert not any("." in name for name in silent)


def test_settings_say_whether_counts_by_class_are_told(site: LocalSite, tmp_path: Path) -> None:
    for tells in (True, False):
        home = tmp_path / f"home-{tells}"
        home.mkdir()
        (home / "client.yaml").write_text(f"disclosure: {{labels: {str(tells).lower()}}}\n", "utf-8")
        assert client_app.node_at(str(site.manifest_file), "cpu", 1, str(home), None).tells_classes == tells


@pytest.mark.parametrize("kind", [KEYS, MASK, OPEN])
def test_a_plan_that_is_declined_in_the_middle_of_a_round_gets_no_update(tmp_path: Path, kind: str) -> None:
    make_federation(tmp_path, {"A": 16}, seed=1, size=32)
    declined = LocalSite(tmp_path / "A/manifest.csv", "cpu", 1 << 24, admits=lambda _: False)
    asked = RecordDict({CONFIG: ConfigRecord({"plan": PLAN.canonical(), "server-round": 1})})
    with pytest.raises(RefusedError, match="has not accepted"):
        app_call.call(client_app.build(lambda _: declined), app_call.new_context(), kind, asked)


@pytest.mark.parametrize("encoding", ["float16", "int8"])
def test_encoding_error_is_added_to_the_next_update(site: LocalSite, encoding: Encoding) -> None:
    plan = replace(PLAN, training=replace(PLAN.training, update_encoding=encoding))
    arrays = arrays_of(build(plan))
    begun, layout = weights.flatten(arrays), weights.layout_of(arrays)
    context, same = app_call.new_context(), app_call.new_context()
    sent, wanted = np.zeros_like(begun), np.zeros_like(begun)
    for number in (1, 2, 3):
        wanted += trained(site, same, number) - begun
        encoded = trained(site, context, number, plan)
        assert encoded.size < 0.7 * begun.size
        sent += update_encoding.decode(encoded, layout, encoding)
        assert set(context.state.config_records) >= {encoded_update.LEFT_OUT}
    left_out = flat_weights(context.state.array_records[encoded_update.VALUES])
    assert left_out.any()
    np.testing.assert_allclose(sent + left_out, wanted, atol=1e-6)
    again = trained(site, context, 3, plan)  # the round is held again: what it left out was never taken
    np.testing.assert_array_equal(again, trained(site, app_call.new_context(), 3, plan))


def test_terminal_of_a_site_names_what_its_scores_rest_on() -> None:
    told = {"num-examples": 3.0, "queries": 3.0, "ranked": 0.0, "masks": 5.0, "dice": 0.25}
    line = task_execution.in_words(Content(metrics={METRICS: told}))
    assert line == (
        "macro_map10 none of 0, case_hit10 none, median_tie10 none of 3, dice 0.250 of <= 5, "
        "balanced_accuracy none of 0"
    )
    assert task_execution.in_words(Content(metrics={METRICS: {"num-examples": 3.0, "loss": 1.5}})) == "loss 1.500"
