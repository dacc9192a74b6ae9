"""The coordinator's view: the status page in a real browser, the metrics in a real Prometheus."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from needs import needs
from playwright.sync_api import Page

from browser import chromium, serious, sign_in, window
from hospitals import SITES, small_plan
from prometheus import Prometheus, free_ports, prometheus
from ynet.data.manifest import find_sites, read
from ynet_lab.trial import Trial, environment

pytestmark = needs("chromium", "prometheus")
ROOT = Path(__file__).parents[2]
WATCHED = ("server", "A", "B")
ROUNDS = 4
NAME, PASSWORD = "coordinator", "seven quiet lanterns"
WITHIN_MS = 60_000
NEXT = """([heading, before]) => {
  const shown = document.querySelector(heading);
  return shown && shown.textContent !== before ? shown.textContent : null;
}"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[tuple[Trial, Prometheus]]:
    """Start a connected consortium; Prometheus scrapes the server and two sites."""
    folder = tmp_path_factory.mktemp("watched")
    *given, page = free_ports(len(WATCHED) + 1)
    ports = dict(zip(WATCHED, given, strict=True))
    with Trial(folder / "trial", find_sites(data), metrics=ports, status_port=page) as running:
        running.start_server()
        running.join_all()
        targets = {"ynet-server": [ports["server"]], "ynet-client": [ports["A"], ports["B"]]}
        with prometheus(folder / "prometheus", ROOT / "deploy/prometheus/prometheus.yml", targets) as asked:
            yield running, asked


@pytest.fixture(scope="module")
def page(watched: tuple[Trial, Prometheus]) -> Iterator[Page]:
    """Open the status page before any run, signed in with an account made by the command."""
    trial, _ = watched
    add = [sys.executable, "-m", "ynet_server", "user", "add", NAME, "--role", "admin", "--home", trial.server_home]
    subprocess.run([*map(str, add)], input=f"{PASSWORD}\n", text=True, check=True, env=environment())
    address = f"https://127.0.0.1:{trial.status_port}/"
    with chromium() as browser, window(browser) as opened:
        page = opened.new_page()
        sign_in(page, address, NAME, PASSWORD)
        page.wait_for_url(address)
        yield page


class Seen(NamedTuple):
    """The texts that the page showed during a run, and the resulting model."""

    empty: str
    rounds: list[str]
    model: str


@pytest.fixture(scope="module")
def seen(watched: tuple[Trial, Prometheus], page: Page) -> Seen:
    """Watch a run from before its start to its end on a page that is never reloaded."""
    trial, _ = watched
    page.evaluate("window.isTheSame = true")
    empty, rounds = page.inner_text("#run"), [""]
    plan = small_plan(trial.folder / "plan.yaml", rounds=ROUNDS, evaluate_every=1, local_epochs=3)
    done = trial.server_command("train", "--detach", "--plan", plan)
    assert done.returncode == 0, done.stdout + done.stderr
    while not rounds[-1].startswith(f"{ROUNDS} of"):
        found = page.wait_for_function(NEXT, arg=["#run .progress strong", rounds[-1]], timeout=WITHIN_MS)
        rounds.append(str(found.json_value()))
    page.wait_for_selector("#run .chip.good:has-text('finished')", timeout=WITHIN_MS)
    page.wait_for_selector("#models .chip:has-text('in use')", timeout=WITHIN_MS)
    assert page.evaluate("window.isTheSame")
    model = str(trial.server_call("GET", "/models")["in_use"])
    trial.wait_indexed(model)
    return Seen(empty, rounds[1:], model)


@pytest.fixture(scope="module")
def trained(seen: Seen) -> str:
    return seen.model


def test_page_without_a_run_says_what_to_do(seen: Seen) -> None:
    assert "ynet-server train --plan PLAN.yaml" in seen.empty


def test_rounds_update_without_reload(seen: Seen) -> None:
    numbers = [int(text.split()[0]) for text in seen.rounds]
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= 2
    assert numbers[-1] == ROUNDS


def test_page_agrees_with_the_commands(watched: tuple[Trial, Prometheus], page: Page, seen: Seen) -> None:
    trial, _ = watched
    sites = page.inner_text("#sites")
    for site in trial.server_call("GET", "/sites")["sites"]:
        assert site["site"] in sites
    assert page.locator("#sites tbody tr").count() == len(SITES)
    assert page.inner_text("#sites-count") == f"{len(SITES)} of {len(SITES)} connected"
    assert seen.model[:16] in page.inner_text("#models")
    card = trial.server_call("GET", "/models")["models"][0]["card"]
    assert f"{card['scores']['A']['dice']:.3f}" in page.inner_text("#models")
    assert page.locator("#run .chart polyline").count() == 5 * len(SITES)
    page.wait_for_selector("#audit .chip.good:has-text('whole')", timeout=WITHIN_MS)
    assert "CANARY" not in page.content()


