"""Scores on the wire: one of nothing is absent, counts are coarse, and what an older site sends is read."""

from dataclasses import replace
from typing import Any

import pytest

from ynet.scores import (
    COARSE,
    NUMBERS,
    PER_CLASS,
    RESTS_ON,
    SHARES,
    Scores,
    classes_shown,
    coarse,
    from_wire,
    regions_shown,
    shown,
)

CLASSES = ("ring", "smooth", "none")
FULL = Scores(
    **dict.fromkeys(SHARES, 0.25),
    **dict.fromkeys(NUMBERS, 2.5),
    distinct_codes=7,
    queries=23,
    gallery=31,
    ranked=22,
    siblings=12,
    likened=2,
    masks=3,
    empty_masks=20,
    queries_per_class={"ring": 22, "smooth": 1, "none": 0},
    gallery_per_class={"ring": 26, "smooth": 0, "none": 5},
)


def test_scores_come_back_from_the_wire_with_coarse_counts() -> None:
    sent = FULL.to_wire(tells_classes=True)
    assert all(isinstance(value, float | int) for value in sent.values())  # the hub carries nothing else
    found = from_wire({key: float(value) for key, value in sent.items()}, CLASSES)
    assert {name: found[name] for name in SHARES} == dict.fromkeys(SHARES, 0.25)
    assert {name: found[name] for name in NUMBERS} == dict.fromkeys(NUMBERS, 2.5)
    assert [found[name] for name in ("distinct_codes", "queries", "gallery")] == [7, 23, 31]
    assert [found[name] for name in COARSE] == [25, 15, 5, 5, 20]
    assert found["queries_per_class"] == {"ring": 25, "smooth": 5, "none": 0}
    assert found["gallery_per_class"] == {"ring": 30, "smooth": 0, "none": 5}
    assert found.keys() == FULL.to_metrics().keys()


def test_score_of_nothing_is_absent_on_the_wire_and_none_in_json() -> None:
    nothing = replace(FULL, dice=None, macro_map10=None, masks=0, ranked=0)
    sent = nothing.to_wire(tells_classes=True)
    assert not {"dice", "macro_map10"} & sent.keys()
    found = from_wire(sent, CLASSES)
    assert found["dice"] is None
    assert found["macro_map10"] is None
    assert (found["masks"], found["ranked"]) == (0, 0)


def test_counts_by_class_stay_where_labels_are_not_told() -> None:
    sent = FULL.to_wire(tells_classes=False)
    assert not any("." in name for name in sent)
    assert [from_wire(sent, CLASSES)[name] for name in PER_CLASS] == [None, None]


def test_no_count_below_the_step_leaves_a_site() -> None:
    assert [coarse(count) for count in (0, 1, 4, 5, 6)] == [0, 5, 5, 5, 10]


def test_older_site_tells_no_counts_and_its_scores_are_as_it_sent_them() -> None:
    found = from_wire({"dice": 0.0, "macro_map10": 1.0, "queries": 4.0, "empty_kept": 0.5}, CLASSES)
    assert (found["dice"], found["macro_map10"], found["queries"]) == (0.0, 1.0, 4)
    assert [found[name] for name in (*COARSE, *PER_CLASS, *NUMBERS)] == [None] * 9
    assert [found[name] for name in ("case_hit1", "case_hit10", "distinct_share")] == [None] * 3
    assert shown(found, "dice") == "0.000"


@pytest.mark.parametrize(
    "wrong",
    [
        *({"dice": 1.5}, {"dice": float("nan")}, {"dice": -0.1}, {"masks": 0.5}, {"masks": -5}, {"queries.1": -1}),
        *({"case_hit10": 1.5}, {"siblings": 2.5}, {"median_tie10": -1.0}, {"mask_likeness": float("inf")}),
    ],
    ids=str,
)
def test_scores_and_counts_that_can_be_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"score|count"):
        from_wire({**FULL.to_wire(tells_classes=True), **wrong}, CLASSES)


def test_counts_of_other_classes_than_the_plans_are_not_taken() -> None:
    sent = FULL.to_wire(tells_classes=True)
    del sent["queries.2"]
    assert from_wire(sent, CLASSES)["queries_per_class"] is None


def test_words_name_what_a_score_rests_on() -> None:
    told = from_wire(replace(FULL, dice=None, masks=0).to_wire(tells_classes=True), CLASSES)
    assert [shown(told, name) for name in RESTS_ON] == [
        "0.250 of <= 25",
        "0.250 of <= 15",
        "2.5 of 23",
        "none of 0",
        "0.250 of <= 25",
    ]
    assert classes_shown(told) == "ring <= 25, smooth <= 5, none 0"


def test_dice_of_each_region_is_shown_where_the_plan_names_regions() -> None:
    assert regions_shown({"dice": 0.5}) == ""
    assert regions_shown({"dice_per_region": {"disc": 0.75, "cup": None}}) == "disc 0.750, cup none"


def test_dice_per_region_crosses_the_wire_by_place_and_comes_back_by_name() -> None:
    sent = replace(FULL, dice_per_region={"disc": 0.75, "cup": None}).to_wire(tells_classes=True)
    assert sent["dice.0"] == 0.75
    assert "dice.1" not in sent
    found = from_wire(sent, CLASSES, ("disc", "cup"))
    assert found["dice_per_region"] == {"disc": 0.75, "cup": None}
    assert not {"dice.0", "dice.1"} & found.keys()
    assert "dice_per_region" not in from_wire(sent, CLASSES)


def test_dice_of_a_region_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="not in"):
        from_wire({"dice.1": 1.5}, CLASSES, ("disc", "cup"))
