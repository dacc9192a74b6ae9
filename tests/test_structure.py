"""The house stands at least as well as structure.yaml says."""

import structure
import yaml


def test_no_figure_of_the_structure_is_worse_than_the_file_says() -> None:
    kept = yaml.safe_load(structure.KEPT.read_text("utf-8"))
    worse = {name: (now, kept[name]) for name, now in structure.figures().items() if now > kept[name]}
    assert not worse, "now, at most: see tests/structure.py"


def test_circles_are_found_however_long() -> None:
    assert structure.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert structure.circles({"a": {"b"}, "b": set()}) == []
