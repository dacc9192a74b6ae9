"""The figures of the structure stay within the limits of structure.yaml."""

import structure
import yaml


def test_structure_figures_are_within_their_limits() -> None:
    kept = yaml.safe_load(structure.KEPT.read_text("utf-8"))
    worse = {name: (now, kept[name]) for name, now in structure.figures().items() if now > kept[name]}
    assert not worse, "now, at most: see tests/structure.py"


def test_cycles_of_any_length_are_found() -> None:
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert structure.circles({"a": {"b"}, "b": set()}) == []
