"""A site adopts without asking only a model of an accepted plan whose run it was in to the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict
from PIL import Image

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.synthetic import CLASSES
from ynet.errors import RefusedError
from ynet.federation.records import ARRAYS, CONFIG, EVALUATE, TRAIN, weights_record
from ynet.learning.model import arrays_of, build
from ynet.plan import Plan
from ynet_client.adoption.admission import Admission
from ynet_client.adoption.offered import OfferedModels, WaitsError
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.indexer import Archive
from ynet_client.settings import Policy
from ynet_client.training import app_call, client_app
from ynet_client.training.consent import Consent
from ynet_client.training.site_data import LocalSite
from ynet_client.training.took_part import TookPart


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, random, rows = (
        tmp_path_factory.mktemp("admission"),
        np.random.default_rng(1),
        ["image,mask,label,patient,split"],
    )
    for number in range(12):
        pixels = random.integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f"{number}.png,,{CLASSES[number % 3]},p{number},{'test' if number < 6 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows), "utf-8")
    return folder / "manifest.csv"


class Hospital:
    """A site's home, its ClientApp and its archive, as `ynet-client join` puts them together."""

    def __init__(self, home: Path, data: Path, policy: Policy) -> None:
        home.mkdir(exist_ok=True)
        self.home, self.consent, self.offers = home, Consent(home, policy), OfferedModels(home)
        site = LocalSite(data, "cpu", 0, admits=self.consent.admits, took_part=TookPart(home))
        self._app, self._context = client_app.build(lambda _: site), app_call.new_context()
        admission = Admission(site, self.consent, self.offers, 1.0)
        self.archive = Archive(home / "models", site, Gallery.open(home / "gallery.sqlite", b"here"), admission.check)

    def message(self, kind: str, plan: Plan, number: int, seed: int = 1, **more: bool) -> None:
        flat = weights.flatten(arrays_of(net_of(plan, seed)))
        config = ConfigRecord({"plan": plan.canonical(), "server-round": number, **more})
        app_call.call(self._app, self._context, kind, RecordDict({ARRAYS: weights_record(flat), CONFIG: config}))

    def offer(self, plan: Plan, seed: int = 1) -> str:
        arrays = arrays_of(net_of(plan, seed))
        model_id = weights.model_id(arrays, plan.id)
        path = self.archive.file_of(model_id)
        weights.save(path, arrays, {"plan": plan.canonical()})
        self.archive.adopt(model_id, path, lambda *_: None)
        return model_id


def net_of(plan: Plan, seed: int) -> torch.nn.Module:
    return build(replace(plan, training=replace(plan.training, seed=seed)))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return plans.read(small_plan(tmp_path / "plan.yaml"))


def test_model_of_own_accepted_run_is_adopted(tmp_path: Path, data: Path, plan: Plan) -> None:
    site = Hospital(tmp_path / "A", data, Policy())
    site.consent.say(plan.id, "accepted")
    site.message(TRAIN, plan, 1)
    site.message(TRAIN, plan, 2)
    site.message(EVALUATE, plan, 2, seed=7)
    assert site.offer(plan, seed=7) == site.archive.model_id
    assert not list(site.offers.listed())


def test_a_model_of_no_plan_that_was_accepted_waits_and_says_why(tmp_path: Path, data: Path, plan: Plan) -> None:
    site = Hospital(tmp_path / "A", data, Policy(privacy="required", min_sites=3))
    with pytest.raises(WaitsError, match="waits for this site's admin") as caught:
        site.offer(plan)
    assert "without differential privacy" in caught.value.why
    assert "trained no round" in caught.value.why
    assert site.archive.model_id is None
    (waiting,) = site.offers.listed()
    assert (waiting.plan, waiting.decision) == (plan.id, None)


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ((), "trained no round"),
        (((EVALUATE, 2, 7),), "trained no round"),  # evaluated alone, as a lying server might have it
        (((TRAIN, 1, 1),), "was not there when its run ended"),
        (((TRAIN, 1, 1), (EVALUATE, 1, 7)), "was not there when its run ended"),  # not after the last round
        (((TRAIN, 1, 1), (EVALUATE, 2, 8)), "was sent another model"),
    ],
)
def test_model_not_evaluated_at_the_end_of_own_run_waits(
    tmp_path: Path, data: Path, plan: Plan, messages: tuple[tuple[str, int, int], ...], why: str
) -> None:
    site = Hospital(tmp_path / "A", data, Policy(new_plans="accept"))
    for kind, number, seed in messages:
        site.message(kind, plan, number, seed)
    with pytest.raises(WaitsError) as caught:
        site.offer(plan, seed=7)
    assert why in caught.value.why
    assert site.archive.model_id is None


