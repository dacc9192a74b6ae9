"""The Python API without a running client: what it refuses, what it imports, and its page."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import ynet_client
from ynet_client import Answer, ConsultRequest, Filters, Hit, Outcome, Site, UnreachableError, UserError

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "python-api.md").read_text("utf-8")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site("A", home=tmp_path)


def test_missing_client_error_names_join_command(site: Site) -> None:
    for ask in (site.status, site.consults, lambda: site.query(b"an image"), lambda: site.forget("P")):
        with pytest.raises(UnreachableError, match="is not running") as raised:
            ask()
        assert raised.value.do.startswith("start it: ynet-client join")


@pytest.mark.parametrize(
    "filters",
    [
        Filters(labels="glioma"),  # type: ignore[arg-type]
        Filters(attributes=("grade", "G2", "x")),  # type: ignore[arg-type]
        Filters(attributes=(("", "G2"),)),
        Filters(split="validation"),
        Filters(since="May"),
        Filters(since="2026-02-01", until="2026-01-01"),
    ],
)
def test_invalid_filter_is_refused_before_sending(filters: Filters, site: Site) -> None:
    with pytest.raises(UserError, match="the filter cannot be used"):
        site.query(b"an image", filters=filters)


def test_zero_epsilon_and_missing_file_are_refused(site: Site, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be noised"):
        site.query(b"an image", epsilon=0)
    with pytest.raises(UserError, match="cannot be read"):
        site.query(tmp_path / "no such file.png")


def test_api_import_loads_no_numpy_and_no_torch() -> None:
    code = "import sys, ynet_client; sys.exit(bool({'torch', 'numpy', 'flwr', 'grpc'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def rows(head: str) -> set[str]:
    """What stands in code in the first column of the page's table with this head."""
    table = PAGE[PAGE.index(f"| {head} |") :].split("\n\n")[0]
    return {word for line in table.splitlines()[2:] for word in re.findall(r"`([^`]+)`", line.split("|")[1])}


def test_page_documents_every_field_and_outcome() -> None:
    for kind in (Answer, ConsultRequest):
        assert rows(f"`{kind.__name__}`") == {field.name for field in fields(kind)}
    assert rows("`Hit`") == set(Hit._fields)
    assert rows("outcome") == set(Outcome)
    for field in fields(Filters):
        assert f"`{field.name}`" in PAGE
    for name in ynet_client.__all__:
        assert name in PAGE or name == "Consults"
