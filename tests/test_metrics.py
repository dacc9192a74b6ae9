"""The metrics of both sides: their values, and that documentation, alerts and dashboard use existing names."""

import asyncio
import gc
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from loopback import Consortium, Site, play, until
from needs import needed
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from smallest_plan import smallest_plan
from status_scene import life

from ynet import plan as plans
from ynet.errors import UnreachableError, UserError
from ynet.runtime import control_server
from ynet.trust.ledger import LEDGER, Ledger, Reservation
from ynet.web import prometheus
from ynet.web.prometheus import MetricsSettings
from ynet_client import counts as client_counts
from ynet_client import metrics as client
from ynet_client.audit import Audit
from ynet_client.connection.session import Session
from ynet_client.settings import ClientSettings
from ynet_server import metrics as server
from ynet_server.hub.traffic import Traffic
from ynet_server.rounds.run_folder import RunFolder
from ynet_server.rounds.run_progress import RunProgressReader
from ynet_server.rounds.runs import Runs
from ynet_server.training_records import PublishedModel

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy/prometheus"
DAY = 86_400.0


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


class Idle:
    """An agent without cases and without an archive."""

    def cases(self) -> int:
        return 7

    def archive_if_ready(self) -> None:
        return None


def server_registry(consortium: Consortium, folder: Path) -> tuple[CollectorRegistry, server.ServerCounters, Runs]:
    registry = prometheus.new_registry()
    counts = server.ServerCounters(registry)
    Traffic(registry, counts.refused)
    loop = asyncio.get_running_loop()
    runs = Runs(consortium.registry, consortium.hub, loop, folder, on_event=counts.event)
    progress_reader, now = RunProgressReader(), consortium.now.timestamp()
    known = server.ServerState(
        "test",
        folder,
        consortium.registry,
        consortium.hub,
        runs,
        progress_reader,
        lambda: life(now, 3000),
        lambda: life(now, 90),
    )
    registry.register(server.gauges(known))
    return registry, counts, runs


def private_run(consortium: Consortium, runs: Runs) -> RunFolder:
    """Make a run of two rounds at two private sites; one update was refused once."""
    values = json.loads(smallest_plan().canonical())
    values["privacy"] = {"mode": "patient", "epsilon": 2.0, "delta": 1e-5}
    values["training"]["rounds"] = 5
    plan = plans.from_canonical(json.dumps(values))
    number = consortium.registry.training.start_run(consortium.registry.training.freeze(plan, 1.0), 1.0)
    folder = runs.folder(number).create(plan)
    folder.event("started", sites=["A", "B"], parameters=3, given=0)
    for done in (1, 2):
        folder.event(
            "round",
            round=done,
            rounds=5,
            seconds=2.0,
            sites={site: {"loss": 1.0 / done} for site in "AB"},
            ledgers=dict.fromkeys("AB", "1 x"),
        )
        folder.event("evaluated", round=done, sites={"A": {"dice": 0.5, "macro_map10": 0.6, "masks": 5}})
    folder.event("update_refused", round=3, site="B", reason="it is not new")
    folder.event("under_quorum", round=3, updates=1, quorum=2)
    return folder


