"""Commands whose name has changed: the old one is refused with the new one, and help does not show it."""

import subprocess
import sys

import click
import pytest
import typer

from ynet_client.commands.cli import app
from ynet_client.commands.renamed import RENAMED


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "ynet_client", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_command_is_refused_with_new_name(old: str, new: str) -> None:
    done = run(old, "6b98b49ba0799dcc", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == f"   do: ynet-client {new}"


@pytest.mark.parametrize("words", [["3f9c21", "--note", "x"], ["--note", "x", "3f9c21"], ["--to", "B", "3f9c21"]])
def test_consult_without_group_command_is_refused_with_send(words: list[str]) -> None:
    done = run("consult", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == "   do: ynet-client consult send TOKEN"


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_new_name_is_a_command_and_old_name_is_not(old: str, new: str) -> None:
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    group, name = new.split()
    inner = root.commands[group]
    assert isinstance(inner, click.Group)
    assert name in inner.commands
    assert old not in root.commands
    assert old not in root.get_help(click.Context(root)).split()
