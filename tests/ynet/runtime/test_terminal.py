"""How every command ends: exit codes, three lines, JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from needs import needed

SCRIPT = """
import sys, typer
from ynet.runtime import terminal
from ynet.errors import RefusedError, UnreachableError, UserError

app = typer.Typer()

@app.command()
def main(what: str) -> None:
    match what:
        case "done": terminal.show({"k": ["é", 1]}, as_json=True, human=lambda: "")
        case "text": terminal.show({}, as_json=False, human=lambda: "[bold]as it is[/bold] " + "x" * 300)
        case "table": terminal.show({}, as_json=False, human=lambda: terminal.rows("t", ("a", "b"), [(1, "[red]")]))
        case "yours": raise UserError("a", "b", "c")
        case "refused": raise RefusedError("a", "b", "c")
        case "unreachable": raise UnreachableError("a", "b", "c")
        case "ours": raise ZeroDivisionError("a fault")
        case "pipe":
            for _ in range(100_000): print("x" * 100)

terminal.run(app)
"""


def run(what: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("what", "exit_code"), [("yours", 2), ("refused", 3), ("unreachable", 4)])
def test_a_users_error_is_three_lines_on_stderr_and_its_own_exit_code(what: str, exit_code: int) -> None:
    done = run(what)
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert done.stderr == "error: a\n  why: b\n   do: c\n"


def test_our_own_fault_shows_its_traceback_and_ends_with_1() -> None:
    done = run("ours")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: a fault of ynet: ZeroDivisionError\nTraceback")


def test_json_is_json_and_nothing_else_is_printed() -> None:
    done = run("done")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"k": ["é", 1]}, "")


def test_text_is_printed_as_it_is_without_markup_or_folding() -> None:
    assert run("text").stdout == "[bold]as it is[/bold] " + "x" * 300 + "\n"


def test_what_others_wrote_is_no_markup_in_a_table() -> None:
    assert "[red]" in run("table").stdout


def test_an_unknown_option_is_the_users_error() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, "--no"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_ends_a_command_quietly() -> None:
    pipe = [needed("sh"), "-c", '"$0" -c "$1" pipe | head -n 1', sys.executable, SCRIPT]
    done = subprocess.run(pipe, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "x" * 100 + "\n", "")


def test_a_log_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "import sys, pathlib, logging, ynet.runtime.terminal as t; t.log_to(pathlib.Path(sys.argv[1]))"
    code += "; logging.getLogger('ynet').info('hello')"
    subprocess.run([sys.executable, "-c", code, log], check=True)
    assert log.stat().st_mode & 0o777 == 0o600
    assert "INFO ynet: hello" in log.read_text()


def test_a_log_of_years_does_not_fill_the_disk_and_its_newest_lines_are_kept(tmp_path: Path) -> None:
    script = """
import logging, sys
from pathlib import Path
from ynet.runtime import terminal
terminal.LOG_BYTES = 10_000
terminal.log_to(Path(sys.argv[1]) / "x.log")
for number in range(5_000): logging.getLogger("ynet").info("line %d", number)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 50_000
    assert (tmp_path / "x.log").read_text().splitlines()[-1].endswith("line 4999")
