"""Writes the worked examples of docs/contributing into their pages: python tests/contributing_examples.py [--write].

An example is a list of edits, each at an anchor in today's sources; the pages show them as one unified diff between the
marks `<!-- example NAME -->` and `<!-- end of example -->`. When the sources change around an anchor, the script makes
the diff again; when an anchor is gone, it says which. tests/test_contributing.py applies and runs what the pages show.
Without `--write` the exit code is 1 when a page shows another diff.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/contributing"
CONTEXT = 1  # lines around a change: the fewer, the fewer changes elsewhere touch them


class Edit(NamedTuple):
    """`text` put before or after an anchor, which stands once in the file."""

    file: str
    anchor: str
    text: str
    is_before: bool = False


class New(NamedTuple):
    """A file that is not there yet."""

    file: str
    text: str


class Example(NamedTuple):
    """A change that a page shows, and the tests that show that it works."""

    page: str
    edits: tuple[Edit | New, ...]
    tests: tuple[str, ...]


STRATEGY = Example(
    "new-strategy.md",
    (
        Edit("ynet/strategy_options.py", '    "fedavg",\n', '    "fedavgsqrt",\n'),
        Edit("ynet/strategy_options.py", '    "fedavg": frozenset(),\n', '    "fedavgsqrt": frozenset(),\n'),
        Edit(
            "server/ynet_server/rounds/strategies.py",
            "from collections.abc import ",
            "import math\n",
            is_before=True,
        ),
        Edit(
            "server/ynet_server/rounds/strategies.py",
            "STRATEGIES: dict[",
            '''
class FedAvgSqrt(FedAvg):
    """FedAvg in which a site weighs as the square root of its cases, so that a large site leads less."""

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        """Take the root of each site's cases, then average as FedAvg does."""
        weighed = list(replies)
        for reply in weighed:
            figures = reply.content.metric_records[METRICS]
            figures[CASES] = math.sqrt(figures[CASES])  # type: ignore[arg-type]
        return super().aggregate_train(server_round, weighed)


''',
            is_before=True,
        ),
        Edit("server/ynet_server/rounds/strategies.py", '    "fedavg": FedAvg,\n', '    "fedavgsqrt": FedAvgSqrt,\n'),
        Edit("server/ynet_server/rounds/strategies.py", "from collections.abc import Callable, ", "Iterable, "),
        Edit("server/ynet_server/rounds/strategies.py", "from typing import ", "Any, "),
        New(
            "tests/server/rounds/test_square_root.py",
            '''"""The strategy that weighs sites by the square root of their cases, in a whole run over the hub."""

from pathlib import Path

import numpy as np
from loopback import tiny_app
from tiny_runs import model, plan, run


def test_fedavgsqrt_weighs_sites_by_square_root_of_cases(tmp_path: Path) -> None:
    cases = {"A": 100, "B": 400}
    sites = {"A": tiny_app(lambda _, flat: flat + 1, cases["A"]), "B": tiny_app(lambda _, flat: flat + 7, cases["B"])}
    folder = run(tmp_path, plan(rounds=2, strategy="fedavgsqrt"), sites, cases)
    change = (10 * 1 + 20 * 7) / (10 + 20)
    np.testing.assert_allclose(model(folder), 2 * change, rtol=1e-6)
''',
        ),
    ),
    ("tests/server/rounds/test_square_root.py",),
)

LOSS = Example(
    "new-loss.md",
    (
        Edit("ynet/plan_sections.py", 'Recipe = Literal["default", ', '"cosine", '),
        Edit("ynet/plan_sections.py", 'SEPARABLE = frozenset({"default", ', '"cosine", '),
        Edit(
            "ynet/learning/losses.py",
            "CODE_LOSSES: dict[",
            """def _cosine(plan: Plan, device: torch.device) -> CodeLoss:
    targets = codebook(len(plan.classes), plan.network.code_bits, plan.network.codebook_seed).to(device)
    return lambda output, batch: 1 - F.cosine_similarity(output.code, targets[batch.label])


""",
            is_before=True,
        ),
        Edit("ynet/learning/losses.py", '    "csq": _csq,\n', '    "cosine": _cosine,\n', is_before=True),
        New(
            "tests/ynet/learning/test_cosine.py",
            '''"""The loss `1 - cos(code, target)`."""

