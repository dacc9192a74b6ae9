"""The default plan for a stranger's images: what it is chosen by, what it warns about, what is refused."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ynet import plan as plans
from ynet.data.manifest import COLUMNS, find_sites
from ynet.data.synthetic import make_federation
from ynet.errors import EXIT_YOURS, UserError
from ynet_lab.own_data import values
from ynet_lab.own_data.concerns import concerns
from ynet_lab.own_data.draft import draft, sided, values_of
from ynet_lab.own_data.facts import SiteFacts, is_coloured
from ynet_lab.own_data.layout import sites_in
from ynet_lab.own_data.planned import Planned, plan_for

DIGEST = "a" * 64
SITE = SiteFacts(
    site="north",
    train={"benign": 90, "malignant": 60},
    test={"benign": 30, "malignant": 20},
    patients=100,
    unlabelled=0,
    unlabelled_train=0,
    undrawn=0,
    empty=0,
    missing=0,
    in_both=0,
    opened=24,
    unreadable=0,
    fault="",
    coloured=0,
    sides=(300,) * 24,
    lesions=(0.05,) * 24,
)
Rows = list[dict[str, str]]


def federation(folder: Path, change: Callable[[Rows], object] = list, *sites: str) -> dict[str, Path]:
    """Make two synthetic sites; `change` edits the rows of `sites`, by default of both."""
    make_federation(folder, {"north": 24, "south": 18}, seed=1, size=48)
    for name, path in find_sites(folder).items():
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        if name in (sites or ("north", "south")):
            change(rows)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    return find_sites(folder)


def chosen(*sites: SiteFacts, encoder: str | None = None) -> dict[str, object]:
    made = values_of(draft("test", sites, encoder))
    return {key: value for part in made.values() if isinstance(part, dict) for key, value in part.items()}


def told(made: Planned) -> str:
    return "\n".join(map(str, made.concerns))


# --- the plan


def test_plan_file_is_valid_and_has_a_reason_for_every_value(tmp_path: Path) -> None:
    made = plan_for("my data!", federation(tmp_path / "data"), DIGEST)
    path = tmp_path / "plan.yaml"
    path.write_text(made.text, "utf-8")
    assert plans.read(path) == made.plan
    assert made.plan.name == "my-data-"
    assert made.plan.classes == ("ring", "smooth", "spiculated")
    assert (made.plan.cohort.min_sites, made.plan.cohort.quorum) == (2, 2)
    lines = made.text.splitlines()
    for number, line in enumerate(lines):
        has_value = line.partition("  # ")[0].strip() and not line.endswith(":") and not line.lstrip().startswith("#")
        assert not has_value or "  # " in line or lines[number - 1].lstrip().startswith("# "), line
    assert max(map(len, lines)) <= 125
    assert set(made.to_json(path)) == {"id", "file", "plan", "reasons", "warnings", "sites"}
    assert yaml.safe_load(made.text) == made.to_json(None)["plan"]


@pytest.mark.parametrize("encoder", [None, DIGEST])
def test_plan_trains_heads_of_a_pretrained_encoder_and_everything_of_its_own(encoder: str | None) -> None:
    found = chosen(SITE, encoder=encoder)
    start = values.SCRATCH if encoder is None else values.PRETRAINED
    assert (found["encoder"], found.get("encoder_weights"), found["trained"]) == (start.encoder, encoder, start.trained)
    assert found["learning_rate"] == start.learning_rate
    assert found["rounds"] == "auto"


@pytest.mark.parametrize(
    ("share", "side", "size"),
    [(0.05, 300, 128), (0.0001, 2000, 512), (0.001, 224, 224), (0.001, 2000, 320), (0.001, 100, 128)],
)
def test_size_grows_until_lesions_are_seen_but_not_beyond_the_images(share: float, side: int, size: int) -> None:
    small = replace(SITE, site="south", lesions=(share,) * 9, sides=(side,) * 9)
    assert chosen(SITE if side == 300 else small, small)["size"] == size


def test_size_is_the_default_without_masks() -> None:
    assert chosen(replace(SITE, lesions=()))["size"] == values.SIZE


@pytest.mark.parametrize(("coloured", "channels"), [(0, 1), (11, 1), (12, 3), (24, 3)])
def test_one_site_in_colour_makes_the_plan_coloured(coloured: int, channels: int) -> None:
    assert chosen(SITE, replace(SITE, site="south", coloured=coloured))["channels"] == channels


def test_grey_image_with_a_small_coloured_mark_is_grey() -> None:
    grey = np.repeat(np.random.default_rng(1).random((1, 50, 50), np.float32), 3, axis=0)
    marked = grey.copy()
    marked[0, :5, :5] = 0
    stained = grey.copy()
    stained[1] *= 0.5
    assert [is_coloured(one) for one in (grey, marked, stained)] == [False, False, True]


def test_flip_is_off_where_a_class_names_a_side() -> None:
    for labels, named in {
        ("left_lobe", "right_lobe"): ["left_lobe", "right_lobe"],
        ("OD-normal", "OS-normal"): ["OD-normal", "OS-normal"],
        ("l", "n", "m"): [],
        ("bright", "frontal", "cleft"): [],
        ("kidney.L", "kidney.R", "none"): ["kidney.L", "kidney.R"],
    }.items():
        assert sided(labels) == named
        counts = dict.fromkeys(labels, 50)
        assert chosen(replace(SITE, train=counts, test=counts))["flip"] is not bool(named)


def test_classes_are_weighted_by_their_counts_only_where_they_differ_much() -> None:
    assert chosen(SITE)["class_weights"] == []
    weights = chosen(replace(SITE, train={"benign": 900, "malignant": 100}))["class_weights"]
    assert isinstance(weights, list)
    assert weights[1] == pytest.approx(3 * weights[0], rel=0.02)
    assert 0.9 * weights[0] + 0.1 * weights[1] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("cases", "size"), [(20, 8), (150, 16), (10_000, 16)])
def test_batch_is_smaller_at_small_sites(cases: int, size: int) -> None:
    assert chosen(replace(SITE, train={"a": cases // 2, "b": cases // 2}), encoder=DIGEST)["batch_size"] == size


@pytest.mark.parametrize(("sites", "quorum"), [(1, 1), (3, 3), (4, 3), (8, 6)])
def test_cohort_follows_the_number_of_sites(sites: int, quorum: int) -> None:
    found = chosen(*(replace(SITE, site=f"s{number}") for number in range(sites)))
    assert (found["min_sites"], found["quorum"]) == (sites, quorum)


def test_code_is_longer_than_the_classes_are_many() -> None:
    counts = {f"c{number:03}": 40 for number in range(100)}
    assert chosen(replace(SITE, train=counts, test=counts))["code_bits"] == 128


# --- warnings


def test_good_data_have_no_warning() -> None:
    assert concerns((SITE, replace(SITE, site="south"))) == ()


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (
            replace(SITE, train={**SITE.train, "normal": 40}, test={**SITE.test, "normal": 9}),
            "normal is at one site only",
        ),
        (replace(SITE, test={}), "north: no test case"),
        (replace(SITE, test={"benign": 5}), "5 test cases"),
        (replace(SITE, train={}), "no case to train on"),
        (replace(SITE, train={"benign": 9}), "9 training cases"),
        (replace(SITE, unlabelled=3), "3 cases without a label"),
        (replace(SITE, undrawn=4), "4 cases whose mask nobody has drawn"),
        (replace(SITE, empty=SITE.cases), "not one case has a mask"),
        (replace(SITE, missing=2), "2 cases whose image or mask is not there"),
        (
            replace(SITE, unreadable=1, fault="it is cut short"),
            "1 of 25 sampled images cannot be used: it is cut short",
        ),
        (replace(SITE, in_both=1), "1 patients with training and test cases"),
        (replace(SITE, coloured=24), "images are grey at south"),
    ],
)
def test_site_that_needs_a_look_is_named(site: SiteFacts, text: str) -> None:
    assert text in "\n".join(map(str, concerns((site, replace(SITE, site="south")))))


def test_few_cases_of_a_class_and_a_single_site_are_told() -> None:
    found = "\n".join(map(str, concerns((replace(SITE, train={"benign": 90, "malignant": 7}),))))
    assert "malignant 7" in found
    assert "there is one site" in found


def test_manifest_with_gaps_is_planned_with_warnings(tmp_path: Path) -> None:
    def damage(rows: Rows) -> None:
        rows[0]["label"] = ""
        rows[1]["mask"] = "unknown"
        rows[2]["image"] = "absent.png"

    made = plan_for("data", federation(tmp_path, damage, "south"), None)
    for text in ("1 cases without a label", "1 cases whose mask", "1 cases whose image"):
        assert f"south: {text}" in told(made)
    assert "secret" not in told(made)
    assert str(tmp_path) not in json.dumps(made.to_json(None))


# --- what is refused


@pytest.mark.parametrize(
    ("label", "why"),
    [("all", "all cases have the label all"), ("two words", "'two words'"), ("", "no case has a label")],
)
def test_labels_that_are_no_classes_are_refused(label: str, why: str, tmp_path: Path) -> None:
    def rename(rows: Rows) -> None:
        for row in rows[: None if label != "two words" else 3]:
            row["label"] = label

    with pytest.raises(UserError, match="no plan can be made") as raised:
        plan_for("data", federation(tmp_path, rename), None)
    assert why in raised.value.why


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(path)


def test_folder_of_another_form_is_refused_with_what_is_there(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        for number in range(3):
            picture(tmp_path / "flat" / kind / f"{number}.png")
    federation(tmp_path / "deep" / "inner")
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "table" / "1.png")
    (tmp_path / "table" / "labels.csv").write_text("image,label\n", "utf-8")
    for folder, why, do in (
        ("flat", "6 images (3 in images, 3 in masks)", "SITE/manifest.csv"),
        ("deep", "its manifests lie in inner/", "deep/inner"),
        ("empty", "there are no images", "name another folder"),
        ("table", "there is labels.csv", "rename the table"),
        ("absent", "no such folder", "name a folder"),
    ):
        with pytest.raises(UserError) as raised:
            sites_in(tmp_path / folder)
        assert why in raised.value.why
        assert do in raised.value.do


def test_folder_with_its_own_manifest_is_one_site(tmp_path: Path) -> None:
    path = federation(tmp_path)["north"]
    assert sites_in(path.parent) == {"north": path}


# --- the command


def test_command_writes_a_plan_and_adds_the_encoder_of_the_package(tmp_path: Path) -> None:
    federation(tmp_path / "data")
    out = tmp_path / "plan.yaml"
    words = [sys.executable, "-m", "ynet_lab", "plan", str(tmp_path / "data"), "--out", str(out), "--json"]
    home = {"YNET_HOME": str(tmp_path / "home"), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=home)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert plans.read(out).id == found["id"]
    digest = found["plan"]["network"]["encoder_weights"]
    assert [path.stem for path in (tmp_path / "home/encoders").iterdir()] == [digest]
    assert "warning: classes with few training cases over all sites: ring 8, smooth 12, spiculated 8" in done.stderr
    again = subprocess.run(words, capture_output=True, text=True, check=False, env=home)
    assert again.returncode == EXIT_YOURS
    assert "is not overwritten" in again.stderr