def auto(plan: Plan) -> Plan:
    training = replace(plan.training, rounds="auto", max_rounds=9, schedule="trapezoid")
    return replace(plan, training=training)


def test_result_of_own_auto_run_is_adopted(tmp_path: Path, data: Path, plan: Plan) -> None:
    site, frozen = Hospital(tmp_path / "A", data, Policy(new_plans="accept")), auto(plan)
    site.message(TRAIN, frozen, 1)
    site.message(EVALUATE, frozen, 1, seed=7)
    site.message(EVALUATE, frozen, 9, seed=8)
    site.message(EVALUATE, frozen, 1, seed=7, final=True)  # the best round, after the last one
    assert site.offer(frozen, seed=7) == site.archive.model_id


@pytest.mark.parametrize(("number", "why"), [(1, "was not there when its run ended"), (9, "was not there")])
def test_model_of_auto_run_that_was_not_its_result_waits(
    tmp_path: Path, data: Path, plan: Plan, number: int, why: str
) -> None:
    site, frozen = Hospital(tmp_path / "A", data, Policy(new_plans="accept")), auto(plan)
    site.message(TRAIN, frozen, 1)
    site.message(EVALUATE, frozen, number, seed=7)
    with pytest.raises(WaitsError) as caught:
        site.offer(frozen, seed=7)
    assert why in caught.value.why
    site.message(EVALUATE, frozen, number, seed=8, final=True)
    with pytest.raises(WaitsError) as caught:
        site.offer(frozen, seed=7)
    assert "was sent another model" in caught.value.why


def test_decision_adopts_or_drops_waiting_model(tmp_path: Path, data: Path, plan: Plan) -> None:
    site = Hospital(tmp_path / "A", data, Policy())
    for seed in (1, 2, 3):
        with pytest.raises(WaitsError):
            site.offer(plan, seed)
    ids = {seed: weights.model_id(arrays_of(net_of(plan, seed)), plan.id) for seed in (1, 2, 3)}
    assert site.offers.find(ids[1][:16]) == ids[1]
    for seed, word in ((1, "accepted"), (2, "accepted"), (3, "declined")):
        site.offers.say(ids[seed], word)  # type: ignore[arg-type]
    assert site.offer(plan, 1) == site.archive.model_id
    site.offers.adopted(ids[1])  # as `Agent` notes it
    assert site.offer(plan, 2) == site.archive.model_id
    assert site.offer(plan, 1) == site.archive.model_id
    with pytest.raises(RefusedError, match="is not adopted") as caught:
        site.offer(plan, 3)
    assert "declined" in caught.value.why


def test_what_the_site_took_part_in_outlives_its_process_and_a_spoilt_record_asks(
    tmp_path: Path, data: Path, plan: Plan
) -> None:
    home = tmp_path / "A"
    site = Hospital(home, data, Policy(new_plans="accept"))
    site.message(TRAIN, plan, 2)
    site.message(EVALUATE, plan, 2, seed=7)
    site.archive.gallery.close()
    model_id = weights.model_id(arrays_of(net_of(plan, 7)), plan.id)
    assert not TookPart(home).doubt(plan, model_id)
    (home / "took_part.json").write_text("{", "utf-8")
    assert "trained no round" in TookPart(home).doubt(plan, model_id)
