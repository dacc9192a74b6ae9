"""The code of a model: computed from the sums of real sites on a real hub, in the open and in secure sums."""

import asyncio
import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from loopback import Consortium, Joined, in_thread, play, runs, until

from ynet import plan as plans
from ynet import weights
from ynet.code_shapes import moments_size
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import RefusedError, UserError
from ynet.federation.records import ARRAYS, CONFIG, EVALUATE, FEATURES, INITIAL, TRAIN, flat_weights, weights_record
from ynet.fixed_arrays import CODE
from ynet.learning.code_moments import GalleryEncoder, fit
from ynet.learning.model import arrays_of, build, load_arrays
from ynet.network_size import code_sizes
from ynet.plan import Plan
from ynet.trust.identity import Identity
from ynet.weights import Flat
from ynet_client.training import app_call, client_app
from ynet_client.training.secure_aggregation import Party
from ynet_client.training.site_data import LocalSite
from ynet_server.rounds import server_app
from ynet_server.rounds.grid import HubGrid
from ynet_server.rounds.run_folder import MODEL, RunFolder

SITES = {"A": 12, "B": 20, "C": 16, "D": 12}
Spoil = Callable[[Flat], Flat]


def planned(aggregation: str = "plain", **training: Any) -> Plan:
    values = {
        "name": "moments",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": 32},
        "network": {"width": 4, "code_bits": 32, "code": "moments"},
        "training": {"rounds": 1, "learning_rate": 1e-3, "batch_size": 8, **training},
        "cohort": {"min_sites": 4, "quorum": 3, "min_quorum": 3},
        "privacy": {"mode": "off"},
        "aggregation": aggregation,
    }
    return plans.from_canonical(json.dumps(values))


def spoiling(spoil: Spoil) -> Any:
    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        reply = call(message, context)
        if message.metadata.message_type == FEATURES:
            changed = spoil(flat_weights(reply.content.array_records[ARRAYS]).copy())
            reply.content[ARRAYS] = weights_record(changed)
        return reply

    return mod


def hearing(heard: Callable[[str, Message], object]) -> Any:
    """Call `heard` with the kind of each message and its reply."""

    def mod(message: Message, context: Context, call: ClientAppCallable) -> Message:
        reply = call(message, context)
        heard(message.metadata.message_type, reply)
        return reply

    return mod


async def join(consortium: Consortium, tmp_path: Path, name: str, mods: list[Any]) -> None:
    member = consortium.enrol(name)
    party = Party(name, Identity(member.key, member.certificate), member.authority, None)
    site = LocalSite(tmp_path / name / "manifest.csv", "cpu", 1 << 24, party=lambda: party)
    joined = Joined(consortium, member, runs(client_app.build(lambda _: site, mods), SITES[name]))
    await until(lambda: joined.session.connected)


def trained(tmp_path: Path, plan: Plan, mods: dict[str, list[Any]] | None = None, run: str = "run") -> RunFolder:
    if not (tmp_path / "A").exists():
        make_federation(tmp_path, SITES, seed=1, size=32)
    folder = RunFolder(tmp_path / run).create(plan)

    async def story(consortium: Consortium) -> None:
        for name in SITES:
            await join(consortium, tmp_path, name, (mods or {}).get(name, []))
        grid = HubGrid(consortium.hub, asyncio.get_running_loop(), consortium.spool, 1)
        await in_thread(lambda: server_app.federate(grid, folder, grid.name_of))

    (tmp_path / f"hub-{run}").mkdir()
    play(tmp_path / f"hub-{run}", story, within_s=120)
    return folder


def unlabel(tmp_path: Path, name: str, every: int = 1) -> None:
    """Empty the label of each case of a site, or of one in `every`."""
    path = tmp_path / name / "manifest.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[::every]:
        row["label"] = ""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def events(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.events() if event["kind"] == kind]


def code_of(folder: RunFolder) -> dict[str, np.ndarray]:
    arrays, _ = weights.load(folder.path / MODEL)
    return {name: array for name, array in arrays.items() if name.startswith(CODE)}


