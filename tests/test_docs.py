"""What the documentation says, held against the code."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import click
import pytest
import torch
import typer
import yaml

from ynet import errors
from ynet.config import parse, read_yaml
from ynet.federation import plan as plans
from ynet.federation.plan import Plan
from ynet.model import build
from ynet_client.cli import app as client_app
from ynet_client.settings import ClientSettings
from ynet_server.cli import app as server_app
from ynet_server.settings import ServerSettings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(ynet-(?:server|client)) ([a-z][^\n`|]*)")


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for program, rest in COMMAND.findall(page.read_text("utf-8")):
            yield program, rest.split("(")[0].split(",")[0].strip()


@pytest.mark.parametrize(("program", "rest"), sorted(set(commands())))
def test_every_command_in_the_documentation_exists_with_its_flags(program: str, rest: str) -> None:
    command: Any = typer.main.get_command(server_app if program == "ynet-server" else client_app)
    words = rest.split()
    while isinstance(command, click.Group) and words:
        assert words[0] in command.commands, f"{program} has no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {flag for parameter in command.params for flag in parameter.opts}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{program}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def keys(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key of a settings dataclass with its default; MISSING where it has none."""
    for field in fields(kind):
        inner = get_type_hints(kind)[field.name]
        if is_dataclass(inner):
            yield from keys(inner, f"{prefix}{field.name}.")  # type: ignore[arg-type]
        else:
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            yield prefix + field.name, default


def test_the_readme_has_every_key_of_the_plan_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \|([^|]*)\|[^|]*\|$", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    documented = {key: yaml.safe_load(default) if default.strip() else MISSING for key, default in rows}
    assert documented == {key: list(value) if isinstance(value, tuple) else value for key, value in keys(Plan)}


@pytest.mark.parametrize(("file", "kind"), [("server.yaml", ServerSettings), ("client.yaml", ClientSettings)])
def test_the_settings_files_show_the_defaults(file: str, kind: type[Any]) -> None:
    values = read_yaml(ROOT / "configs" / file, "settings")
    assert parse(kind, values, file) == kind()
    assert set(values) == {field.name for field in fields(kind)}


@pytest.mark.parametrize("path", sorted((ROOT / "configs/plans").glob("*.yaml")), ids=lambda path: path.name)
def test_every_plan_can_be_read_and_says_what_it_costs_and_must_score(path: Path) -> None:
    assert plans.read(path).id
    head = path.read_text("utf-8").split("name:")[0]
    assert "minute" in head
    assert "must reach" in head


def test_the_readme_has_the_exit_codes() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    for code, word in (
        (errors.EXIT_OUR_FAULT, "a fault of ynet"),
        (errors.EXIT_YOURS, "yours"),
        (errors.EXIT_REFUSED, "refused"),
        (errors.EXIT_UNREACHABLE, "unreachable"),
    ):
        assert f"{code} {word}" in text


def test_the_figure_of_the_network_has_its_shapes() -> None:
    text = re.sub(r" +", " ", (ROOT / "docs/network.md").read_text("utf-8"))
    values = {**read_yaml(ROOT / "configs/plans/lgg.yaml", "plan"), "network": {}}
    net = build(parse(Plan, values, "the figure's plan"))
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("stem", "stages.0", "stages.1", "stages.2", "stages.3", "pooled.conv", "pooled", "segmentation"):
        net.get_submodule(name).register_forward_hook(
            lambda _module, _given, made, name=name: shapes.update({name: tuple(made.shape[1:])})
        )
    net(torch.zeros(1, 1, 96, 96))
    for name, shape in shapes.items():
        shown = " x ".join(map(str, shape))
        lines = [line for line in text.splitlines() if name.split(".")[0] in line or "1x1 conv" in line]
        assert any(shown in line for line in lines), f"{name}: {shown}"
    assert f"{sum(parameter.numel() for parameter in net.parameters()):,} parameters" in text
