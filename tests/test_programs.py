"""On a machine without the programs that tests start nothing fails, and the run names what was skipped."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from needs import needed
from programs import COMMAND

ROOT = Path(__file__).parents[1]
STARTS = {*(f"subprocess.{name}" for name in ("run", "Popen", "call", "check_call", "check_output"))}
STARTS |= {"asyncio.create_subprocess_exec", "os.system"}
LACKING = {
    "tests/deploy/test_systemd.py": "systemd-analyze",
    "tests/story/test_clocks.py": "cc",
    "tests/story/test_orthanc.py": "Orthanc",
    "tests/story/test_status_page.py": "chromium",
    "tests/test_completion.py::test_bash_completes": "bash",
    "tests/test_completion.py::test_fish_completes": "fish",
    "tests/test_completion.py::test_zsh_completes": "zsh",
    "tests/test_metrics.py::test_promtool_finds_no_fault_in_the_rules": "promtool",
    "tests/ynet/data/dicom/test_frame.py::test_lossless_compression_decodes_to_the_same_colours": "dcmcrle",
    "tests/ynet/search/test_scan.py::test_wheel_has_compiled_scan_where_there_is_a_compiler": "cc",
    "tests/ynet/runtime/test_terminal.py::test_a_reader_that_goes_away_ends_a_command_quietly": "sh",
}
Done = subprocess.CompletedProcess[str]


def without_programs(empty: Path, *command: object) -> Done:
    """Run a Python command with an empty folder as PATH."""
    environment = {**os.environ, "PATH": str(empty)}
    line = [sys.executable, *map(str, command)]
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_empty_path_skips_tests_and_names_the_install_command(
    tmp_path: Path,
) -> None:
    done = without_programs(tmp_path, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *LACKING)
    assert done.returncode == 0, done.stdout + done.stderr
    total, how_many, how = done.stdout.splitlines()[-3:]
    skipped = int(re.findall(r"(\d+) skipped", total)[0])
    assert how_many.startswith(f"{skipped} tests were skipped, because these are missing here: ")
    assert set(how_many.partition(": ")[2].split(", ")) >= set(LACKING.values())
    assert how.startswith(f"`{COMMAND}` installs Debian's packages bash chromium dash dcmtk fish gcc ")
    assert all(re.search(rf"^SKIPPED .*missing here: .*\b{name}\b", done.stdout, re.M) for name in LACKING.values())


def test_no_skips_makes_a_missing_program_a_failure(tmp_path: Path) -> None:
    some = "tests/test_completion.py::test_zsh_completes", "tests/ynet/learning/test_cuda.py"
    done = without_programs(tmp_path, "-m", "pytest", "-p", "no:cacheprovider", "--no-skips", *some)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "missing here: zsh, and nothing may be skipped (--no-skips)" in done.stdout
    assert re.search(r"^1 failed, \d+ (skipped|passed)", done.stdout.splitlines()[-1])  # GPU tests may still be skipped


def test_script_names_missing_programs_without_root(tmp_path: Path) -> None:
    for flags, exit_code in (((), 0), (("--all",), 1)):
        done = without_programs(tmp_path, "tests/programs.py", *flags, "zsh", "fish", "ensurepip")
        assert done.returncode == exit_code
        assert done.stdout == f"Missing here: zsh, fish\n`{COMMAND}` installs Debian's packages fish zsh\n"
    assert without_programs(tmp_path, "tests/programs.py", "--all", "ensurepip").stdout == ""


def test_change_check_allows_no_skips() -> None:
    lines = (ROOT / ".ci/run").read_text("utf-8").splitlines()
    tests = [line for line in lines if re.match(r"\s*make test", line)]
    assert len(tests) == 2
    assert all(line.endswith(" SKIPS=0") for line in tests)
    command = [needed("make"), "--dry-run", "test", "SKIPS=0"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "tests/programs.py --all" in shown.stdout
    assert re.search(r"pytest .*--no-skips", shown.stdout)


def test_tests_start_programs_only_through_needed() -> None:
    """A bare `"fish"` fails where fish is missing; `needed("fish")` skips."""
    others = {ROOT / "tests/programs.py", *(ROOT / "tests/benchmarks").rglob("*.py")}
    sources = set((ROOT / "tests").rglob("*.py")) - others
    assert len(sources) > 100
    bare = [f"{path.relative_to(ROOT)}:{line}" for path in sorted(sources) for line in _bare_starts(path)]
    assert not bare, f'write needed("...") there, of tests/needs.py: {", ".join(bare)}'


def _bare_starts(path: Path) -> Iterator[int]:
    """Yield lines that search for a program, or start one by its bare name."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    for call in nodes:
        name = ast.unparse(call.func) if isinstance(call, ast.Call) else ""
        is_bare = name in STARTS and call.args and any(map(_is_bare, _values(call.args[0], nodes)))
        if is_bare or name == "shutil.which":
            yield call.lineno


def _values(of: ast.expr, nodes: list[ast.AST]) -> list[ast.expr]:
    """Return the expression, or the values that a name is set to in the file."""
    if not isinstance(of, ast.Name):
        return [of]
    sets = [node for node in nodes if isinstance(node, ast.Assign)]
    return [one.value for one in sets for to in one.targets if isinstance(to, ast.Name) and to.id == of.id]


def _is_bare(command: ast.expr) -> bool:
    first = command.elts[0] if isinstance(command, ast.List | ast.Tuple) and command.elts else command
    return isinstance(first, ast.Constant) and isinstance(first.value, str)
