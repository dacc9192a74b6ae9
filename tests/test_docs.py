"""Compare the documentation with the code."""

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import torch
import typer

from ynet import config, errors
from ynet import plan as plans
from ynet.config import parse, read_yaml
from ynet.data import images, manifest
from ynet.data.report import Problem, Report
from ynet.federation import content, protocol
from ynet.learning.model import build
from ynet.network_size import MOST_VALUES
from ynet.plan import Plan
from ynet.search.hit import Hit
from ynet_client import egress
from ynet_client.commands.cli import app as client_app
from ynet_client.connection.tasks import LARGE_BYTES, MOST_LARGE
from ynet_client.connection.transfers import AGAIN_PART_BYTES
from ynet_client.control_routes import ASK_WITHIN_S
from ynet_client.gallery.gallery_results import Stats
from ynet_client.retrieval.noise import Noise
from ynet_client.retrieval.results import Answer, ConsultRequest
from ynet_client.settings import ClientSettings
from ynet_lab.cli import app as lab_app
from ynet_server import ports
from ynet_server.authority import enrolment, renewal
from ynet_server.commands import run_tables
from ynet_server.commands.cli import app as server_app
from ynet_server.hub import connections, greeting, hub, tasks, transfers
from ynet_server.hub.front import BOUNDS
from ynet_server.hub.limits import RATES
from ynet_server.settings import ServerSettings
from ynet_server.training_records import PublishedModel, Run

ROOT = Path(__file__).parents[1]
PROGRAMS = {"ynet-server": server_app, "ynet-client": client_app, "ynet-lab": lab_app}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND = re.compile(r"(ynet-(?:server|client|lab)) ([a-z][^\n`|]*)")


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for program, rest in COMMAND.findall(page.read_text("utf-8")):
            yield program, re.split(r"[(),]", rest)[0].strip()


@pytest.mark.parametrize(("program", "rest"), sorted(set(commands())))
def test_documented_command_exists_with_its_flags(program: str, rest: str) -> None:
    command: Any = typer.main.get_command(PROGRAMS[program])
    words = rest.split()
    while isinstance(command, click.Group) and words:
        assert words[0] in command.commands, f"{program} has no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    known = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    for word in words:
        if word.startswith("-") and word != "-":  # the value that means stdin
            assert word.split("=")[0] in known, f"{program}: {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_link_has_a_target(page: Path) -> None:
    for target, _, heading in re.findall(r"\]\(([^)#]*)(#([^)]+))?\)", page.read_text("utf-8")):
        led_to = page.parent / target if target else page
        assert led_to.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", led_to.read_text("utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}, heading


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_file_exists(page: Path) -> None:
    for name in re.findall(
        r"`((?:tests|ynet|ynet_server|ynet_client|ynet_lab|client|server|lab|configs)/[\w/.-]+)`",
        page.read_text("utf-8"),
    ):
        places = (ROOT, ROOT / "server", ROOT / "client")
        assert any((place / name).exists() for place in places), name


TEST = re.compile(r"\b(tests/[\w/]+\.py)(?:::(\w+))?|`(test_\w+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_test_exists(page: Path) -> None:
    for file, function, name in TEST.findall(page.read_text("utf-8")):
        if file in made_by_examples():
            continue
        if file:
            assert (ROOT / file).is_file(), file
        if function:
            assert function in names_of_tests(ROOT / file), f"{file}::{function}"
        if name:
            assert any(name in names_of_tests(path) for path in sorted((ROOT / "tests").rglob("test_*.py"))), name


def made_by_examples() -> set[str]:
    """Return the files that the diffs of docs/contributing add."""
    pages = (path.read_text("utf-8") for path in sorted((ROOT / "docs/contributing").glob("*.md")))
    return {file for text in pages for file in re.findall(r"^--- /dev/null\n\+\+\+ b/(\S+)", text, re.MULTILINE)}


def names_of_tests(file: Path) -> set[str]:
    """Return the names of a file's test functions."""
    return set(re.findall(r"^ *def (test_\w+)", file.read_text("utf-8"), re.MULTILINE))


FLOWER = re.compile(r"^(flower-superlink|flower-supernode|flwr supernode register|flwr run) (.*)$", re.MULTILINE)


@pytest.mark.parametrize(
    ("program", "rest"), FLOWER.findall((ROOT / "docs/how-to/superlink.md").read_text("utf-8").replace("\\\n", ""))
)
def test_documented_flower_flag_exists(program: str, rest: str) -> None:
    name, *inner = program.split()
    quiet = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "COLUMNS": "200"}
    script = Path(sys.executable).parent / name
    shown = subprocess.run([script, *inner, "--help"], capture_output=True, text=True, env=quiet, check=True).stdout
    flags = re.findall(r"--[a-z-]+", rest)
    assert flags or inner == ["supernode", "register"]
    for flag in flags:
        assert re.search(rf"{flag}\b(?!-)", re.sub(r"\x1b\[[0-9;]*m", "", shown)), flag


