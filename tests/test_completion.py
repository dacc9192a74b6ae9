"""The command line in a shell and a terminal: completion, examples, colours."""

import json
import os
import pty
import re
import select
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from needs import needed

from ynet_client.commands import examples as client_examples
from ynet_client.commands.cli import app as client_app
from ynet_lab import examples as lab_examples
from ynet_lab.cli import app as lab_app
from ynet_server.commands import examples as server_examples
from ynet_server.commands.cli import app as server_app

PROGRAMS = {
    "ynet-server": (server_app, server_examples.EXAMPLES),
    "ynet-client": (client_app, client_examples.EXAMPLES),
    "ynet-lab": (lab_app, lab_examples.EXAMPLES),
}
WITHIN_S = 60.0
PLAN = "a1" * 32


def every_command(command: click.Command, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every_command(inner, f"{prefix} {name}".strip())
    else:
        yield prefix, command


EVERY = {program: dict(every_command(typer.main.get_command(app))) for program, (app, _) in PROGRAMS.items()}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_commands_help_shows_an_example(program: str) -> None:
    _, examples = PROGRAMS[program]
    assert set(EVERY[program]) == set(examples)
    for name, command in EVERY[program].items():
        assert command.epilog is not None
        assert all(line in command.epilog for line in examples[name])


@pytest.mark.parametrize(
    "line", [line for _, examples in PROGRAMS.values() for lines in examples.values() for line in lines]
)
def test_every_example_parses(line: str) -> None:
    program, *words = shlex.split(line)
    name = next(name for name in EVERY[program] if words[: len(name.split())] == name.split())
    EVERY[program][name].make_context(name, words[len(name.split()) :])  # raises the error that a user would see


# --- shells


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Prepare a machine with two joined sites, one with a pending plan, and a server with two runs."""
    data = tmp_path_factory.mktemp("data")
    for site in ("Aarau", "Bern"):
        home = data / "ynet/sites" / site
        (home / "plans").mkdir(parents=True)
        (home / "membership.json").write_text("{}")
    (data / "ynet/sites/Bern/plans" / f"{PLAN}.json").write_text("{}")
    (data / "ynet/server").mkdir()
    with closing(sqlite3.connect(data / "ynet/server/registry.sqlite")) as registry:
        registry.executescript(
            "CREATE TABLE sites (name); INSERT INTO sites VALUES ('Bern'), ('Chur');"
            "CREATE TABLE runs (id, status); INSERT INTO runs VALUES (41, 'finished'), (42, 'running');"
        )
    programs = data / "bin"
    programs.mkdir()
    for program in PROGRAMS:
        module = program.replace("-", "_") + ("" if program == "ynet-lab" else ".commands")
        (programs / program).write_text(f"#!{sys.executable}\nfrom {module}.cli import main\nmain()\n")
        (programs / program).chmod(0o755)
    return {
        **{key: value for key, value in os.environ.items() if key not in ("YNET_HOME", "NO_COLOR")},
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(sys.path),
        "XDG_DATA_HOME": str(data),
        "HOME": str(data),
        "TERM": "xterm-256color",
    }


CASES = [
    ("ynet-client egr", "egress"),
    ("ynet-server audit ver", "verify"),
    ("ynet-client status --site Aa", "Aarau"),
    ("ynet-client plan accept --site Bern a1", PLAN),
    ("ynet-server revoke Ch", "Chur"),
    ("ynet-server cancel 4", "42"),
    ("ynet-server encoder add --name conv", "convnext_tiny"),
]


@pytest.mark.parametrize(("line", "completed"), CASES)
def test_bash_completes(line: str, completed: str, surroundings: Mapping[str, str]) -> None:
    program, *words = line.split()
    script = (
        f'eval "$({program} --show-completion)"\n'
        f"COMP_WORDS=({line}); COMP_CWORD={len(words)}\n"
        f"$(complete -p {program} | sed 's/.*-F \\([^ ]*\\) .*/\\1/') {program}\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run([needed("bash"), "-c", script], env=surroundings, capture_output=True, text=True, check=True)
    assert completed in done.stdout.splitlines(), done.stderr


def test_completion_installs_itself(surroundings: Mapping[str, str], tmp_path: Path) -> None:
    script = (
        "ynet-client --install-completion >/dev/null\n"
        'source "$HOME/.bashrc"; complete -p ynet-client; ynet-client --install-completion >/dev/null\n'
        'grep -c ynet-client "$HOME/.bashrc"'
    )
    own = {**surroundings, "HOME": str(tmp_path)}
    done = subprocess.run([needed("bash"), "-c", script], env=own, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "1"  # a second installation changes nothing
    assert "_ynet_client_completion ynet-client" in done.stdout


@pytest.mark.parametrize(("line", "completed"), CASES)
def test_fish_completes(line: str, completed: str, surroundings: Mapping[str, str]) -> None:
    program = line.split()[0]
    script = f"{program} --show-completion | source; complete -C '{line}'"
    done = subprocess.run([needed("fish"), "-c", script], env=surroundings, capture_output=True, text=True, check=True)
    assert completed in [found.split("\t")[0] for found in done.stdout.splitlines()], done.stderr


def test_zsh_completes(surroundings: Mapping[str, str]) -> None:
    """Type on a terminal with the tab key: zsh offers no other way."""
    with Terminal([needed("zsh"), "-f", "-i"], surroundings) as zsh:
        zsh.type("unsetopt zle_bracketed_paste; PS1='prompt> '\n")
        zsh.type("autoload -U compinit && compinit -u -D\n")
        for program in PROGRAMS:
            zsh.type(f'eval "$({program} --show-completion)" && echo loaded {program[5:]}"."\n')
            zsh.wait(f"loaded {program[5:]}.")
        for line, completed in CASES[:5]:  # the last has two
            zsh.type(f"{line}\t")
            zsh.wait(completed)
            zsh.type("\x15")  # clear the line


class Terminal:
    """A program on its own pseudo-terminal."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.shown = ""
        self._child, self._end = pty.openpty()
        self._process = subprocess.Popen(
            command, env=environment, stdin=self._end, stdout=self._end, stderr=self._end, start_new_session=True
        )
        os.close(self._end)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._child)

    def type(self, keys: str) -> None:
        os.write(self._child, keys.encode())

    def wait(self, word: str) -> None:
        """Wait until a text appears after the last awaited one."""
        until = time.monotonic() + WITHIN_S
        while word not in self.shown:
            assert time.monotonic() < until, self.shown
            self._read(0.1)
        self.shown = self.shown.partition(word)[2]

    def all(self) -> str:
        """Return all output until the program has ended."""
        while self._process.poll() is None:
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.shown

    def _read(self, within_s: float) -> bool:
        if not select.select([self._child], [], [], within_s)[0]:
            return False
        try:
            data = os.read(self._child, 65536)
        except OSError:  # the other end is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


