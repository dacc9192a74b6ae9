"""Settings files: what is read, and what each mistake is answered with."""

from dataclasses import FrozenInstanceError, field
from pathlib import Path
from typing import Any

import pytest
from pydantic.dataclasses import dataclass

from ynet.config import MAX_FILE_BYTES, STRICT, parse, read_yaml
from ynet.errors import UserError


@dataclass(frozen=True, config=STRICT)
class Door:
    port: int = 80
    host: str = "here"


@dataclass(frozen=True, config=STRICT)
class House:
    storeys: int
    door: Door = field(default_factory=Door)


def read(path: Path, text: str | bytes) -> dict[str, Any]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path, "settings")


def refusal(path: Path, text: str | bytes) -> UserError:
    with pytest.raises(UserError) as caught:
        read(path, text)
    assert len(str(caught.value).splitlines()) == 3
    return caught.value


def test_what_is_not_said_has_its_default_and_the_result_cannot_be_changed() -> None:
    house = parse(House, {"storeys": 2, "door": {"port": 1}}, "house")
    assert house == House(2, Door(1, "here"))
    with pytest.raises(FrozenInstanceError):
        house.storeys = 3  # type: ignore[misc]


def test_an_unknown_key_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(UserError, match="unknown key 'storys'") as caught:
        parse(House, {"storeys": 1, "storys": 2}, "house")
    assert caught.value.do == "did you mean 'storeys'?"


def test_an_unknown_key_within_a_part_is_answered_with_that_parts_keys() -> None:
    with pytest.raises(UserError, match=r"unknown key 'door\.prot'") as caught:
        parse(House, {"storeys": 1, "door": {"prot": 2}}, "house")
    assert caught.value.do == "did you mean 'port'?"
    with pytest.raises(UserError) as caught:
        parse(House, {"storeys": 1, "door": {"xyz": 2}}, "house")
    assert caught.value.do == "known keys here: host, port"


def test_a_key_without_a_default_must_be_there() -> None:
    with pytest.raises(UserError, match="'storeys' is missing") as caught:
        parse(House, {}, "house")
    assert caught.value.do == "add 'storeys'"


@pytest.mark.parametrize("value", ["many", None, [1], {"a": 1}, 1.5])
def test_a_value_of_the_wrong_kind_is_named_with_its_key(value: object) -> None:
    with pytest.raises(UserError, match="house: 'storeys' is"):
        parse(House, {"storeys": value}, "house")


def test_a_long_wrong_value_is_shown_shortened() -> None:
    with pytest.raises(UserError) as caught:
        parse(House, {"storeys": "x" * 100_000}, "house")
    assert len(str(caught.value)) < 400


def test_a_key_that_is_no_text_is_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        parse(House, read(tmp_path / "f", "storeys: 1\n7: 2\n"), "house")


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "b: {a: 1, a: 2}\n", "- {a: 1, a: 2}\n"])
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str) -> None:
    assert "written twice" in refusal(tmp_path / "f", text).why


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: 'x",
        "\t- a",
        "a: !!python/object/apply:os.system ['true']",
        "? [a]\n: 1\n",
        "? {a: 1}\n: 1\n",
        "a: 2026-99-99",
        "a: 0x_",
        "a: " + "9" * 5000,
        "a: *nobody",
        "[" * 2_000,
        "a: \x07",
        "a: !!bool x",
        "a: !!int ''",
        "a: !!timestamp x",
        "b: &b {a: 1}\nc: {<<: *b}",  # forty of them, each of the one before, would fill any memory
    ],
)
def test_what_is_not_yaml_is_refused(tmp_path: Path, text: str) -> None:
    assert "is not YAML" in refusal(tmp_path / "f", text).what


@pytest.mark.parametrize("text", ["", "just words", "- a\n- b\n", "7", "null"])
def test_what_is_no_mapping_has_no_settings(tmp_path: Path, text: str) -> None:
    assert "has no settings" in refusal(tmp_path / "f", text).what


def test_few_words_that_unfold_into_very_many_are_refused_in_no_time(tmp_path: Path) -> None:
    lines = ["storeys:", "- &l0 [x, x]", *(f"- &l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, 40))]
    with pytest.raises(UserError) as caught:
        parse(House, read(tmp_path / "f", "\n".join(lines)), "house")
    assert len(str(caught.value)) < 1000


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    assert "not UTF-8" in refusal(tmp_path / "f", b"a: \xff\n").why
    assert "1 MiB" in refusal(tmp_path / "f", b"#" * (MAX_FILE_BYTES + 1)).why
    for path, words in ((tmp_path / "none", "was not found"), (tmp_path, "cannot be read")):
        with pytest.raises(UserError, match=words):
            read_yaml(path, "settings")