def table(page: str, head: str) -> list[list[str]]:
    """Read the rows of the one table of a page whose head begins like this."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    (start,) = (number for number, line in enumerate(lines) if line.startswith(head))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    return [[one.strip() for one in row.strip("|").split("|")] for row in rows]


def words(cell: str) -> set[str]:
    """Return the texts of a cell that are marked as code."""
    return set(re.findall(r"`([^`]+)`", cell))


def test_egress_page_has_every_class() -> None:
    documented = set().union(*(words(row[0]) for row in table("docs/reference/egress.md", "| class |")))
    assert documented == set(get_args(egress.Class))


def json_sections() -> dict[str, set[str]]:
    """Read docs/reference/json.md: the keys of each command, inner ones too."""
    text = (ROOT / "docs/reference/json.md").read_text("utf-8")
    _, *parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)
    found = {}
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        named = {part for cell in re.findall(r"^\| (`.+?) \|", body, re.MULTILINE) for part in words(cell)}
        keys = {key for one in named for key in re.findall(r"\w+", one)}
        found.update(dict.fromkeys(heading.split(", "), keys))
    return found


def test_json_page_has_the_keys_of_the_code() -> None:
    keys = json_sections()
    assert set(Run._fields) <= keys["ynet-server train"]
    assert {*PublishedModel._fields, "in_use"} <= keys["ynet-server models"]
    assert set(Stats.__annotations__) <= keys["ynet-client status"]
    report = Report((Problem(1, "image", "error", "a", "b"),), 1, 1, {}, 0, {}, {}).to_json()
    assert {*report, *report["problems"][0]} == keys["ynet-client check"]
    hit = Hit(0, b"", None, 1, image="a.png")
    noise = Noise(6.0, 2, 0.5)
    answer = Answer("A", "a.png", (hit,), (), {}, {}, {}, {}, "", "", noise, "").to_json()
    assert {*answer, *answer["hits"][0], *answer["noise"]} == keys["ynet-client query"]
    assert {field.name for field in fields(ConsultRequest)} == keys["ynet-client consult send"]


def test_json_page_has_every_command_that_takes_json() -> None:
    assert set(json_sections()) == set(commands_with("--json"))


def commands_with(flag: str) -> Iterator[str]:
    def below(command: Any, name: str) -> Iterator[str]:
        for word, inner in getattr(command, "commands", {}).items():
            yield from below(inner, f"{name} {word}")
        if any(flag in parameter.opts for parameter in command.params):
            yield name

    for program, app in PROGRAMS.items():
        yield from below(typer.main.get_command(app), program)


def test_run_events_page_has_every_kind() -> None:
    assert {row[0].strip("`") for row in table("docs/reference/run-events.md", "| kind |")} == set(run_tables._LINES)


def test_frequent_error_is_raised_by_the_code() -> None:
    folders = ("ynet", "server/ynet_server", "client/ynet_client", "lab/ynet_lab")
    code = " ".join(path.read_text("utf-8") for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    for cell, *_ in table("docs/how-to/troubleshoot.md", "| it says |"):
        for part in re.split(r"\([34]\)|;|:|\b[A-Z]+\b|'s$", cell.replace("plan FILE: ", "")):
            assert part.strip() in code, part


def test_protocol_page_has_the_limits_of_the_code() -> None:
    shown = {row[0]: row[1] for row in table("docs/reference/protocol.md", "| limit |")}
    for name, text in {
        "greeting after the connection": f"{greeting.HELLO_WITHIN_S:g} s",
        "connections to the hub's port that no site has made a call over": f"{BOUNDS.strangers}, and"
        f" {BOUNDS.of_address} from one address",
        "connections of one site": f"{BOUNDS.of_site};",
        "calls of one site, as many at once and in the long run": f"`Ask` {RATES['Ask'].burst:g}, "
        f"{RATES['Ask'].per_s:g} a second; `Attach` {RATES['Attach'].burst:g}, ",
        "a message of a run, or a model's file": f"{MOST_VALUES:,} at most; of more than"
        f" {LARGE_BYTES >> 20} MiB {MOST_LARGE} ",
        "TLS handshake": f"{ports.HANDSHAKE_MS // 1000} s",
        "calls of one connection at a time": f"{ports.MAX_STREAMS}",
        "one part of a transfer": f"{protocol.CHUNK_BYTES >> 20} MiB",
        "a file that a site fetches": f"{protocol.MAX_BLOB_BYTES >> 20} MiB",
        "transfers of one site at a time": f"{transfers.MAX_TRANSFERS} downloads",
        "tasks that one site works on": f"{protocol.MAX_TASKS}",
        "one part of a resumed transfer": f"{AGAIN_PART_BYTES >> 10} KiB",
        "wait for a site whose connection was lost": f"{tasks.GRACE_S:g} s",
        "how often one task is sent": f"{tasks.MOST_GIVEN}",
        "queries that one site has open": f"{hub.MAX_QUESTIONS}",
        "sites that one query may name": f"{hub.MAX_NAMED}",
        "a query's body": f"{protocol.MAX_QUERY_BYTES} bytes",
        "an answer's body": f"{protocol.MAX_ANSWER_BYTES >> 10} KiB",
        "wait for answers": f"(`ynet-client`: {ASK_WITHIN_S:g} s), at most {protocol.MAX_QUERY_S:g} s",
        "queries that a site answers at a time": f"{protocol.MAX_OPEN_QUERIES}",
        "messages that wait for one site": f"{connections.OUTBOX}",
        "a task's failure, a reason for declining": f"{protocol.MAX_REASON_CHARACTERS} characters",
        "ping of an idle connection, and wait for its answer": f"{protocol.PING_EVERY_MS // 1000} s, "
        f"{protocol.PING_ANSWER_MS // 1000} s",
    }.items():
        assert text in shown[name], name
    read = {row[0]: row[1] for row in table("docs/reference/protocol.md", "| what is read |")}
    for name, text in {
        "plan, settings (YAML)": f"{config.MAX_FILE_BYTES >> 20} MiB",
        "manifest (CSV)": f"{manifest.MAX_FILE_BYTES >> 20} MiB",
        "image": f"{images.MAX_FILE_BYTES >> 20} MiB and {images.MAX_PIXELS // 10**6} million pixels",
        "a message's texts, figures": f"{content.MAX_TEXT_BYTES >> 20} MiB, {content.MAX_METRICS_BYTES >> 10} KiB",
        "a request to enrol, a signing request to renew": f"{enrolment.MAX_REQUEST_BYTES >> 10} KiB, "
        f"{renewal.MAX_CSR_BYTES >> 10} KiB",
    }.items():
        assert text in read[name], name


@pytest.mark.parametrize(("file", "kind"), [("server.yaml", ServerSettings), ("client.yaml", ClientSettings)])
def test_settings_file_shows_the_defaults(file: str, kind: type[Any]) -> None:
    values = read_yaml(ROOT / "configs" / file, "settings")
    assert parse(kind, values, file) == kind()
    assert set(values) == {field.name for field in fields(kind)}


@pytest.mark.parametrize("path", sorted((ROOT / "configs/plans").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_plan_is_valid_and_states_cost_and_score(path: Path) -> None:
    assert plans.read(path).id
    head = path.read_text("utf-8").split("name:")[0]
    assert "minute" in head
    assert "must reach" in head


def test_exit_codes_page_has_every_code() -> None:
    codes = [int(row[0]) for row in table("docs/reference/exit-codes.md", "| code |")]
    ours = (errors.EXIT_OUR_FAULT, errors.EXIT_YOURS, errors.EXIT_REFUSED, errors.EXIT_UNREACHABLE)
    assert codes == [0, *ours, 130]


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1200


def test_network_figure_has_the_shapes_of_the_network() -> None:
    text = (ROOT / "docs/explanation/y-net.md").read_text("utf-8")
    values = {**read_yaml(ROOT / "configs/plans/default.yaml", "plan"), "network": {}}
    net = build(parse(Plan, values, "the figure's plan"))
    modules = (
        "stem",
        "stages.0",
        "stages.1",
        "stages.2",
        "stages.3",
        "pooled.conv",
        "pooled",
        "segmentation",
        "hash",
        "place",
    )
    made: dict[str, tuple[int, ...]] = {}
    for name in modules:
        net.get_submodule(name).register_forward_hook(
            lambda _module, _given, result, name=name: made.update({name: tuple(result.shape[1:])})
        )
    image = torch.zeros(1, 1, 96, 96)
    mask = net(image).mask_logits
    figure = {
        " image,": tuple(image.shape[1:]),
        "stem: conv": made["stem"],
        **{f"stages.{stage} ": made[f"stages.{stage}"] for stage in range(4)},
        "pooled.conv:": made["pooled.conv"],
        "pooled:": made["pooled"],
        "3x3 conv, 1x1 conv": made["segmentation"],
        "mask logits": tuple(mask.shape[1:]),
        "over the predicted lesion": (net.hash.in_features - made["pooled"][0],),
        "hash:": made["hash"],
        "two layers": made["place"],
    }
    lines = text.split("```")[1].splitlines()
    for words, shape in figure.items():
        (line,) = (line for line in lines if words in line)
        assert re.search(rf"\b{' +x +'.join(map(str, shape))}\b(?! +x)", line), f"{words}: {shape}"
    quoted = {
        tuple(map(int, re.findall(r"\d+", found))) for line in lines for found in re.findall(r"\d+(?: +x +\d+)+", line)
    }
    assert quoted <= set(figure.values())
    assert f"{sum(parameter.numel() for parameter in net.parameters()):,} parameters" in text
