"""The documentation's site, built as `make docs` builds it, and the tutorial's commands, run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from needs import needed

from ynet.data.synthetic import make_federation

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs/tutorial/first-query.md"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text("utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text), page.name
        assert not re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(?:https?:)?//', text), page.name


def test_navigation_has_every_page(site: Path) -> None:
    start = (site / "index.html").read_text("utf-8")
    pages = [page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f'href="{page}"' not in start] == []


def test_first_query_tutorial_ends_with_an_answer(tmp_path: Path) -> None:
    """Run every command of the tutorial as it is written, except `make setup`."""
    blocks = re.findall(r"^```\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks[0].startswith("make setup\nexport PATH=$PWD/.venv/bin:$PATH\n")
    make_federation(tmp_path / "first", {"cases": 60}, seed=1)
    first_image = sorted((tmp_path / "first/cases/images").iterdir())[0].name
    script = "".join(blocks).removeprefix("make setup\nexport PATH=$PWD/.venv/bin:$PATH\n")
    script = script.replace("first/cases/images/0001.png", f"first/cases/images/{first_image}")
    # The default ports may be taken on this machine.
    (tmp_path / "first/server").mkdir(mode=0o700)
    (tmp_path / "first/server/server.yaml").write_text("listen: {host: 127.0.0.1, hub_port: 0, enrolment_port: 0}\n")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # Job control, as in a terminal: a job is then all the processes of its pipe.
    script = f"set -meu\ntrap 'kill %1 %2; wait' EXIT\n{script}"
    done = run_script(script, tmp_path, environment)
    logs = "".join(path.read_text("utf-8") for path in (tmp_path / "first").glob("*.txt"))
    assert done.returncode == 0, f"{done.stdout}{logs}"
    assert (tmp_path / "first/result.png").stat().st_size > 10_000
    assert "nearest cases to" in done.stdout


def run_script(script: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script of bash; after 280 s, end it with everything that it has started."""
    command = [needed("bash"), "-c", script]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as started:
        try:
            shown, _ = started.communicate(timeout=280)
        except subprocess.TimeoutExpired:
            for process in [*psutil.Process(started.pid).children(recursive=True), started]:
                process.kill()
            raise
    return subprocess.CompletedProcess(command, started.returncode, shown)