from typing import Any

import torch

from ynet.learning.losses import loss_of
from ynet.learning.model import build

CPU = torch.device("cpu")


def test_cosine_loss_of_a_sample_does_not_depend_on_the_others(make_plan: Any, make_cases: Any) -> None:
    """What a private plan needs: SEPARABLE names the recipe."""
    plan = make_plan(recipe="cosine")
    net, loss, batch = build(plan), loss_of(plan, CPU), make_cases(6).batch(torch.arange(6))
    half = type(batch)(*(part[:3] for part in batch))
    whole, first = loss(net(batch.image), batch).total, loss(net(half.image), half).total
    torch.testing.assert_close(whole[:3], first)


def test_cosine_loss_lies_between_zero_and_two(make_plan: Any, make_cases: Any) -> None:
    plan = make_plan(recipe="cosine")
    batch = make_cases(6).batch(torch.arange(6))
    found = loss_of(plan, CPU)(build(plan)(batch.image), batch).classification
    assert ((found >= 0) & (found <= 2)).all()
''',
        ),
    ),
    ("tests/ynet/learning/test_cosine.py", "tests/ynet/test_network_size.py"),
)

FORMAT = Example(
    "new-image-format.md",
    (
        Edit("ynet/data/opening.py", '    "PNG": (b"\\x89PNG",),\n', '    "BMP": (b"BM",),\n', is_before=True),
        New(
            "tests/ynet/data/test_bmp.py",
            '''"""BMP, which old ultrasound machines save."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ynet.data.images import decode
from ynet.errors import UserError


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_bmp_is_read_as_the_same_pixels_in_png(tmp_path: Path, mode: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (20, 30) if mode == "L" else (20, 30, 3), np.uint8)
    for name in ("image.bmp", "image.png"):
        Image.fromarray(values).save(tmp_path / name)
    np.testing.assert_array_equal(decode(tmp_path / "image.bmp", 1), decode(tmp_path / "image.png", 1))


def test_bmp_cut_short_is_refused_in_words(tmp_path: Path) -> None:
    Image.new("L", (64, 64)).save(tmp_path / "whole.bmp")
    (tmp_path / "cut.bmp").write_bytes((tmp_path / "whole.bmp").read_bytes()[:900])
    with pytest.raises(UserError, match="damaged or cut short"):
        decode(tmp_path / "cut.bmp", 1)
''',
        ),
    ),
    ("tests/ynet/data/test_bmp.py",),
)

PAGE = Example(
    "new-page.md",
    (
        Edit(
            "server/ynet_server/status/app.py",
            "    return web.application(",
            """    async def runs(request: Request) -> Response:
        data, _ = kept.now()
        return web.page(request, "runs.html", runs=json.loads(data)["runs"])

""",
            is_before=True,
        ),
        Edit("server/ynet_server/status/app.py", 'Route("/", page), ', 'Route("/runs", runs), '),
        New(
            "server/ynet_server/status/templates/runs.html",
            """{% extends "frame.html" %}
{% block kind %}status{% endblock %}
{% block head %}<link rel="stylesheet" href="{{ assets }}/status.css">{% endblock %}
{% block main %}
<section class="card">
  <h1>Runs</h1>
  <table>
    <tr><th>run</th><th>plan</th><th>status</th></tr>
    {% for run in runs %}
    <tr><td>{{ run.id }}</td><td>{{ run.name }}</td><td>{{ run.status }}</td></tr>
    {% endfor %}
  </table>