# --- speed and display


def test_completion_and_help_import_nothing_slow() -> None:
    """Slow imports take half a second and more. The test checks the modules, since seconds depend on the machine."""
    slow = ("torch", "numpy", "pydantic", "httpx", "starlette", "uvicorn", "grpc", "flwr", "cryptography", "asyncio")
    for module in ("ynet_client.commands.cli", "ynet_server.commands.cli"):
        script = f"import sys, {module}; print([name for name in {slow!r} if name in sys.modules])"
        assert (
            subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
            == "[]"
        )


COLOUR = re.compile(r"\x1b\[[0-9;]*(?:3[0-7]|9[0-7])(?:;[0-9]+)*m")


def test_colours_only_on_a_terminal_that_wants_them(
    surroundings: Mapping[str, str],
) -> None:
    command = [sys.executable, "-m", "ynet_client", "join", "--help"]
    with Terminal(command, surroundings) as seen:
        assert COLOUR.search(seen.all())
    with Terminal(command, {**surroundings, "NO_COLOR": "1"}) as seen:
        shown = seen.all()
        assert "coordinator's invitation" in shown
        assert not COLOUR.search(shown)
    piped = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True).stdout
    assert "\x1b" not in piped


def test_rounds_are_a_progress_bar_on_a_terminal_else_lines(
    surroundings: Mapping[str, str],
) -> None:
    script = (
        "import time\nfrom ynet_server.commands.run_tables import shown\nwith shown(is_quiet=False) as show:\n"
        "  for number in (1, 2, 3):\n"
        "    show({'time': 0, 'kind': 'round', 'round': number, 'rounds': 9, 'seconds': 1.0, 'sites': {}})\n"
        "    time.sleep(0.3)\n"
    )
    with Terminal([sys.executable, "-c", script], surroundings) as seen:
        shown = seen.all()
    assert "round 3/9" in shown
    assert re.search(r"[23]/9.*left.*0:00:0\d", shown)
    piped = subprocess.run([sys.executable, "-c", script], env=surroundings, capture_output=True, text=True, check=True)
    assert len(piped.stdout.splitlines()) == 3
    assert "\x1b" not in piped.stdout


