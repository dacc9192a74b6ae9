"""A site takes part in plans that its policy allows and its admin has accepted."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, RecordDict

from ynet.config import parse
from ynet.data.synthetic import CLASSES, make_federation
from ynet.errors import RefusedError, UserError
from ynet.federation.records import ARRAYS, AWAITED, CONFIG, INITIAL, METRICS
from ynet.plan import Plan
from ynet_client.settings import ClientSettings, Policy
from ynet_client.training import app_call, client_app
from ynet_client.training.consent import Consent, check, terms

VALUES: dict[str, Any] = {
    "name": "t",
    "classes": list(CLASSES),
    "image": {"channels": 1, "size": 32},
    "network": {"width": 4, "code_bits": 32},
    "training": {"rounds": 4, "learning_rate": 1e-3, "local_epochs": 5},
    "cohort": {"min_sites": 3, "quorum": 3},
    "privacy": {"mode": "off"},
}
PLAN = parse(Plan, VALUES, "the test's plan")
ACCEPT = Policy(new_plans="accept")


def plan(**changes: Any) -> Plan:
    return parse(Plan, {**VALUES, **changes}, "the test's plan")


def test_a_new_plan_waits_for_the_admins_word_and_is_told_once(tmp_path: Path) -> None:
    told: list[Plan] = []
    consent = Consent(tmp_path, Policy(), told.append)
    assert not consent.admits(PLAN)
    assert not consent.admits(PLAN)
    assert told == [PLAN]
    consent.say(PLAN.id[:12], "accepted")
    assert consent.admits(PLAN)


def test_the_word_outlives_the_process_and_can_be_taken_back(tmp_path: Path) -> None:
    Consent(tmp_path, Policy()).say(PLAN.id, "accepted")
    again = Consent(tmp_path, Policy())
    assert again.admits(PLAN)
    Consent(tmp_path, Policy()).say(PLAN.id, "declined")
    with pytest.raises(RefusedError, match="declined"):
        again.admits(PLAN)
    Consent(tmp_path, Policy()).say(PLAN.id, "accepted")
    assert again.admits(PLAN)


def test_a_plan_that_changed_is_a_new_plan(tmp_path: Path) -> None:
    consent = Consent(tmp_path, Policy())
    consent.say(PLAN.id, "accepted")
    assert not consent.admits(plan(training={**VALUES["training"], "rounds": 5}))


def test_a_declined_plan_is_refused_even_where_new_ones_are_taken(tmp_path: Path) -> None:
    consent = Consent(tmp_path, ACCEPT)
    assert consent.admits(PLAN)
    consent.say(PLAN.id, "declined")
    with pytest.raises(RefusedError, match="declined"):
        consent.admits(PLAN)


@pytest.mark.parametrize("letters", ["", "abc", "0" * 12, "../../x", "f" * 63, "F" * 64])
def test_an_id_that_is_none_is_refused_and_names_no_file(tmp_path: Path, letters: str) -> None:
    with pytest.raises(UserError, match="whole id"):
        Consent(tmp_path, Policy()).say(letters, "accepted")
    assert list(tmp_path.iterdir()) == []


PRIVATE = {"mode": "patient", "epsilon": 8.0, "delta": 0.001}


@pytest.mark.parametrize(
    ("policy", "against", "fitting"),
    [
        (Policy(recipes=("csq", "default")), {"recipe": "plain"}, {"recipe": "csq"}),
        (Policy(privacy="required"), {}, {"privacy": PRIVATE}),
        (Policy(aggregation="secure"), {}, {"aggregation": "secure"}),
        (Policy(min_sites=4), {}, {"cohort": {"min_sites": 4, "quorum": 4}}),
        (Policy(max_epochs=19), {}, {"training": {"rounds": 19, "learning_rate": 1e-3}}),
    ],
    ids=["recipe", "privacy", "aggregation", "sites", "epochs"],
)
def test_the_policy_refuses_with_its_reason_what_the_admin_could_not_accept_either(
    tmp_path: Path, policy: Policy, against: dict[str, Any], fitting: dict[str, Any]
) -> None:
    check(plan(**fitting), policy)
    Consent(tmp_path, policy).say(plan(**against).id, "accepted")
    with pytest.raises(RefusedError, match="policy does not allow"):
        Consent(tmp_path, policy).admits(plan(**against))


def test_every_policy_is_checked() -> None:
    """Every key of the policy must be enforced."""
    strictest = Policy("ask", ("plain",), "required", "secure", 10_000, 1)
    refused = 0
    for key in set(asdict(strictest)) - {"new_plans"}:
        with pytest.raises(RefusedError):
            check(PLAN, replace(Policy(), **{key: getattr(strictest, key)}))
        refused += 1
    assert refused == 5


def test_what_a_site_says_yes_to_is_the_least_quorum_that_a_run_may_ever_have() -> None:
    lower = plan(cohort={"min_sites": 3, "quorum": 3, "min_quorum": 2})
    check(lower, Policy(min_sites=2))
    with pytest.raises(RefusedError, match="fewer than 3 sites"):
        check(lower, Policy(min_sites=3))
    assert any("at least 2 in each round" in line for line in terms(lower))
    assert lower.id != PLAN.id
    assert plan(cohort={"min_sites": 3, "quorum": 3, "min_quorum": None}).id == PLAN.id


@pytest.mark.parametrize("changes", [{"aggregation": "plain"}, {"aggregation": "secure"}])
def test_a_floor_above_the_quorum_or_below_three_in_secret_is_no_plan(changes: dict[str, Any]) -> None:
    least = 4 if changes["aggregation"] == "plain" else 2
    with pytest.raises(UserError, match=r"cohort\.min_quorum"):
        plan(cohort={"min_sites": 3, "quorum": 3, "min_quorum": least}, **changes)


def test_the_terms_say_what_leaves_and_what_it_costs() -> None:
    open_terms, secret = "\n".join(terms(PLAN)), "\n".join(terms(plan(aggregation="secure", privacy=PRIVATE)))
    assert PLAN.id in open_terms
    for words in ("4 rounds x 5 epochs", "at least 3 in each round", "none: what leaves may tell", "the server sees"):
        assert words in open_terms
    assert "by class, by mask and of patients with several, rounded up to multiples of 5" in open_terms
    silent = "\n".join(terms(plan(privacy={**PRIVATE, "scores": "none"})))
    assert "none leave this site" in silent
    assert "by class" not in silent
    for words in ("epsilon 8 at delta 0.001", "the sum of the sites' weights", "for one set of weights"):
        assert words in secret


def test_terms_name_the_encoder_with_its_digest_and_size() -> None:
    assert "encoder" not in "\n".join(terms(PLAN))
    sha256 = "ab" * 32
    said = "\n".join(terms(plan(network={"encoder": "resnet50", "encoder_weights": sha256})))
    assert f"encoder    resnet50, 94 MB, fetched once from the server; SHA-256 {sha256}" in said


def test_a_server_that_sends_new_plans_without_end_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ynet_client.training.consent.MOST_KEPT", 3)
    consent = Consent(tmp_path, Policy())
    for number in range(3):
        assert not consent.admits(plan(name=f"n{number}"))
    with pytest.raises(RefusedError, match="too many plans"):
        consent.admits(PLAN)
    assert len(list(consent.seen())) == 3


@pytest.mark.parametrize("word", [None, "accepted", "declined"])
def test_a_node_takes_part_when_its_admin_has_said_so(tmp_path: Path, word: Any) -> None:
    make_federation(tmp_path / "data", {"A": 8}, seed=1, size=32)
    home = tmp_path / "home"
    if word:
        Consent(home, Policy()).say(PLAN.id, word)
    config = {"manifest": str(tmp_path / "data/A/manifest.csv"), "home": str(home), "device": "cpu"}
    context = Context(run_id=0, node_id=0, node_config=config, state=RecordDict(), run_config={})
    records = RecordDict({CONFIG: ConfigRecord({"plan": PLAN.canonical()})})
    if word == "declined":
        with pytest.raises(RefusedError, match="declined"):
            app_call.call(client_app.app, context, INITIAL, records)
        return
    reply = app_call.call(client_app.app, context, INITIAL, records)
    assert (AWAITED in reply.configs[CONFIG]) == (word is None)
    assert (ARRAYS in reply.arrays, METRICS in reply.metrics) == (word is not None,) * 2


def test_a_node_without_a_home_takes_part_in_nothing(tmp_path: Path) -> None:
    make_federation(tmp_path / "data", {"A": 8}, seed=1, size=32)
    config = {"manifest": str(tmp_path / "data/A/manifest.csv")}
    context = Context(run_id=0, node_id=0, node_config=config, state=RecordDict(), run_config={})
    records = RecordDict({CONFIG: ConfigRecord({"plan": PLAN.canonical()})})
    with pytest.raises(RefusedError, match="no folder to store"):
        app_call.call(client_app.app, context, INITIAL, records)


def test_asking_is_what_settings_do_that_say_nothing() -> None:
    assert ClientSettings().policy.new_plans == "ask"


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"name": "of a newer ynet", "newer_key": 1}'])
def test_a_plan_that_another_ynet_kept_hides_no_other(tmp_path: Path, content: bytes) -> None:
    consent = Consent(tmp_path, Policy())
    assert not consent.admits(PLAN)
    (tmp_path / "plans" / f"{'0' * 64}.json").write_bytes(content)
    (tmp_path / "plans" / f"{'1' * 64}.json").write_text(PLAN.canonical(), "utf-8")  # named otherwise then
    assert [one.plan for one in consent.seen()] == [PLAN]
