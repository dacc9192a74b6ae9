"""The reference pages, compared with the code that they are made from."""

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from reference import PAGES, explanations, made, part_of
from ynet.plan import Plan
from ynet_client.settings import ClientSettings
from ynet_server.settings import ServerSettings


@pytest.mark.parametrize("page", sorted(made()))
def test_reference_page_equals_the_code(page: str) -> None:
    assert (PAGES / page).read_text("utf-8") == made()[page], "run `make reference`, and commit what it writes"


def parts(kind: type[Any]) -> Iterator[type[Any]]:
    """A dataclass of settings, and the dataclasses in its fields."""
    yield kind
    yield from (part for field in fields(kind) if (part := part_of(kind, field)) is not None)


@pytest.mark.parametrize("kind", [one for top in (Plan, ServerSettings, ClientSettings) for one in parts(top)])
def test_every_key_has_a_docstring(kind: type[Any]) -> None:
    keys = {field.name for field in fields(kind) if part_of(kind, field) is None}
    assert keys <= explanations(kind).keys()


@pytest.mark.parametrize("page", ["plan.md", "settings.md"])
def test_every_named_link_of_a_docstring_is_defined_on_its_page(page: str) -> None:
    text = (PAGES / page).read_text("utf-8")
    defined = re.compile(r"^\[([^]]+)\]: .*$", re.MULTILINE)
    used = set(re.findall(r"(?<!`)(?<!: )\[([^]`]+)\](?!\()", defined.sub("", text)))
    assert used == set(defined.findall(text))


def test_errors_page_has_what_why_and_do() -> None:
    rows = [
        line.split(" | ") for line in (PAGES / "errors.md").read_text("utf-8").splitlines() if line.startswith("| ")
    ]
    assert len(rows) > 200
    assert {len(row) for row in rows} == {3}
    assert any("the invitation cannot be read" in row[0] for row in rows)
