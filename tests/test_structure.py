"""The figures of the structure stay within the limits of structure.yaml."""

from pathlib import Path

import pytest
import structure
import structure_trips
import yaml
from structure_trips import Trip


def test_structure_figures_are_within_their_limits() -> None:
    kept = yaml.safe_load(structure.KEPT.read_text("utf-8"))
    worse = {name: (now, kept[name]) for name, now in structure.figures().items() if now > kept[name]}
    assert not worse, "now, at most: see tests/structure.py"


def test_cycles_of_any_length_are_found() -> None:
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert structure.circles({"a": {"b"}, "b": set()}) == []


def package(folder: Path, **modules: str) -> dict[str, Path]:
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    return {"one": folder}


def test_stays_are_the_modules_that_name_the_carrier_whatever_else_has_its_name(tmp_path: Path) -> None:
    modules = package(
        tmp_path,
        wire="class Query: ...",
        asking="from one.wire import Query",
        answering="from one import wire\ndef answer(asked: wire.Query) -> None: ...",
        records="from protobuf import Query",
        local="def f() -> None:\n    from one.wire import Query as Asked",
        idle="Query = 1",
    )
    assert structure_trips.stays(Trip({"one"}, {"Query"}), modules) == [
        "one.answering",
        "one.asking",
        "one.local",
        "one.wire",
    ]


def test_stays_of_a_carrier_that_no_class_is_called_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="Query"):
        structure_trips.stays(Trip({"one"}, {"Query"}), package(tmp_path, wire="class Hit: ..."))


def test_unplain_words_are_found_across_lines_and_in_any_case() -> None:
    words = ("Ane" + "w, by", "itself; whi" + "ch of", "which")
    assert structure.WORDS.findall("\n".join(words)) == ["Ane" + "w", "by\nitself", "of\nwhich"]
