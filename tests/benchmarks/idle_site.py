"""A site whose training only waits, to measure the overhead of a round. Run by round_overhead.py."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch  # noqa: F401 (unused; a real site's process imports it, so its time and memory count)
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from ynet import weights
from ynet.federation import hub_pb2 as pb
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, CASES, CONFIG, METRICS, weights_record
from ynet.runtime.home import prepare
from ynet_client.adoption.adopting import Fetch
from ynet_client.connection.session import Session
from ynet_client.membership import membership
from ynet_client.training import app_call

ARRAY_COUNT = 80


def build(megabytes: float, train_s: float) -> ClientApp:
    app = ClientApp()
    values = int(megabytes * 1e6 / 4 / ARRAY_COUNT)
    layout = tuple(weights.LayoutEntry(f"layer{i:02d}", (values,)) for i in range(ARRAY_COUNT))

    @app.query("initial")
    def initial(message: Message, context: Context) -> Message:
        config = ConfigRecord({"layout": weights.layout_to_json(layout)})
        flat = np.zeros(ARRAY_COUNT * values, np.float32)
        content = {ARRAYS: weights_record(flat), CONFIG: config, METRICS: MetricRecord({CASES: 1})}
        return Message(RecordDict(content), reply_to=message)

    @app.train()
    def train(message: Message, context: Context) -> Message:
        time.sleep(train_s)
        metrics = MetricRecord({CASES: 1, "loss": 0.0})
        return Message(RecordDict({ARRAYS: message.content[ARRAYS], METRICS: metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({METRICS: MetricRecord({CASES: 1})}), reply_to=message)

    return app


class Waits:
    """A site without data."""

    def __init__(self, app: ClientApp) -> None:
        self._app, self._context = app, app_call.new_context()

    def cases(self) -> int:
        return 1

    async def task(self, kind: str, received: Path, cancelled: Callable[[], bool]) -> Content:
        return await asyncio.to_thread(lambda: app_call.call(self._app, self._context, kind, app_call.load(received)))

    async def answer(self, from_site: str, body: bytes) -> bytes:
        return body

    async def model(self, model: pb.Model, fetch: Fetch) -> None:
        pass


def main() -> None:
    name, invitation, folder, megabytes, train_s = sys.argv[1:]
    home = prepare(Path(folder))
    member = membership.enrol(home, name, invitation)
    spool = home / "spool"
    spool.mkdir()
    work = Waits(build(float(megabytes), float(train_s)))
    asyncio.run(Session(member, spool, work, lambda line: print(line, flush=True)).run())


if __name__ == "__main__":
    main()
