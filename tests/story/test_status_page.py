"""A consortium as its coordinator watches it: the metrics in a real Prometheus, the status page in a real browser."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hospitals import SITES, small_plan
from prometheus import Prometheus, free_ports, prometheus
from trial import Trial
from ynet.data.manifest import find_sites, read

ROOT = Path(__file__).parents[2]
WATCHED = ("server", "A", "B")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Iterator[tuple[Trial, Prometheus]]:
    """A connected consortium, server and two sites of which are scraped."""
    folder = tmp_path_factory.mktemp("watched")
    ports = dict(zip(WATCHED, free_ports(len(WATCHED)), strict=True))
    with Trial(folder / "trial", find_sites(data), metrics=ports) as running:
        running.start_server()
        running.join_all()
        targets = {"ynet-server": [ports["server"]], "ynet-client": [ports["A"], ports["B"]]}
        with prometheus(folder / "prometheus", ROOT / "deploy/prometheus/prometheus.yml", targets) as asked:
            yield running, asked


@pytest.fixture(scope="module")
def trained(watched: tuple[Trial, Prometheus]) -> str:
    """The model of a run of two rounds, indexed at every site."""
    trial, _ = watched
    done = trial.server_command("train", "--plan", small_plan(trial.folder / "plan.yaml", evaluate_every=1))
    assert done.returncode == 0, done.stdout + done.stderr
    model = str(trial.server_call("GET", "/models")["in_use"])
    trial.wait_indexed(model)
    return model


def test_prometheus_scrapes_server_and_sites(watched: tuple[Trial, Prometheus], trained: str) -> None:
    """Everything below is asked of Prometheus' HTTP API, and holds against what the commands say."""
    trial, asked = watched
    asked.until("sum(up)", lambda value: value == 3)
    asked.until('ynet_server_rounds_total{outcome="whole"}', lambda value: value == 2)
    asked.until("ynet_server_round_seconds_count", lambda value: value == 2)
    asked.until("sum(ynet_server_site_connected)", lambda value: value == len(SITES))
    asked.until(f'ynet_server_model_info{{model="{trained[:12]}"}}', lambda value: value == 1)
    asked.until('sum by () (ynet_server_runs{status="finished"})', lambda value: value == 1)
    loss = asked.until('ynet_server_site_loss{site="A"}', lambda value: value > 0)
    events = trial.server_call("GET", "/runs/1/events")["events"]
    assert loss == [event for event in events if event["kind"] == "round"][-1]["sites"]["A"]["loss"]
    site = f'instance="127.0.0.1:{trial.metrics_port("A")}"'
    asked.until(f'ynet_client_tasks_total{{{site},kind="train",outcome="done"}}', lambda value: value == 2)
    asked.until(f"ynet_client_gallery_codes{{{site}}}", lambda value: value == SITES["A"])
    updates = asked.until(f'ynet_client_sent_bytes_total{{{site},of="updates"}}', lambda value: value > 0)
    classes = json.loads(trial.site_command("A", "egress", "--json").stdout)["classes"]
    assert updates == next(one["bytes"] for one in classes if one["class"] == "updates")
    asked.until('ynet_server_received_bytes_total{method="upload"}', lambda value: value > updates)
    days = "(ynet_server_certificate_ends_timestamp_seconds{site='A'} - time()) / 86400"
    asked.until(days, lambda value: 89 < value <= 90)


def test_prometheus_counts_the_queries_and_what_became_of_them(watched: tuple[Trial, Prometheus], trained: str) -> None:
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


def test_no_label_tells_of_a_patient_or_a_file(watched: tuple[Trial, Prometheus], trained: str) -> None:
    _, asked = watched
    shown = asked.ask("/label/__name__/values")
    assert "ynet_client_gallery_codes" in shown
    every = str([asked.ask("/series", **{"match[]": name}) for name in shown])
    assert "CANARY" not in every
    assert "manifest" not in every
    assert {alert["state"] for group in asked.ask("/rules")["groups"] for alert in group["rules"]} == {"inactive"}