def test_page_shows_site_as_away_and_connected_again(watched: tuple[Trial, Prometheus], page: Page, seen: Seen) -> None:
    trial, _ = watched
    trial.stop("C")
    page.wait_for_selector("#sites tr:has-text('C') .chip:has-text('away')", timeout=WITHIN_MS)
    trial.join("C")
    page.wait_for_selector("#sites tr:has-text('C') .chip:has-text('connected')", timeout=WITHIN_MS)


def test_axe_finds_nothing_serious_on_the_page(page: Page, seen: Seen) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert serious(page) == []


def test_page_is_small_and_fast(page: Page, seen: Seen) -> None:
    sizes, paints = [], []
    for _ in range(3):
        page.reload()
        page.wait_for_selector(".chart polyline")
        entries = page.evaluate(
            "() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]"
            ".map((one) => one.encodedBodySize)"
        )
        sizes.append(sum(entries))
        paints += page.evaluate(
            "() => performance.getEntriesByName('first-contentful-paint').map((one) => one.startTime)"
        )
    assert max(sizes) < 500_000
    assert min(paints) < 1_000


def test_page_works_by_keyboard(page: Page, seen: Seen) -> None:
    reached = set()
    page.keyboard.press("Tab")
    for _ in range(20):
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        page.keyboard.press("Tab")
    assert {"To the content", "Sign out", "sites", "refusals", "runs"} <= reached


def test_prometheus_scrapes_server_and_sites(watched: tuple[Trial, Prometheus], trained: str) -> None:
    """Query Prometheus' HTTP API and compare with the commands."""
    trial, asked = watched
    asked.until("sum(up)", lambda value: value == 3)
    asked.until('ynet_server_rounds_total{outcome="whole"}', lambda value: value == ROUNDS)
    asked.until("ynet_server_round_seconds_count", lambda value: value == ROUNDS)
    asked.until("sum(ynet_server_site_connected)", lambda value: value == len(SITES))
    asked.until(f'ynet_server_model_info{{model="{trained[:12]}"}}', lambda value: value == 1)
    asked.until('sum by () (ynet_server_runs{status="finished"})', lambda value: value == 1)
    loss = asked.until('ynet_server_site_loss{site="A"}', lambda value: value > 0)
    events = trial.server_call("GET", "/runs/1/events")["events"]
    assert loss == [event for event in events if event["kind"] == "round"][-1]["sites"]["A"]["loss"]
    site = f'instance="127.0.0.1:{trial.metrics_port("A")}"'
    asked.until(f'ynet_client_tasks_total{{{site},kind="train",outcome="done"}}', lambda value: value == ROUNDS)
    asked.until(f"ynet_client_gallery_codes{{{site}}}", lambda value: value == SITES["A"])
    updates = asked.until(f'ynet_client_sent_bytes_total{{{site},of="updates"}}', lambda value: value > 0)
    classes = json.loads(trial.site_command("A", "egress", "--json").stdout)["classes"]
    assert updates == next(one["bytes"] for one in classes if one["class"] == "updates")
    asked.until('ynet_server_received_bytes_total{method="upload"}', lambda value: value > updates)
    days = "(ynet_server_certificate_ends_timestamp_seconds{site='A'} - time()) / 86400"
    asked.until(days, lambda value: 89 < value <= 90)


def test_prometheus_counts_queries_and_outcomes(watched: tuple[Trial, Prometheus], trained: str) -> None:
    trial, asked = watched
    manifest = read(trial.sites["A"])
    for case in manifest.test[:2]:
        trial.query("A", manifest.path_of(case.image))
    a, b = (f'instance="127.0.0.1:{trial.metrics_port(name)}"' for name in "AB")
    asked.until(f'ynet_client_queries_total{{{a},outcome="done"}}', lambda value: value == 2)
    asked.until(f'ynet_client_query_replies_total{{{a},outcome="found"}}', lambda value: value == 4)
    asked.until(f"ynet_client_query_seconds_count{{{a}}}", lambda value: value == 2)
    asked.until(f'ynet_client_answers_total{{{b},outcome="found"}}', lambda value: value == 2)
    asked.until('ynet_server_query_replies_total{outcome="answered"}', lambda value: value >= 4)
    asked.until("ynet_server_queries_total", lambda value: value >= 2)


def test_no_label_names_a_patient_or_a_file(watched: tuple[Trial, Prometheus], trained: str) -> None:
    _, asked = watched
    shown = asked.ask("/label/__name__/values")
    assert "ynet_client_gallery_codes" in shown
    every = str([asked.ask("/series", **{"match[]": name}) for name in shown])
    assert "CANARY" not in every
    assert "manifest" not in every
    assert "firing" not in {rule["state"] for group in asked.ask("/rules")["groups"] for rule in group["rules"]}