@pytest.fixture
def documented() -> set[str]:
    lines = (ROOT / "docs/reference/metrics.md").read_text("utf-8").splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `ynet_")]
    return {name for cell in cells for name in re.findall(r"`(ynet_\w+)`", cell)}


def shown_names(registry: CollectorRegistry) -> set[str]:
    """Return every metric by its exposed name: counters end in _total, infos in _info."""
    kinds = {"counter": "_total", "info": "_info"}
    return {one.name + kinds.get(one.type, "") for one in registry.collect() if one.name.startswith("ynet")}


def both(tmp_path: Path) -> Iterator[set[str]]:
    found: set[str] = set()

    async def story(consortium: Consortium) -> None:
        registry, _, runs = server_registry(consortium, tmp_path)
        private_run(consortium, runs)
        found.update(shown_names(registry))
        member = consortium.enrol("A")
        measured = CollectorRegistry()
        client_counts.Counts(measured)
        session = Session(member, tmp_path, Site(), print)
        spent = client.Spent(tmp_path, ClientSettings().privacy)
        measured.register(client.state(client.GaugeSources("A", tmp_path, session, Idle(), spent)))  # type: ignore[arg-type]
        found.update(shown_names(measured))
        found.update(one.name for one in client._gpu())

    play(tmp_path / "consortium", story)
    yield found


@pytest.fixture
def all_names(tmp_path: Path) -> Iterator[set[str]]:
    (tmp_path / "consortium").mkdir()
    yield from both(tmp_path)


def test_documented_metrics_are_those_of_the_code(all_names: set[str], documented: set[str]) -> None:
    assert documented == all_names


def expressions() -> Iterator[tuple[str, str]]:
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield f"rule {rule['alert']}", rule["expr"]
    for panel in json.loads((ROOT / "deploy/grafana/ynet.json").read_text("utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']}", target["expr"]


def test_rules_and_dashboard_use_existing_metrics(all_names: set[str]) -> None:
    asked = list(expressions())
    assert len(asked) > 40
    for where, expression in asked:
        for name in re.findall(r"\bynet_(?:server|client)_\w+", expression):
            bare = re.sub(r"_(bucket|count|sum)$", "", name)
            assert {name, bare} & all_names, f"{where}: {name}"


def test_every_alert_says_what_to_do() -> None:
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"].endswith(".")
            assert rule["annotations"]["runbook"].endswith((".", "plan."))


@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yml"), ("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")],
    ids=" ".join,
)
def test_promtool_finds_no_fault_in_the_rules(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [needed("promtool"), *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard_panels_do_not_overlap() -> None:
    panels = json.loads((ROOT / "deploy/grafana/ynet.json").read_text("utf-8"))["panels"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_server_metrics_cover_run_sites_and_certificates(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        registry, _, runs = server_registry(consortium, tmp_path)
        await consortium.join("A")
        consortium.enrol("B")
        assert value(registry, "ynet_server_site_connected", site="A") == 1
        assert value(registry, "ynet_server_site_connected", site="B") == 0
        ends = value(registry, "ynet_server_certificate_ends_timestamp_seconds", holder="site", site="A")
        assert ends is not None
        assert 89 < (ends - consortium.now.timestamp()) / DAY <= 90
        assert value(registry, "ynet_server_run_round") is None
        private_run(consortium, runs)
        assert value(registry, "ynet_server_run_round") == 2
        assert value(registry, "ynet_server_run_rounds") == 5
        assert value(registry, "ynet_server_runs", status="running") == 1
        assert value(registry, "ynet_server_run_stalled") == 0
        assert value(registry, "ynet_server_rounds_total", outcome="whole") == 2
        assert value(registry, "ynet_server_rounds_total", outcome="under_quorum") == 1
        assert value(registry, "ynet_server_round_seconds_sum") == 4.0
        assert value(registry, "ynet_server_updates_refused_total", site="B") == 1
        assert value(registry, "ynet_server_site_loss", site="A") == 0.5
        assert value(registry, "ynet_server_site_score", site="A", score="dice") == 0.5
        assert value(registry, "ynet_server_site_score_cases", site="A", score="dice") == 5
        assert value(registry, "ynet_server_site_score", site="A", score="balanced_accuracy") is None
        assert value(registry, "ynet_server_site_epsilon_bound", site="A") == 2.0
        consortium.registry.training.publish(PublishedModel("f" * 64, 1, {"plan_id": "e" * 64, "plan": "t"}, 2.0))
        assert value(registry, "ynet_server_model_info", model="f" * 12, plan="e" * 12) == 1

    play(tmp_path, story)


def test_score_of_nothing_has_no_sample(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        registry, _, runs = server_registry(consortium, tmp_path)
        folder = private_run(consortium, runs)
        for loss in (float("nan"), None):
            told = {"dice": None, "macro_map10": 0.6, "masks": 0, "ranked": 5, "case_hit10": 0.2, "median_tie10": 2.5}
            folder.event("evaluated", round=3, sites={"A": {**told, "siblings": 5, "queries": 12}})
            folder.event("round", round=3, rounds=5, seconds=1.0, sites={"A": {} if loss is None else {"loss": loss}})
            assert value(registry, "ynet_server_site_score", site="A", score="dice") is None
            assert value(registry, "ynet_server_site_score_cases", site="A", score="dice") == 0
            assert value(registry, "ynet_server_site_score", site="A", score="macro_map10") == 0.6
            assert value(registry, "ynet_server_site_score_cases", site="A", score="macro_map10") == 5
            assert value(registry, "ynet_server_site_score", site="A", score="case_hit10") == 0.2
            assert value(registry, "ynet_server_site_score", site="A", score="median_tie10") == 2.5
            assert value(registry, "ynet_server_site_score_cases", site="A", score="median_tie10") == 12
            assert value(registry, "ynet_server_site_loss", site="A") is None

    play(tmp_path, story)


def test_resumed_or_unspent_run_adds_nothing_to_epsilon(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        registry, _, runs = server_registry(consortium, tmp_path)
        private_run(consortium, runs)
        consortium.registry.training.end_run(1, "failed", "", None, 2.0)
        private_run(consortium, runs)
        assert value(registry, "ynet_server_site_epsilon_bound", site="A") == 2.0
        consortium.registry.training.end_run(2, "failed", "", None, 2.0)
        number = consortium.registry.training.start_run(
            consortium.registry.training.freeze(smallest_plan("plain"), 1.0), 3.0
        )
        runs.folder(number).create(smallest_plan("plain")).event(
            "round", round=1, rounds=1, seconds=1.0, sites={"A": {}}
        )
        assert value(registry, "ynet_server_site_epsilon_bound", site="A") == 2.0

    play(tmp_path, story)


def test_hub_counts_bytes_queries_and_refused_calls(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    refused: list[str] = []

    async def story(consortium: Consortium) -> None:
        await consortium.stop()
        consortium.around.append(Traffic(registry, refused.append))
        await consortium.open()
        a = await consortium.join("A")
        await consortium.join("B")
        consortium.enrol("C")
        answers = await a.session.ask(b"question", 5.0)
        assert [one.site for one in answers.answers] == ["B"]
        assert value(registry, "ynet_server_query_replies_total", outcome="answered") == 1
        assert value(registry, "ynet_server_query_replies_total", outcome="missing") == 1
        asked = value(registry, "ynet_server_queries_total") or 0
        assert asked >= 1
        assert value(registry, "ynet_server_query_seconds_count") == asked
        assert (value(registry, "ynet_server_received_bytes_total", method="attach") or 0) > 100
        assert (value(registry, "ynet_server_sent_bytes_total", method="ask") or 0) > 100
        assert refused == []
        consortium.registry.revoke("A", consortium.now.timestamp())
        with pytest.raises(UnreachableError):
            await a.session.ask(b"question", 5.0)
        assert refused == ["certificate"]

    play(tmp_path, story)


def test_last_seen_is_when_the_site_left(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        came = consortium.registry.sites()[0].last_seen
        joined.task.cancel()
        await until(lambda: not consortium.hub.connected())
        left = consortium.registry.sites()[0].last_seen
        assert came is not None
        assert left is not None
        assert left > came

    play(tmp_path, story)


def test_open_invitation_is_counted_until_used_or_expired(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        now = consortium.now.timestamp()
        consortium.registry.invite("D", b"s" * 16, now, replace=False)
        consortium.enrol("E")
        assert list(consortium.registry.invitations(now)) == ["D"]
        assert consortium.registry.invitations(now + 2 * DAY) == {}

    play(tmp_path, story)


def test_ledger_metrics_appear_with_the_first_entry(tmp_path: Path) -> None:
    settings = ClientSettings().privacy
    spent = client.Spent(tmp_path, settings)
    asyncio.run(spent.refresh())
    assert spent.summary is None
    Ledger(tmp_path).reserve("default", Reservation("f" * 64, 1, 4, "e" * 64, 1.5, 0.05, 10, 1e-5), lambda _: None)
    asyncio.run(spent.refresh(within_s=120.0))
    shown = {one.name: one.samples[0].value for one in client._epsilon(spent.summary)}
    assert 0 < shown["ynet_client_epsilon_spent"] < settings.max_epsilon
    assert shown["ynet_client_epsilon_reserved"] > 0
    assert sum(shown.values()) == pytest.approx(settings.max_epsilon, abs=1e-3)


def test_untrusted_ledger_has_no_metrics(tmp_path: Path) -> None:
    spent = client.Spent(tmp_path, ClientSettings().privacy)
    (tmp_path / LEDGER).write_text("{}\n", "utf-8")
    asyncio.run(spent.refresh(within_s=120.0))
    assert spent.summary is None


def test_audit_entries_and_refusals_are_counted_by_kind() -> None:
    registry = CollectorRegistry()
    written: list[str] = []
    write = server.ServerCounters(registry).audited(lambda action, *_: written.append(action))
    write("enrolment-refused", "A", "why")
    write("invited", "A")
    assert written == ["enrolment-refused", "invited"]
    assert value(registry, "ynet_server_refusals_total", kind="enrolment") == 1
    assert value(registry, "ynet_server_audit_entries_total", action="invited") == 1


def test_site_counters_follow_its_audit_log(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    counts = client_counts.Counts(registry)
    log = Audit(tmp_path, counts.entered)
    log.write(1.0, "asked", "query", {"B": "found", "C": "late", "D": "late"}, user="u")
    log.write(2.0, "answered", "query", {"B": "suppressed"}, user="u")
    log.write(3.0, "answered", "query", {"B": "refused"}, user="u")
    log.write(4.0, "answered", "consult", {"B": "refused"}, user="u")
    log.did(5.0, "model", "f" * 64, "refused")
    log.close()
    assert value(registry, "ynet_client_query_replies_total", outcome="late") == 2
    assert value(registry, "ynet_client_answers_total", outcome="suppressed") == 1
    for kind in ("query", "consult", "model"):
        assert value(registry, "ynet_client_refusals_total", kind=kind) == 1


def test_task_name_of_a_hostile_hub_makes_no_label() -> None:
    registry = CollectorRegistry()
    counts = client_counts.Counts(registry)
    for number in range(50):
        counts.task(f"train{number}", "failed", 1.0)
        counts.received(f"Method{number}", 1)
    assert value(registry, "ynet_client_tasks_total", kind="other", outcome="failed") == 50
    assert value(registry, "ynet_client_received_bytes_total", method="other") == 50


def test_failed_query_is_counted_and_not_timed() -> None:
    registry = CollectorRegistry()
    counts = client_counts.Counts(registry)
    with counts.asking():
        pass
    with pytest.raises(UserError), counts.asking():
        raise UserError("a", "b", "c")
    assert value(registry, "ynet_client_queries_total", outcome="done") == 1
    assert value(registry, "ynet_client_queries_total", outcome="failed") == 1
    assert value(registry, "ynet_client_query_seconds_count") == 1


async def scraped(registry: CollectorRegistry) -> httpx.Response:
    server = control_server.QuietServer(control_server.quiet_config(prometheus.application(registry), "127.0.0.1", 0))
    port = await server.begin()
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            return await http.get(f"http://127.0.0.1:{port}/metrics")
    finally:
        await server.end()


def test_metrics_are_prometheus_text_with_process_figures() -> None:
    answer = asyncio.run(scraped(prometheus.new_registry()))
    assert answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert "process_resident_memory_bytes" in names


def test_metrics_need_a_port_and_report_a_taken_one() -> None:
    async def story() -> None:
        async with prometheus.serving(MetricsSettings(), CollectorRegistry()):
            pass
        taken = control_server.QuietServer(
            control_server.quiet_config(prometheus.application(CollectorRegistry()), "127.0.0.1", 0)
        )
        port = await taken.begin()
        try:
            with pytest.raises(UserError, match="another process listens there"):
                async with prometheus.serving(MetricsSettings(port=port), CollectorRegistry()):
                    pass
        finally:
            await taken.end()

    asyncio.run(story())
    gc.collect()
