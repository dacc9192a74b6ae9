"""Users without a home directory: containers with a random user number, services without HOME."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from needs import needed

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes of other users")
UNKNOWN = "47114"
EACH_COMMAND = """
import io, os, sys
import click, torch, typer  # torch: once, and not in each command
import {package}.commands.cli as cli
from ynet.runtime import terminal

def commands(group, words=()):
    for name, command in group.commands.items():
        inner = (*words, name)
        yield from commands(command, inner) if isinstance(command, click.Group) else [(command, inner)]

def given(parameter):
    value = {{"integer": "1", "float": "1", "choice": None}}.get(parameter.type.name, "x")
    value = value or parameter.type.choices[0]
    return [value] if isinstance(parameter, click.Argument) else [parameter.opts[0], value]

for command, words in commands(typer.main.get_command(cli.app)):
    needed = [word for parameter in command.params if parameter.required for word in given(parameter)]
    sys.argv = ["{package}", *words, *needed]
    print("==", *sys.argv, flush=True)
    if (child := os.fork()) == 0:
        os.dup2(1, 2)
        terminal.run(cli.app)
        os._exit(0)
    print("code", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def as_unknown(*command: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user without an entry, in an empty environment; that user may read this Python."""
    rights = ("--clear-groups", "--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    return subprocess.run(
        [needed("setpriv"), "--reuid", UNKNOWN, "--regid", UNKNOWN, *rights, *map(str, command)],
        env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        stdin=subprocess.DEVNULL,
    )


@as_root
@pytest.mark.parametrize("package", ["ynet_client", "ynet_server"])
def test_no_command_of_a_user_without_a_home_ends_in_a_traceback(package: str) -> None:
    done = as_unknown(sys.executable, "-c", EACH_COMMAND.format(package=package))
    said = [part.partition("\n") for part in done.stdout.split("== ")[1:]]
    assert len(said) >= 20, done.stderr
    for command, _, output in said:
        assert "Traceback" not in output, f"{command}\n{output}"
        assert "a fault of ynet" not in output, f"{command}\n{output}"
        assert output.splitlines()[-1] in ("code 2", "code 4", "code 0"), f"{command}\n{output}"
    homeless = [command for command, _, output in said if "this user has no home directory" in output]
    assert {f"{package} status", f"{package} config show"} <= set(homeless)


@as_root
@pytest.mark.parametrize("program", ["ynet-client", "ynet-server"])
def test_the_program_says_what_to_set_in_three_lines(program: str) -> None:
    done = as_unknown(Path(sys.executable).with_name(program), "status")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: this user has no home directory",
        f"  why: HOME is not set, and the system has no user with the id {UNKNOWN}",
        "   do: export HOME=DIR, a folder that this user may write to; ynet's own folder alone: --home, or YNET_HOME",
    ]


@as_root
def test_a_home_that_cannot_be_written_is_named_in_three_lines() -> None:
    done = as_unknown(Path(sys.executable).with_name("ynet-server"), "start", HOME="/nonexistent")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "error: the home folder /nonexistent/.local/share/ynet/server cannot be used"


@as_root
def test_a_run_of_an_unknown_user_without_home_trains_and_answers() -> None:
    story = Path(__file__).parents[2] / "story"
    paths = os.pathsep.join(map(str, (story, story.parents[1] / "deploy")))
    with TemporaryDirectory() as folder:  # not `tmp_path`, which nobody else may enter
        os.chown(folder, int(UNKNOWN), int(UNKNOWN))
        done = as_unknown(sys.executable, story / "homeless.py", folder, OMP_NUM_THREADS="1", PYTHONPATH=paths)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "hits 10\n"
