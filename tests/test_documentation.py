"""The documentation's site, built as `make docs` builds it, and the tutorial's commands, run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_no_page_of_the_site_takes_anything_from_elsewhere(site: Path) -> None:
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
    """Runs every command of the tutorial as it is written, except `make setup`."""
    blocks = re.findall(r"^```\n(.*?)^```$", TUTORIAL.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks[0].startswith("make setup\nexport PATH=$PWD/.venv/bin:$PATH\n")
    make_federation(tmp_path / "first", {"cases": 60}, seed=1)
    first_image = sorted((tmp_path / "first/cases/images").iterdir())[0].name
    script = "".join(blocks).removeprefix("make setup\nexport PATH=$PWD/.venv/bin:$PATH\n")
    script = script.replace("first/cases/images/0001.png", f"first/cases/images/{first_image}")
    # On a port of its own: the ones by default may be taken on this machine.
    (tmp_path / "first/server").mkdir(mode=0o700)
    (tmp_path / "first/server/server.yaml").write_text("listen: {host: 127.0.0.1, hub_port: 0, enrolment_port: 0}\n")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    # With job control, as in a terminal: a job is then all the processes of its pipe.
    script = f"set -meu\ntrap 'kill %1 %2; wait' EXIT\n{script}"
    gone = subprocess.run(
        [needed("bash"), "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280
    )
    logs = "".join(path.read_text("utf-8") for path in (tmp_path / "first").glob("*.txt"))
    assert gone.returncode == 0, f"{gone.stdout}{gone.stderr}{logs}"
    assert (tmp_path / "first/result.png").stat().st_size > 10_000
    assert "nearest cases to" in gone.stdout
