"""A site's veto against models that score worse on its own test cases."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hospitals import small_plan
from ynet import plan as plans
from ynet import weights
from ynet.data.synthetic import CLASSES
from ynet.errors import RefusedError
from ynet.learning.model import YNet, arrays_of, build, load_arrays
from ynet.learning.train import train
from ynet.plan import Plan
from ynet_client.adoption.admission import Admission
from ynet_client.adoption.model_check import ActiveModel, check, score
from ynet_client.adoption.offered import OfferedModels, WaitsError
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.indexer import Archive
from ynet_client.settings import Policy
from ynet_client.training.consent import Consent
from ynet_client.training.site_data import LocalSite
from ynet_client.training.took_part import TookPart


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hospital whose classes a few seconds of training tell apart: stripes, and none."""
    folder = tmp_path_factory.mktemp("veto")
    random, rows = np.random.default_rng(1), ["image,mask,label,patient,split"]
    waves = {"ring": np.sin(np.arange(32))[:, None], "smooth": 0.0, "spiculated": np.sin(np.arange(32))[None]}
    for number in range(48):
        label = CLASSES[number % 3]
        pixels = 120 + 60 * waves[label] + 10 * random.standard_normal((32, 32))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,,{label},p{number},{'test' if number < 18 else 'train'}")
    (folder / "manifest.csv").write_text("\n".join(rows), "utf-8")
    return folder / "manifest.csv"


@pytest.fixture(scope="module")
def models(data: Path) -> dict[str, ActiveModel]:
    """`good` was trained; `bad` has one code for everything."""
    plan = plans.read(small_plan(data.parent / "plan.yaml", local_epochs=20, learning_rate=1e-2, schedule="constant"))
    plan = replace(plan, network=replace(plan.network, code="trained"))
    site, good, bad = LocalSite(data, "cpu", 1 << 26), build(plan), build(plan)
    generator = torch.Generator().manual_seed(1)
    train(good, site.cases(plan)[0], plan, 1, device=site.device, generator=generator)
    load_arrays(bad, {name: np.zeros_like(array) for name, array in arrays_of(bad).items()})
    return {name: _named(net, plan) for name, net in (("good", good), ("bad", bad))}


def _named(net: YNet, plan: Plan) -> ActiveModel:
    return ActiveModel(weights.model_id(arrays_of(net), plan.id), plan, net.eval())


def archive(home: Path, data: Path, max_score_drop: float) -> Archive:
    home.mkdir(exist_ok=True)
    gallery = Gallery.open(home / "gallery.sqlite", b"of this site")
    site = LocalSite(data, "cpu", 0, took_part=TookPart(home))
    consent = Consent(home, Policy(new_plans="accept"))
    admission = Admission(site, consent, OfferedModels(home), max_score_drop)
    return Archive(home / "models", site, gallery, admission.check)


def adopt(archive: Archive, model: ActiveModel) -> None:
    """Record that the site took part in the model's run."""
    path = archive.file_of(model.id)
    took_part = TookPart(path.parent.parent)
    took_part.trained(model.plan)
    took_part.evaluated(model.plan, model.id, is_final=True)
    weights.save(path, arrays_of(model.net), {"plan": model.plan.canonical()})
    archive.adopt(model.id, path, lambda *_: None)


def scores(data: Path, models: dict[str, ActiveModel]) -> dict[str, float]:
    site = LocalSite(data, "cpu", 0)
    found = {name: score(site, site.manifest(), model) for name, model in models.items()}
    return {name: value for name, value in found.items() if value is not None}


def test_much_worse_model_is_not_adopted(tmp_path: Path, data: Path, models: dict[str, ActiveModel]) -> None:
    found = scores(data, models)
    assert found["good"] > found["bad"] + 0.2
    opened = archive(tmp_path, data, 0.05)
    adopt(opened, models["good"])
    with pytest.raises(RefusedError, match="was not adopted") as caught:
        adopt(opened, models["bad"])
    assert f"{found['bad']:.3f}" in caught.value.why
    assert f"{found['good']:.3f}" in caught.value.why
    assert opened.model_id == opened.gallery.active_model == models["good"].id
    assert opened.file_of(models["bad"].id).exists()  # or each greeting would have it fetched again
    opened.gallery.close()
    again = archive(tmp_path, data, 0.05)
    assert again.model_id == models["good"].id
    again.gallery.close()


