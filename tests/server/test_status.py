"""The status page without a browser: what it tells, to whom, and how little when nothing has changed."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from loopback import Consortium, play
from status_scene import NAME, PASSWORD, ROUNDS, SITES, Scene, known_of, plan_of, scene

from prometheus import free_ports
from ynet.errors import UserError
from ynet_server import audit
from ynet_server.rounds.run_progress import MOST_POINTS, Curve, RunProgress, RunProgressReader
from ynet_server.settings import StatusSettings
from ynet_server.status.app import StateCache
from ynet_server.status.audit_view import AuditView
from ynet_server.status.serving import serving
from ynet_server.status.snapshot import snapshot
from ynet_server.training_records import PublishedModel

PAGE = {"accept": "text/html"}


def client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, verify=False, trust_env=False, headers={"origin": url})


async def signed_in(http: httpx.AsyncClient) -> httpx.AsyncClient:
    answer = await http.post("/login", data={"name": NAME, "password": PASSWORD})
    assert answer.status_code == 303
    return http


def during(folder: Path, story: Callable[[Scene, httpx.AsyncClient], Awaitable[None]]) -> None:
    async def told(consortium: Consortium) -> None:
        (port,) = free_ports(1)
        async with scene(consortium, port) as shown, client(shown.url) as http:
            await story(shown, http)

    play(folder, told)


def test_nobody_sees_anything_without_an_account(tmp_path: Path) -> None:
    async def story(shown: Scene, http: httpx.AsyncClient) -> None:
        state = await http.get("/state")
        assert state.status_code == 401
        assert "lakeside" not in state.text
        page = await http.get("/", headers=PAGE)
        assert page.status_code == 303
        assert page.headers["location"].startswith("/login")

    during(tmp_path, story)


def test_the_state_says_who_has_answered_who_is_missing_and_what_was_refused(tmp_path: Path) -> None:
    async def story(shown: Scene, http: httpx.AsyncClient) -> None:
        state = (await (await signed_in(http)).get("/state")).json()
        parts = {site: part["state"] for site, part in state["run"]["parts"].items()}
        assert parts == {"lakeside": "answered", "north-clinic": "away", "st-anna": "working", "university": "working"}
        assert (state["run"]["round"], state["run"]["terms"]["rounds"]) == (17, ROUNDS)
        assert set(state["run"]["curves"]["loss"]) == set(state["run"]["curves"]["dice"]) == set(SITES)
        assert [one["action"] for one in state["refusals"]] == ["enrolment-refused", "site-failed", "update-refused"]
        assert "update_norm_limit is 10" in state["refusals"][-1]["about"]
        sites = {site["name"]: site for site in state["sites"]}
        assert sites["north-clinic"]["certificate"]["warning"] == 7
        assert sites["lakeside"]["certificate"]["warning"] is None
        assert sites["lakeside"]["epsilon"] == 4.0
        assert [one["site"] for one in state["invitations"]] == ["harbour"]
        assert state["models"][0]["in_use"]
        assert state["models"][0]["scores"]["lakeside"]["dice"] > 0.5

    during(tmp_path, story)


def test_what_has_not_changed_is_told_in_a_few_bytes_and_a_round_changes_it(tmp_path: Path) -> None:
    async def story(shown: Scene, http: httpx.AsyncClient) -> None:
        await signed_in(http)
        first = await _settled(http)
        for tag in (first.headers["etag"], f"W/{first.headers['etag']}"):  # as a proxy that compresses makes it
            same = await http.get("/state", headers={"if-none-match": tag})
            assert (same.status_code, same.content) == (304, b"")
        shown.next_round(18)
        end = time.monotonic() + 10
        while (now := await http.get("/state", headers={"if-none-match": first.headers["etag"]})).status_code == 304:
            assert time.monotonic() < end
            await asyncio.sleep(0.05)
        assert now.json()["run"]["round"] == 18
        assert now.json()["run"]["parts"]["lakeside"]["state"] == "idle"

    during(tmp_path, story)


async def _settled(http: httpx.AsyncClient) -> httpx.Response:
    """The state once the log was checked: that comes a moment after the first look."""
    while True:
        answer = await http.get("/state")
        if answer.json()["audit"]["verified"]["at"]:
            return answer
        await asyncio.sleep(0.05)


def test_the_page_carries_its_state_and_no_script_of_its_own(tmp_path: Path) -> None:
    """A site's word is in it as data alone: its end of script ends nothing."""

    async def story(shown: Scene, http: httpx.AsyncClient) -> None:
        await signed_in(http)
        shown.folder.event("site_failed", round=18, site="st-anna", reason="</script><script>alert(1)</script>")
        page = await http.get("/", headers=PAGE)  # the first look of all: nothing older is kept
        assert "script-src 'self'" in page.headers["content-security-policy"]
        scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page.text, re.DOTALL)
        assert [bool(text.strip()) for _, text in scripts] == [False, False, True]
        assert 'type="application/json"' in scripts[2][0]
        assert "alert(1)" in json.loads(scripts[2][1])["refusals"][0]["about"]
        assert not re.search(r'(src|href)="(https?:)?//', page.text)
        assert " style=" not in page.text

    during(tmp_path, story)


