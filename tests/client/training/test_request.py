"""The parsing of a run's message by a site's app."""

import json

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from smallest_plan import smallest_plan

from ynet import __version__
from ynet.errors import RefusedError
from ynet.federation.records import CONFIG, TRAIN
from ynet_client.training import app_call
from ynet_client.training.request import read_request


def test_plan_of_newer_ynet_is_refused_with_key_and_version() -> None:
    app = ClientApp()

    @app.train()
    def read_only(message: Message, _: Context) -> Message:
        read_request(message)
        return Message(RecordDict(), reply_to=message)

    newer = json.loads(smallest_plan().canonical())
    newer["training"]["newer_key"] = 1
    records = RecordDict({CONFIG: ConfigRecord({"plan": json.dumps(newer)})})
    with pytest.raises(RefusedError) as caught:
        app_call.call(app, app_call.new_context(), TRAIN, records)
    assert f"ynet {__version__}" in caught.value.why
    assert "unknown key 'training.newer_key'" in caught.value.why
