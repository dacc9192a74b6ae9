"""A server that is stopped in the middle of a run: what it leaves is what the next start goes on with."""

import asyncio
from pathlib import Path

import yaml
from loopback import Consortium, Site, play, runs, tiny_app, until

from hospitals import small_plan
from ynet.federation import plan as plans
from ynet.federation.content import Content
from ynet_server.runs import Runs


def test_a_stop_during_the_last_evaluation_publishes_no_model_without_scores(tmp_path: Path) -> None:
    path = small_plan(tmp_path / "plan.yaml", rounds=1)
    values = yaml.safe_load(path.read_text("utf-8"))
    values["cohort"] = {"minimum": 1, "quorum": 1}
    path.write_text(yaml.safe_dump(values), "utf-8")
    honest, evaluating = runs(tiny_app(lambda _, flat: flat + 1, 7), 7), asyncio.Event()

    async def work(kind: str, received: Path) -> Content:
        if kind == "evaluate" and not evaluating.is_set():
            evaluating.set()
            await asyncio.sleep(60)
        return await honest.task(kind, received, lambda: False)

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A", Site(task=work))
        first = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        number = first.start(plans.read(path))
        await evaluating.wait()
        first.stop()
        await consortium.stop()
        await asyncio.sleep(0.3)
        assert [run.status for run in consortium.registry.runs()] == ["running"]
        assert not consortium.registry.models()

        await consortium.open()
        await until(lambda: joined.session.connected)
        again = Runs(consortium.registry, consortium.hub, asyncio.get_running_loop(), tmp_path)
        again.resume()
        await until(lambda: consortium.registry.runs()[0].status == "finished")
        assert consortium.registry.models()[0].card["scores"]
        assert [event["kind"] for event in again.folder(number).events()] == [
            *("started", "round", "resumed", "evaluated", "finished")
        ]

    play(tmp_path, story)