def expected(tmp_path: Path, folder: RunFolder, names: str = "ABCD") -> dict[str, np.ndarray]:
    """The code that follows from the sites' cases when one place has them all."""
    plan, net = folder.plan(), build(folder.plan())
    arrays, _ = weights.load(folder.path / MODEL)
    load_arrays(net, arrays)
    sites = [LocalSite(tmp_path / name / "manifest.csv", "cpu", 1 << 24) for name in names]
    fit(net, plan, [GalleryEncoder().moments(net, site.cases(plan)[0], plan, site.device) for site in sites])
    return {name: array for name, array in arrays_of(net).items() if name.startswith(CODE)}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Compare what does not depend on the signs of eigenvectors: the products of the maps with their transposes."""
    assert found.keys() == wanted.keys()
    np.testing.assert_allclose(found[CODE + "mean"], wanted[CODE + "mean"], rtol=1e-3, atol=1e-4)
    for name in ("to_classes",):
        one, other = (code[CODE + name] @ code[CODE + name].T for code in (found, wanted))
        assert np.linalg.norm(one - other) < 0.05 * np.linalg.norm(other), name


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_code_is_that_of_the_pooled_cases(tmp_path: Path, aggregation: str) -> None:
    folder = trained(tmp_path, planned(aggregation))
    assert_same(code_of(folder), expected(tmp_path, folder))
    assert all(array.any() for array in code_of(folder).values())
    (told,) = events(folder, "code")
    assert set(told["sites"]) == set(SITES)
    assert folder.card()["scores"]["A"]["median_tie10"] is not None
    assert not list(folder.path.glob("moments-*"))


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_site_without_labels_takes_part_and_code_is_that_of_the_pooled_cases(tmp_path: Path, aggregation: str) -> None:
    make_federation(tmp_path, SITES, seed=1, size=32)
    unlabel(tmp_path, "D")
    unlabel(tmp_path, "B", every=3)
    folder = trained(tmp_path, planned(aggregation))
    assert_same(code_of(folder), expected(tmp_path, folder))
    (told,) = events(folder, "code")
    assert set(told["sites"]) == set(SITES)
    scores = folder.card()["scores"]
    assert scores["D"]["macro_map10"] is None
    assert scores["D"]["ranked"] == 0
    assert scores["D"]["median_tie10"] is not None
    assert scores["A"]["macro_map10"] is not None
    assert not events(folder, "update_refused")


def test_run_of_sites_without_any_label_ends_with_the_reason(tmp_path: Path) -> None:
    make_federation(tmp_path, SITES, seed=1, size=32)
    for name in SITES:
        unlabel(tmp_path, name)
    with pytest.raises(UserError, match="no site has a training case with a label"):
        trained(tmp_path, planned())


def test_moments_of_a_secure_plan_leave_masked(tmp_path: Path) -> None:
    plan, seen = planned("secure"), list[tuple[str, Message]]()
    trained(tmp_path, plan, {"A": [hearing(lambda kind, reply: seen.append((kind, reply)))]})
    (answer,) = [reply for kind, reply in seen if kind == FEATURES]
    assert not answer.content.array_records
    masked = [reply.content.array_records[ARRAYS] for kind, reply in seen if kind == "query.mask"]
    sizes = [flat_weights(record).size for record in masked]
    assert sizes[1] == 2 * moments_size(code_sizes(plan))


def larger(sent: Flat) -> Flat:
    """Moments of features that are 20 times as large."""
    features, classes = code_sizes(planned())
    totals, upper = classes * (1 + features), features * (features + 1) // 2
    made = sent.copy()
    made[classes:totals] *= 20
    made[totals : totals + upper] *= 400
    made[totals + upper + 2 :] *= 400
    return made


WRONG: dict[str, tuple[Spoil, str]] = {
    "far larger": (larger, "times as large"),
    "not finite": (lambda sent: sent * np.nan, "not of the form"),
    "too short": (lambda sent: sent[:-1], "not of the form"),
    "other counts": (lambda sent: np.concatenate([2 * sent[:3], sent[3:]]), "not of the form"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_moments_that_cannot_be_are_refused_and_the_others_make_the_code(tmp_path: Path, kind: str) -> None:
    spoil, why = WRONG[kind]
    folder = trained(tmp_path, planned(), {"D": [spoiling(spoil)]})
    (refused,) = events(folder, "update_refused")
    assert refused["site"] == "D"
    assert why in refused["reason"]
    assert set(events(folder, "code")[0]["sites"]) == {"A", "B", "C"}
    assert_same(code_of(folder), expected(tmp_path, folder, "ABC"))


@pytest.mark.parametrize("aggregation", ["plain", "secure"])
def test_code_of_a_killed_server_is_used_again(tmp_path: Path, aggregation: str) -> None:
    plan, seen, left = planned(aggregation), list[str](), tmp_path / "left"

    def kill(kind: str, _: Message) -> None:
        if kind == EVALUATE:
            shutil.copytree(tmp_path / "run", left)  # what a kill would leave

    whole = trained(tmp_path, plan, {"A": [hearing(kill)]})
    assert not (left / MODEL).exists()
    again = trained(tmp_path, plan, {"A": [hearing(lambda kind, _: seen.append(kind))]}, run="left")
    assert seen == [EVALUATE]
    for name, array in code_of(whole).items():
        assert np.array_equal(code_of(again)[name], array), name


def test_site_refuses_to_sum_its_features_for_a_plan_whose_code_is_trained(tmp_path: Path) -> None:
    make_federation(tmp_path, {"A": 4}, seed=1, size=32)
    site = LocalSite(tmp_path / "A" / "manifest.csv", "cpu", 1 << 24)
    plan = plans.from_canonical(planned().canonical().replace('"code":"moments",', ""))
    content = RecordDict({CONFIG: ConfigRecord({"plan": plan.canonical()})})
    with pytest.raises(RefusedError, match="not made from moments"):
        app_call.call(client_app.build(lambda _: site), app_call.new_context(), FEATURES, content)


@pytest.mark.parametrize("kind", [INITIAL, TRAIN, FEATURES, EVALUATE])
def test_site_that_tells_no_labels_takes_no_part_in_sums_by_class_in_the_open(tmp_path: Path, kind: str) -> None:
    make_federation(tmp_path, {"A": 4}, seed=1, size=32)
    site = LocalSite(tmp_path / "A" / "manifest.csv", "cpu", 1 << 24, tells_classes=False)
    content = RecordDict({CONFIG: ConfigRecord({"plan": planned().canonical()})})
    with pytest.raises(RefusedError, match="settings do not let out"):
        app_call.call(client_app.build(lambda _: site), app_call.new_context(), kind, content)
