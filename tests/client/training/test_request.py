"""The parsing of a run's message by a site's app."""

import json

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from smallest_plan import smallest_plan

from ynet import __version__
from ynet import plan as plans
from ynet.errors import RefusedError
from ynet.federation.records import CONFIG, TRAIN
from ynet.plan import Plan
from ynet.schedule import Cooldown
from ynet_client.training import app_call
from ynet_client.training.request import RoundRequest, read_request


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


def auto_plan() -> Plan:
    values = json.loads(smallest_plan().canonical())
    values["training"] |= {"rounds": "auto", "max_rounds": 10, "schedule": "trapezoid"}
    return plans.from_canonical(json.dumps(values))


def read(plan: Plan, **config: object) -> RoundRequest:
    about = {
        "plan": plan.canonical(),
        "server-round": 1,
        **{key.replace("_", "-"): value for key, value in config.items()},
    }
    found, app = list[RoundRequest](), ClientApp()

    @app.train()
    def read_only(message: Message, _: Context) -> Message:
        found.append(read_request(message))
        return Message(RecordDict(), reply_to=message)

    records = RecordDict({CONFIG: ConfigRecord(about)})  # type: ignore[arg-type]
    app_call.call(app, app_call.new_context(), TRAIN, records)
    return found[0]


def test_request_of_auto_plan_has_its_place_in_the_cooldown() -> None:
    assert read(auto_plan()).cooldown is None
    assert read(auto_plan(), cooldown_round=2, cooldown_rounds=5).cooldown == Cooldown(2, 5)


def test_result_of_a_run_is_its_last_round_or_what_the_server_says() -> None:
    assert read(smallest_plan()).is_final
    assert not read(auto_plan()).is_final
    assert not read(auto_plan(), server_round=10).is_final
    assert read(auto_plan(), final=True).is_final
    assert not read(auto_plan(), final="yes").is_final


@pytest.mark.parametrize(
    "config",
    [
        {"cooldown_round": 6, "cooldown_rounds": 5},
        {"cooldown_round": 0, "cooldown_rounds": 5},
        {"cooldown_round": 1, "cooldown_rounds": 11},
        {"cooldown_round": 2},
        {"cooldown_rounds": 0},
        {"cooldown_round": "1", "cooldown_rounds": 5},
        {"server_round": 11},
    ],
)
def test_place_outside_the_cooldown_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match="is no whole number from"):
        read(auto_plan(), **config)


@pytest.mark.parametrize("config", [{"cooldown_round": 1}, {"cooldown_rounds": 1}, {"final": True}])
def test_phase_is_refused_in_plan_with_known_rounds(config: dict[str, object]) -> None:
    with pytest.raises(RefusedError, match="does not fit the plan"):
        read(smallest_plan(), **config)


def test_sites_of_a_secure_sum_begin_at_the_same_place_of_the_cooldown() -> None:
    begins = {
        read(auto_plan(), **config).begins
        for config in ({}, {"cooldown_round": 1, "cooldown_rounds": 5}, {"cooldown_round": 5, "cooldown_rounds": 5})
    }
    assert len(begins) == 3