# --- settings


def settings(module: str, home: Path, surroundings: Mapping[str, str], *more: str) -> dict[str, Any]:
    home.mkdir(exist_ok=True)
    (home / "membership.json").touch()  # which makes it the home of a site
    command = [sys.executable, "-m", module, "config", "show", "--json", *more]
    environment = {**surroundings, "YNET_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    shown = json.loads(done.stdout)
    return {**shown, **{one["key"]: (one["value"], one["source"]) for one in shown["settings"]}}


def test_every_setting_shows_its_source(tmp_path: Path, surroundings: Mapping[str, str]) -> None:
    from ynet_client import settings as client_settings

    home, file = tmp_path / "home", tmp_path / "client.yaml"
    home.mkdir()
    file.write_text("# mine\nthreads: 3\npolicy:\n  min_sites: 2\n")
    client_settings.load(home, file, data="/data/manifest.csv", device=None)
    shown = settings("ynet_client", home, surroundings)
    assert shown["home_source"] == "environment: YNET_HOME"
    assert shown["threads"] == (3, f"{file} line 2")
    assert shown["policy.min_sites"] == (2, f"{file} line 4")
    assert shown["data"] == ("/data/manifest.csv", "--data")
    assert shown["device"] == ("auto", "default")
    assert client_settings.read(home).threads == 3

    client_settings.load(home, None, threads=1)  # the next start, with a flag
    remembered = home / "client.yaml"
    remembered.write_text(remembered.read_text().replace("device: auto", "device: cpu"))  # edited by hand
    shown = settings("ynet_client", home, surroundings)
    assert shown["threads"] == (1, "--threads")
    assert shown["policy.min_sites"] == (2, f"{file} line 4")
    assert shown["device"][0] == "cpu"
    assert shown["device"][1].startswith(f"{remembered} line ")


@pytest.mark.parametrize("part", ["server", "client"])
def test_default_settings_are_read_from_the_users_folder(
    part: str, tmp_path: Path, surroundings: Mapping[str, str]
) -> None:
    config = tmp_path / "config/ynet" / f"{part}.yaml"
    config.parent.mkdir(parents=True)
    config.write_text({"server": "max_model_mb: 5\n", "client": "cache_mb: 5\n"}[part])
    shown = settings(f"ynet_{part}", tmp_path / "home", {**surroundings, "XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert (5, f"{config} line 1") in shown.values()
    other = tmp_path / "other.yaml"
    other.write_text("{}\n")
    shown = settings(f"ynet_{part}", tmp_path / "home", surroundings, "--config", str(other))
    assert {source for value, source in (v for v in shown.values() if isinstance(v, tuple))} == {"default"}
