"""Columns of manifests as attributes."""

import numpy as np

from ynet.data.manifest import Case
from ynet_lab.figures import attributes


def cases(**columns: list[str]) -> list[Case]:
    rows = zip(*columns.values(), strict=True)
    return [Case(2, "i", "m", "a", "p", "train", dict(zip(columns, cells, strict=True))) for cells in rows]


def test_numbers_categories_and_unknown_cells() -> None:
    held = cases(age=["60", "", "41.5", "3"] * 3, sex=["m", "f", "", "m"] * 3)
    found = attributes.of_manifests(held, cases(age=["7"], sex=["f"]))
    assert not found["age"].is_category
    np.testing.assert_array_equal(found["age"].held[:4], [60, np.nan, 41.5, 3])
    assert found["age"].asked.tolist() == [7]
    assert found["sex"].is_category
    np.testing.assert_array_equal(found["sex"].held[:4], [1, 0, np.nan, 1])
    assert found["sex"].asked.tolist() == [0]


def test_note_among_numbers_is_unknown() -> None:
    found = attributes.of_manifests(cases(age=["60", "61", "62"] * 10 + ["not told"]), cases(age=["inf"]))
    assert not found["age"].is_category
    assert np.isnan(found["age"].held[-1])
    half = attributes.of_manifests(cases(grade=["1", "G2"] * 10), cases(grade=["1"]))
    assert half["grade"].is_category


def test_names_paths_and_constants_are_no_attributes() -> None:
    names = [f"lungs/{number}.png" for number in range(12)]
    assert attributes.of_manifests(cases(lung=names, grade=["G2"] * 12), cases(lung=["x"], grade=["G2"])) == {}


def test_site_without_a_column_does_not_know_it() -> None:
    held = cases(sex=["m", "f"] * 6) + cases(age=["60"])
    found = attributes.of_manifests(held, cases(sex=["m"]))
    assert np.isnan(found["sex"].held[-1])
