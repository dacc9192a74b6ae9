"""A re-cut federation keeps every patient whole, and is as unlike as was asked."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ynet.data.check import check
from ynet.data.manifest import Manifest, find_sites, read
from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet_lab.skew import Cut, fold_of, ratio_of, skew


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_federation(folder, {"north": 90, "south": 60, "west": 30}, seed=1, size=32)
    return folder


def cut_to(data: Path, out: Path, cut: Cut) -> dict[str, Manifest]:
    skew(data, out, cut)
    return {name: read(path) for name, path in find_sites(out).items()}


def labels(manifest: Manifest) -> Counter[str]:
    return Counter(case.label for case in manifest.cases)


def test_shuffled_sites_are_alike_and_nothing_is_lost(data: Path, tmp_path: Path) -> None:
    sites = cut_to(data, tmp_path / "out", Cut(3))
    assert sum(len(one.cases) for one in sites.values()) == 180
    shares = [[labels(one)[name] / len(one.cases) for name in sorted(labels(one))] for one in sites.values()]
    assert np.ptp(shares, axis=0).max() < 0.12
    assert [len(one.cases) for one in sites.values()] == pytest.approx([90, 60, 30], abs=6)
    for one in sites.values():
        assert not check(one.root / "manifest.csv", ("ring", "smooth", "spiculated")).problems


def test_unlabelled_cases_are_dealt_and_are_no_class(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, own := tmp_path / "data")
    for path in find_sites(own).values():
        rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
        for row in rows[::4]:
            row["label"] = ""
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    sites = cut_to(own, tmp_path / "out", Cut(4, ratio=4, missing=1, alone=1))
    before = sum(labels(read(path))[""] for path in find_sites(own).values())
    assert sum(labels(one)[""] for one in sites.values()) == before > 0
    made = json.loads((tmp_path / "out" / "skew.json").read_text())
    assert made["classes"] == ["ring", "smooth", "spiculated"]
    assert "" not in made["left_out"]


def test_patient_is_in_one_site_and_one_split(data: Path, tmp_path: Path) -> None:
    sites = cut_to(data, tmp_path / "out", Cut(4, ratio=10, missing=1, alone=1))
    homes = Counter(patient for one in sites.values() for patient in {case.patient for case in one.cases})
    assert set(homes.values()) == {1}
    for one in sites.values():
        assert not {case.patient for case in one.train} & {case.patient for case in one.test}
        assert one.train


def test_sizes_classes_and_lacks_are_those_asked_for(data: Path, tmp_path: Path) -> None:
    sites = cut_to(data, tmp_path / "out", Cut(4, ratio=8, missing=1, alone=1))
    sizes = [len(one.cases) for one in sites.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert 4 < sizes[0] / sizes[-1] < 16
    owners = [sum(name in labels(one) for one in sites.values()) for name in ("ring", "smooth", "spiculated")]
    assert sorted(owners) == [1, 3, 4]


def test_same_seed_makes_the_same_files(data: Path, tmp_path: Path) -> None:
    first = cut_to(data, tmp_path / "1", Cut(3, ratio=4, appearance=0.5))
    second = cut_to(data, tmp_path / "2", Cut(3, ratio=4, appearance=0.5))
    for one, other in zip(first.values(), second.values(), strict=True):
        assert (one.root / "manifest.csv").read_bytes() == (other.root / "manifest.csv").read_bytes()
        assert one.path_of(one.cases[0].image).read_bytes() == other.path_of(other.cases[0].image).read_bytes()
    other = cut_to(data, tmp_path / "3", Cut(3, ratio=4, seed=2))
    assert [case.patient for case in other["A"].cases] != [case.patient for case in first["A"].cases]


def test_each_patient_is_tested_in_one_fold(data: Path, tmp_path: Path) -> None:
    tested: Counter[str] = Counter()
    for fold in range(3):
        sites = cut_to(data, tmp_path / str(fold), Cut(3, folds=3, fold=fold))
        tested.update({case.patient for one in sites.values() for case in one.test})
    assert set(tested.values()) == {1}
    everyone = {case.patient for one in sites.values() for case in one.cases}
    assert set(tested) == everyone


def test_appearance_changes_images_and_no_mask(data: Path, tmp_path: Path) -> None:
    plain = cut_to(data, tmp_path / "plain", Cut(3, ratio=1))
    changed = cut_to(data, tmp_path / "changed", Cut(3, ratio=1, appearance=1))
    for name, one in plain.items():
        before = [np.asarray(Image.open(one.path_of(case.image)), float) for case in one.cases]
        after = [np.asarray(Image.open(changed[name].path_of(case.image)), float) for case in changed[name].cases]
        assert abs(np.mean(before) - np.mean(after)) > 2
        for case, other in zip(one.cases, changed[name].cases, strict=True):
            if case.mask:
                assert one.path_of(case.mask).read_bytes() == changed[name].path_of(other.mask).read_bytes()


def test_unknown_and_empty_masks_and_other_files_are_kept(data: Path, tmp_path: Path) -> None:
    source = tmp_path / "data"
    make_federation(source, {"north": 24, "south": 24}, seed=1, size=32)
    path = source / "north" / "manifest.csv"
    rows = list(csv.DictReader(path.read_text("utf-8").splitlines()))
    for row in rows:
        row["cup"] = row["mask"]
    rows[0]["mask"], rows[1]["mask"] = "unknown", ""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    sites = cut_to(source, tmp_path / "out", Cut(2))
    cases = [(one, case) for one in sites.values() for case in one.cases]
    assert sum(not case.is_drawn for _, case in cases) == 1
    assert sum(case.is_drawn and not case.mask for _, case in cases) == 1
    cups = [(one, case.attributes["cup"]) for one, case in cases if case.attributes.get("cup")]
    assert len(cups) == 24
    assert all((one.root / cup).is_file() for one, cup in cups)


def test_case_of_a_class_that_its_site_lacks_is_counted(tmp_path: Path) -> None:
    source = tmp_path / "data"
    make_federation(source, {"north": 40, "south": 40}, seed=1, size=32)
    for path in find_sites(source).values():  # every patient has a case of the class `smooth` beside its own
        text = path.read_text("utf-8").splitlines()
        patients: set[str] = set()
        for number, line in enumerate(text[1:], start=1):
            cells = line.split(",")
            if cells[3] in patients:
                cells[2] = "smooth"
            patients.add(cells[3])
            text[number] = ",".join(cells)
        path.write_text("\n".join(text) + "\n", "utf-8")
    made = skew(source, tmp_path / "out", Cut(3, ratio=2, missing=2, seed=3))
    written = sum(sum(counts.values()) for site in made["sites"].values() for counts in site.values())
    assert written + sum(made["left_out"].values()) == 80
    assert json.loads((tmp_path / "out" / "skew.json").read_text("utf-8")) == made


@pytest.mark.parametrize(
    ("cut", "why"),
    [
        (Cut(3, missing=3), "too little"),
        (Cut(3, alone=3), "too little"),
        (Cut(5), "the data have 3 sites"),
    ],
)
def test_cut_that_cannot_be_made_is_refused(data: Path, tmp_path: Path, cut: Cut, why: str) -> None:
    with pytest.raises(UserError) as raised:
        skew(data, tmp_path / "out", cut)
    assert why in raised.value.why


def test_folder_that_holds_files_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match="cannot take the sites"):
        skew(data, data, Cut(3))


@pytest.mark.parametrize("text", ["40", "1:40", "a:b", "0:0", ""])
def test_sizes_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        ratio_of(text)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/1", "x/3"])
def test_fold_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        fold_of(text)
