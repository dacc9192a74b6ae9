"""Runs that are stopped, cancelled, or kept from their disk: what they leave is what they go on with."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
import yaml
from loopback import Consortium, Site, play, runs, tiny_app, until

from hospitals import small_plan
from ynet import plan as plans
from ynet.errors import UserError
from ynet.federation.content import Content
from ynet.plan import Plan
from ynet.weights import Flat
from ynet_server.rounds import runs as server_runs
from ynet_server.rounds.run_folder import EVENTS
from ynet_server.rounds.runs import Runs


def one_site_plan(folder: Path, rounds: int = 1) -> Plan:
    path = small_plan(folder / "plan.yaml", rounds=rounds)
    values = yaml.safe_load(path.read_text("utf-8"))
    values["cohort"] = {"min_sites": 1, "quorum": 1}
    values["network"]["code"] = "trained"
    path.write_text(yaml.safe_dump(values), "utf-8")
    return plans.read(path)


def status_of(consortium: Consortium, number: int = 1) -> str:
    return next(run.status for run in consortium.registry.training.runs() if run.id == number)


def test_a_stop_during_the_last_evaluation_publishes_no_model_without_scores(tmp_path: Path) -> None:
    honest, evaluating = runs(tiny_app(lambda _, flat: flat + 1, 7), 7), asyncio.Event()

    async def work(kind: str, received: Path) -> Content:
        if kind == "evaluate" and not evaluating.is_set():
            evaluating.set()
            await asyncio.sleep(60)
        return await honest.task(kind, received, lambda: False)

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=work))
        first = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        number = first.start(one_site_plan(tmp_path))
        await evaluating.wait()
        first.stop()
        await consortium.stop()
        await asyncio.sleep(0.3)
        assert [run.status for run in consortium.registry.training.runs()] == ["running"]
        assert not consortium.registry.training.models()

        await consortium.open()
        await until(lambda: joined.session.connected)
        again = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        again.resume()
        await until(lambda: consortium.registry.training.runs()[0].status == "finished")
        assert consortium.registry.training.models()[0].card["scores"]
        assert [event["kind"] for event in again.folder(number).events()] == [
            *("started", "round", "resumed", "evaluated", "finished")
        ]

    play(tmp_path, story)


def test_cancelled_run_frees_server_and_resumes_after_its_last_round(
    tmp_path: Path,
) -> None:
    honest, rounds, held = runs(tiny_app(lambda _, flat: flat + 1, 7), 7), list[int](), asyncio.Event()

    async def work(kind: str, received: Path) -> Content:
        if kind == "train":
            rounds.append(1)
            if len(rounds) == 3:
                held.set()
                await asyncio.sleep(60)
        return await honest.task(kind, received, lambda: False)

    async def story(consortium: Consortium) -> None:
        await consortium.join("A", Site(task=work))
        own = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        number = own.start(one_site_plan(tmp_path, rounds=4))
        await held.wait()
        own.cancel(number)
        await until(lambda: status_of(consortium) == "cancelled", within_s=5)
        with pytest.raises(UserError, match="not under way"):
            own.cancel(number)
        other = own.start(one_site_plan(tmp_path))
        with pytest.raises(UserError, match=f"run {other} is under way"):
            own.take_up(number)
        await until(lambda: status_of(consortium, other) == "finished")
        own.take_up(number)
        await until(lambda: status_of(consortium) == "finished")
        events = own.folder(number).events()
        assert [event["round"] for event in events if event["kind"] == "round"] == [1, 2, 3, 4]
        assert [event["by"] for event in events if event["kind"] == "resumed"] == ["coordinator"]
        with pytest.raises(UserError, match="it is finished"):
            own.take_up(number)
        with pytest.raises(UserError, match="no such run"):
            own.take_up(9)

    play(tmp_path, story)


class FullDisk:
    """The events of a run go to /dev/full, which takes nothing, until there is `room` again."""

    def __init__(self, folder: Path) -> None:
        self._events, self._kept = folder / EVENTS, folder / "kept"

    def fill(self) -> None:
        self._events.rename(self._kept)
        self._events.symlink_to("/dev/full")

    def room(self) -> None:
        self._kept.replace(self._events)


def test_a_full_disk_holds_a_run_up_until_there_is_room_and_loses_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_runs, "TRY_DISK_EVERY_S", 0.1)
    disk, rounds = FullDisk(tmp_path / "runs/0001"), list[int]()

    def train(number: int, flat: Flat) -> Flat:
        rounds.append(number)
        if rounds == [1, 2]:
            disk.fill()
        return flat + 1

    async def story(consortium: Consortium) -> None:
        await consortium.join("A", runs(tiny_app(train, 7), 7))
        own = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        number = own.start(one_site_plan(tmp_path, rounds=3))
        await until(lambda: "make room" in own.listed()[0].reason)
        assert status_of(consortium) == "running"
        disk.room()
        await until(lambda: status_of(consortium) == "finished")
        events = own.folder(number).events()
        assert [event["round"] for event in events if event["kind"] == "round"] == [1, 2, 3]
        assert rounds[-2:] == [2, 3]
        assert own.listed()[0].reason == ""

    play(tmp_path, story)


def test_a_run_that_stands_still_for_its_disk_can_be_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_runs, "TRY_DISK_EVERY_S", 0.1)
    disk, rounds = FullDisk(tmp_path / "runs/0001"), list[int]()

    def train(number: int, flat: Flat) -> Flat:
        rounds.append(number)
        if rounds == [1]:
            disk.fill()
        return flat

    async def story(consortium: Consortium) -> None:
        await consortium.join("A", runs(tiny_app(train, 7), 7))
        own = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        number = own.start(one_site_plan(tmp_path))
        await until(lambda: "make room" in own.listed()[0].reason)
        own.cancel(number)
        await asyncio.sleep(0.3)  # it cannot even say that it is cancelled
        disk.room()
        await until(lambda: status_of(consortium) == "cancelled", within_s=5)

    play(tmp_path, story)


@pytest.mark.parametrize(
    ("key", "other", "why"),
    [
        ("batch_size", "newer_key", "unknown key 'training.newer_key'"),
        ("cooldown", "settle", "the key 'training.settle' has a new name"),
    ],
)
def test_resumed_run_with_unreadable_plan_fails_and_the_server_stays(
    tmp_path: Path, key: str, other: str, why: str
) -> None:
    async def story(consortium: Consortium) -> None:
        registry = consortium.registry
        number = registry.training.start_run(registry.training.freeze(one_site_plan(tmp_path), 1.0), 1.0)
        with sqlite3.connect(tmp_path / "registry.sqlite") as db:
            db.execute("UPDATE plans SET canonical=replace(canonical, ?, ?)", (key, other))
        db.close()
        again = Runs(registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        again.resume()
        assert status_of(consortium) == "failed"
        assert why in registry.training.runs()[0].reason
        with pytest.raises(UserError, match=why):
            again.take_up(number)
        assert status_of(consortium) == "failed"

    play(tmp_path, story)