</section>
{% endblock %}
""",
        ),
        New(
            "tests/server/test_runs_page.py",
            '''"""The page of all runs: behind the sign-in, and whatever a plan is called."""

import asyncio
import time
from pathlib import Path

import httpx

from ynet.web.accounts import Accounts
from ynet.web.public_address import PublicAddress
from ynet_server.status.app import application

NAME, PASSWORD, URL = "weber", "a lamp, a river and 7 stones", "https://127.0.0.1"
STATE = {"runs": [{"id": 3, "name": "<b>liver</b>", "status": "finished"}]}


def test_runs_page_lists_runs_after_sign_in_and_escapes_names(tmp_path: Path) -> None:
    Accounts(tmp_path).add(NAME, "admin", PASSWORD, time.time())
    app = httpx.ASGITransport(application(tmp_path, lambda: STATE, PublicAddress("", (), ("127.0.0.1",))))

    async def visit() -> None:
        headers = {"origin": URL, "accept": "text/html"}
        async with httpx.AsyncClient(transport=app, base_url=URL, headers=headers) as http:
            assert (await http.get("/runs")).status_code == 303
            await http.post("/login", data={"name": NAME, "password": PASSWORD})
            page = await http.get("/runs")
            assert page.status_code == 200
            assert "finished" in page.text
            assert "&lt;b&gt;liver&lt;/b&gt;" in page.text

    asyncio.run(visit())
''',
        ),
    ),
    ("tests/server/test_runs_page.py",),
)

EXAMPLES = {"strategy": STRATEGY, "loss": LOSS, "format": FORMAT, "page": PAGE}


def diff(example: Example) -> str:
    """Return the example as a unified diff of today's sources. Raises LookupError where an anchor is not there once."""
    return "".join(part for file in dict.fromkeys(edit.file for edit in example.edits) for part in _of(example, file))


def _of(example: Example, file: str) -> Iterator[str]:
    old, new = (ROOT / file).read_text("utf-8") if (ROOT / file).exists() else "", None
    for edit in example.edits:
        if edit.file == file:
            new = edit.text if isinstance(edit, New) else _edited(old if new is None else new, edit)
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        (new or "").splitlines(keepends=True),
        f"a/{file}" if old else "/dev/null",
        f"b/{file}",
        n=CONTEXT,
    )
    yield f"diff --git a/{file} b/{file}\n" + ("" if old else "new file mode 100644\n")
    yield from (line if line.endswith("\n") else line + "\n" for line in lines)


def _edited(text: str, edit: Edit) -> str:
    if text.count(edit.anchor) != 1:
        found = text.count(edit.anchor)
        raise LookupError(f"{edit.file} has {edit.anchor!r} {found} times, not once: mend the example in {__file__}")
    return text.replace(edit.anchor, edit.text + edit.anchor if edit.is_before else edit.anchor + edit.text)


def block(name: str) -> re.Pattern[str]:
    """Where a page shows an example; the group is its diff."""
    return re.compile(rf"(?<=<!-- example {name} -->\n\n```diff\n)(.*?)(?=```\n\n<!-- end of example -->)", re.DOTALL)


def shown(name: str) -> str:
    """Return the diff that a page shows. Raises LookupError when it shows none."""
    found = block(name).search((PAGES / EXAMPLES[name].page).read_text("utf-8"))
    if found is None:
        raise LookupError(f"docs/contributing/{EXAMPLES[name].page} has no example {name}")
    return found[1]


def main() -> int:
    """Compare or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the diffs of today's sources into the pages")
    asked, other = parser.parse_args(), list[str]()
    for name, example in EXAMPLES.items():
        made, page = diff(example), PAGES / example.page
        if shown(name) != made:
            other.append(example.page)
            if asked.write:
                page.write_text(block(name).sub(lambda _, made=made: made, page.read_text("utf-8")), "utf-8")
    print("\n".join(f"docs/contributing/{page}: {'written' if asked.write else 'another diff'}" for page in other))
    return 0 if asked.write else len(other) and 1


if __name__ == "__main__":
    sys.exit(main())
