"""The documentation's site, built as `make docs` builds it, and the newcomer's path, gone as the README has it."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from needs import needed

from ynet.data.synthetic import make_federation
from ynet.plan import Plan, Training

ROOT = Path(__file__).parents[1]
SECTION = "## From a clone to a first query on your own images"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
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


def test_the_plans_reference_has_every_key_with_its_type_and_explanation(site: Path) -> None:
    text = (site / "reference/plan.html").read_text("utf-8")
    rows = dict(re.findall(r"<tr>\s*<td><code>([\w.]+)</code></td>\s*<td>(.+?)</td>", text))
    assert {field.name for field in fields(Plan)} <= {key.split(".")[0] for key in rows}
    assert {f"training.{field.name}" for field in fields(Training)} <= set(rows)
    assert rows["training.rounds"] == "whole number"
    assert "<code>fedavg</code>" in rows["training.strategy"]


def test_the_list_of_errors_says_what_to_do(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/errors.html").read_text("utf-8"))
    assert "the invitation cannot be read" in text
    assert "choose another --home" in text


def test_the_newcomers_path_ends_with_a_first_query(tmp_path: Path) -> None:
    """Every command between the two headings, as it stands there; only `make setup` has been done already."""
    text = (ROOT / "README.md").read_text("utf-8").partition(SECTION)[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
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
