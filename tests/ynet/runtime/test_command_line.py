"""Commands that two programs share, each with its own options."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from ynet.runtime.command_line import show_examples, with_options


def shared(home_options) -> typer.Typer:
    app = typer.Typer()

    def show(name: Annotated[str, typer.Argument()], home: Path, is_loud: bool = False) -> None:
        typer.echo(f"{name} {home} {is_loud}")

    app.command("show")(with_options(show, "home", home_options))
    app.command("other")(lambda: None)
    return app


def folder(site: str = "A", home: Annotated[Path | None, typer.Option("--home")] = None) -> Path:
    return home or Path(site)


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["x"], "x A False"),
        (["x", "--site", "B", "--is-loud"], "x B True"),
        (["x", "--site", "B", "--home", "C"], "x C False"),
    ],
)
def test_shared_command_receives_what_its_options_resolve_to(words: list[str], printed: str) -> None:
    result = CliRunner().invoke(shared(folder), ["show", *words])
    assert (result.exit_code, result.output.strip()) == (0, printed)


def test_examples_of_unknown_command_are_refused() -> None:
    app = shared(folder)
    show_examples(app, {"show": ("show x",)})
    with pytest.raises(KeyError):
        show_examples(app, {"nothing": ("nothing",)})