def test_a_better_model_and_one_that_is_little_worse_are_taken_up(
    tmp_path: Path, data: Path, models: dict[str, ActiveModel]
) -> None:
    found = scores(data, models)
    for place, (old, new, max_score_drop) in enumerate(
        (("bad", "good", 0.0), ("good", "bad", found["good"] - found["bad"] + 1e-6), ("good", "good", 0.0))
    ):
        opened = archive(tmp_path / str(place), data, max_score_drop)
        adopt(opened, models[old])
        adopt(opened, models[new])
        assert opened.model_id == models[new].id
        opened.gallery.close()


def test_a_site_that_says_nothing_of_it_takes_up_any_model(
    tmp_path: Path, data: Path, models: dict[str, ActiveModel]
) -> None:
    opened = archive(tmp_path, data, 1.0)
    adopt(opened, models["good"])
    adopt(opened, models["bad"])
    assert opened.model_id == models["bad"].id
    opened.gallery.close()


def test_the_first_model_is_compared_with_nothing(tmp_path: Path, data: Path, models: dict[str, ActiveModel]) -> None:
    opened = archive(tmp_path, data, 0.0)
    adopt(opened, models["bad"])
    assert opened.model_id == models["bad"].id
    opened.gallery.close()


def test_admin_is_asked_when_veto_cannot_compare(data: Path, models: dict[str, ActiveModel]) -> None:
    rows = data.read_text("utf-8").splitlines()
    only_training = data.with_name("training.csv")
    only_training.write_text("\n".join([rows[0], *(row.replace(",test", ",train") for row in rows[1:])]), "utf-8")
    assert "no test cases" in check(LocalSite(only_training, "cpu", 0), models["good"], models["bad"], 0.0)

    one_class = data.with_name("one-class.csv")
    label = rows[0].split(",").index("label")
    cells = [row.split(",") for row in rows[1:]]
    same = [",".join([*row[:label], models["good"].plan.classes[0], *row[label + 1 :]]) for row in cells]
    one_class.write_text("\n".join([rows[0], *same]), "utf-8")
    assert "none that can be ranked" in check(LocalSite(one_class, "cpu", 0), models["good"], models["bad"], 0.0)

    other = replace(models["good"].plan, classes=("ring", "smooth", "spiculated", "none"))
    site = LocalSite(data, "cpu", 0)
    assert "other classes" in check(site, models["good"], _named(build(other), other), 0.0)
    turned = replace(models["good"].plan, classes=tuple(reversed(models["good"].plan.classes)))
    assert "other classes" in check(site, models["good"], _named(build(turned), turned), 0.0)
    colour = replace(models["good"].plan, image=replace(models["good"].plan.image, channels=3))
    assert "reads images differently" in check(site, models["good"], _named(build(colour), colour), 0.0)


def test_veto_is_not_bypassed_by_other_classes_or_a_lost_model(
    tmp_path: Path, data: Path, models: dict[str, ActiveModel]
) -> None:
    opened = archive(tmp_path, data, 0.05)
    adopt(opened, models["good"])
    plan = replace(models["bad"].plan, classes=("ring", "smooth", "spiculated", "none"))
    other = _named(build(plan), plan)
    with pytest.raises(WaitsError, match="waits for this site's admin") as caught:
        adopt(opened, other)
    assert "other classes" in caught.value.why
    opened.gallery.close()

    opened.file_of(models["good"].id).unlink()
    again = archive(tmp_path, data, 0.05)
    with pytest.raises(WaitsError) as caught:
        adopt(again, models["bad"])
    assert "is lost" in caught.value.why
    assert again.gallery.active_model == models["good"].id
    OfferedModels(tmp_path).say(other.id, "accepted")
    adopt(again, other)
    assert again.model_id == other.id
    again.gallery.close()