def test_model_of_a_plan_with_regions_has_the_dice_of_each(tmp_path: Path) -> None:
    async def told(consortium: Consortium) -> None:
        of_regions = {"dice": 0.8, "dice_per_region": {"disc": 0.9, "cup": None}}
        card, records = {"plan": "eyes", "scores": {"A": of_regions, "B": {"dice": 0.7}}}, consortium.registry.training
        number = records.start_run(records.freeze(plan_of("eyes", private=False), 1.0), 1.0)
        records.publish(PublishedModel("a" * 64, number, card, 1.0))
        audit_view = AuditView(tmp_path, consortium.audit, lambda: (consortium.authority.certificate, []))
        state = snapshot(known_of(consortium, tmp_path), audit_view, consortium.now.timestamp())
        await audit_view.close()
        assert state["models"][0]["scores"] == {"A": of_regions, "B": {"dice": 0.7}}

    play(tmp_path, told)


def test_a_server_that_has_just_been_made_has_an_empty_state(tmp_path: Path) -> None:
    async def told(consortium: Consortium) -> None:
        audit_view = AuditView(tmp_path, consortium.audit, lambda: (consortium.authority.certificate, []))
        state = snapshot(known_of(consortium, tmp_path), audit_view, consortium.now.timestamp())
        assert state["run"] is None
        assert state["sites"] == state["runs"] == state["models"] == state["refusals"] == []
        await audit_view.close()
        assert audit_view.heads()["verified"]["fault"] == ""
        await audit_view.close()

    play(tmp_path, told)


def test_a_log_that_was_edited_is_shown_as_not_whole(tmp_path: Path) -> None:
    async def told(consortium: Consortium) -> None:
        for number in range(3):
            consortium.audit.write("asked", "A", f"{number} sites")
        path = tmp_path / audit.LOG
        path.write_bytes(path.read_bytes().replace(b"1 sites", b"9 sites"))
        audit_view = AuditView(tmp_path, consortium.audit, lambda: (consortium.authority.certificate, []))
        audit_view.heads()
        await audit_view.close()
        assert audit_view.heads()["verified"]["fault"]
        await audit_view.close()

    play(tmp_path, told)


def test_the_state_is_looked_up_once_for_all_who_ask_within_a_second() -> None:
    looks, now = list[int](), 0.0

    def look() -> dict[str, int]:
        looks.append(1)
        return {"n": len(looks)}

    kept = StateCache(look, lambda: now)
    first = kept.now()
    assert [kept.now() for _ in range(50)] == [first] * 50
    now = 1.5
    assert kept.now() != first
    assert len(looks) == 2


def test_a_taken_port_and_a_page_without_accounts_say_what_to_do(tmp_path: Path) -> None:
    async def told(consortium: Consortium) -> None:
        (port,) = free_ports(1)
        settings = StatusSettings(enabled=True, port=port)
        async with serving(tmp_path, settings, dict, consortium.now) as said:
            assert "ynet-server user add" in said[-1]
            with pytest.raises(UserError, match="another process listens there"):
                async with serving(tmp_path, settings, dict, consortium.now):
                    pass
        async with serving(tmp_path, StatusSettings(), dict, consortium.now) as said:
            assert said == []

    play(tmp_path, told)


def test_a_curve_of_many_rounds_keeps_its_ends_and_its_order() -> None:
    curve = Curve()
    for number in range(1, 10_001):
        curve.add(number, float(number))
    points = curve.points()
    assert len(points) <= MOST_POINTS + 1
    assert points[0] == (1, 1.0)
    assert points[-1] == (10_000, 10_000.0)
    assert [number for number, _ in points] == sorted({number for number, _ in points})


def test_a_value_that_is_no_number_is_left_out_of_a_curve() -> None:
    curve = Curve()
    for value in (float("nan"), 1.0, float("inf")):
        curve.add(1, value)
    assert curve.points() == [(1, 1.0)]
    assert Curve().points() == []


def test_a_course_goes_on_where_it_was_read_to_and_waits_for_a_line_to_end(tmp_path: Path) -> None:
    path, progress_reader = tmp_path / "events.jsonl", RunProgressReader()
    done = [
        json.dumps({"time": float(n), "kind": "round", "round": n, "rounds": 3, "seconds": 1.0, "sites": {}})
        for n in (1, 2)
    ]
    path.write_text(f"{done[0]}\n{done[1][:20]}", "utf-8")
    assert progress_reader.of(tmp_path).round == 1
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{done[1][20:]}\n")
    assert progress_reader.of(tmp_path).round == 2


def test_an_event_that_cannot_be_read_changes_nothing() -> None:
    progress = RunProgress()
    for event in ({}, {"kind": "round"}, {"time": 1.0, "kind": "round", "round": "x", "seconds": 1, "sites": 5}):
        progress.add(event)
    assert progress.round == 0


def test_page_state_says_why_a_run_ends(tmp_path: Path) -> None:
    async def story(shown: Scene, http: httpx.AsyncClient) -> None:
        await signed_in(http)
        shown.folder.event("cooldown", round=18, rounds=4, reason="the scores are flat")
        shown.folder.event("stopped", round=22, reason="the scores are flat", best=15, score=0.7)
        run = (await http.get("/state")).json()["run"]
        assert run["cooldown"] == {"round": 18, "rounds": 4, "reason": "the scores are flat"}
        assert run["stopped"] == {"round": 22, "reason": "the scores are flat", "best": 15}
        assert (run["terms"]["rounds"], run["terms"]["is_auto"]) == (22, False)

    during(tmp_path, story)
