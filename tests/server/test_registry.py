"""What the server remembers, over its death too."""

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from smallest_plan import smallest_plan

from ynet.errors import RefusedError, UserError
from ynet.trust import invitation
from ynet_server.registry import Registry
from ynet_server.training_records import PublishedModel

DAY_S = 24 * 3600.0
SECRET = b"s" * 16


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry(tmp_path / "r")
    yield opened
    opened.close()


def test_an_invitation_is_open_for_a_day_and_for_its_own_site_only(registry: Registry) -> None:
    registry.invite("A", SECRET, 0.0, replace=False)
    assert registry.invited("A", DAY_S) == (invitation.verifier(SECRET), None)
    for site, now in (("A", DAY_S + 1), ("B", 1.0), ("a", 1.0), ("", 1.0)):
        with pytest.raises(RefusedError, match="no open invitation"):
            registry.invited(site, now)


def test_a_newer_invitation_takes_the_place_of_the_older(registry: Registry) -> None:
    registry.invite("A", SECRET, 0.0, replace=False)
    registry.invite("A", b"t" * 16, DAY_S, replace=False)
    assert registry.invited("A", DAY_S + 1) == (invitation.verifier(b"t" * 16), None)


def test_a_name_that_is_taken_is_not_invited_unless_the_site_is_to_be_replaced(registry: Registry) -> None:
    registry.invite("A", SECRET, 0.0, replace=False)
    registry.enrol("A", 1, b"certificate", 1.0)
    with pytest.raises(UserError, match="has enrolled already") as caught:
        registry.invite("A", b"t" * 16, 2.0, replace=False)
    assert caught.value.do.endswith("ynet-server invite A --replace")
    assert registry.invited("A", 2.0) == (invitation.verifier(SECRET), b"certificate")
    registry.invite("A", b"t" * 16, 3.0, replace=True)
    assert registry.invited("A", 4.0) == (invitation.verifier(b"t" * 16), None)
    assert registry.holds("A", 1)


@pytest.mark.parametrize("name", ["", "a b", "../a", "A\n", "x" * 33])
def test_a_name_that_cannot_name_a_site_is_not_invited(registry: Registry, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a site"):
        registry.invite(name, SECRET, 0.0, replace=True)


def test_only_the_certificate_enrolled_last_is_held_and_only_by_its_own_site(registry: Registry) -> None:
    large = (1 << 159) - 1  # a serial number has up to 20 bytes
    registry.enrol("A", 1, b"c", 1.0)
    registry.enrol("B", 2, b"c", 1.0)
    assert registry.holds("A", 1)
    assert not registry.holds("A", 2)
    registry.enrol("A", large, b"c", 2.0)
    assert (registry.holds("A", 1), registry.holds("A", large), registry.holds("B", 2)) == (False, True, True)


def test_a_renewal_counts_beside_the_certificate_until_it_is_used(registry: Registry) -> None:
    registry.enrol("A", 1, b"first", 1.0, 90.0)
    registry.renew("A", 2, b"second", 2.0, 180.0)
    registry.used("A", 1, 90.0, 3.0)
    assert [registry.standing("A", serial) for serial in (1, 2, 3)] == ["current", "next", "unknown"]
    assert (registry.sites()[0].ends, registry.next_certificate("A")) == (90.0, b"second")
    registry.used("A", 2, 180.0, 4.0)
    assert [registry.standing("A", serial) for serial in (1, 2)] == ["replaced", "current"]
    assert (registry.sites()[0].ends, registry.next_certificate("A")) == (180.0, None)


def test_a_renewal_that_was_never_used_gives_way_to_another(registry: Registry) -> None:
    registry.enrol("A", 1, b"first", 1.0, 90.0)
    for serial in (2, 3):
        registry.renew("A", serial, b"c", 2.0, 180.0)
    assert [registry.standing("A", serial) for serial in (1, 2, 3)] == ["current", "unknown", "next"]


def test_what_a_site_says_when_it_connects_is_kept(registry: Registry) -> None:
    registry.enrol("A", 1, b"c", 1.0)
    registry.saw("A", "0.1", 2**32 - 1, 5.0)
    assert registry.sites()[0][3:6] == (5.0, "0.1", 2**32 - 1)


def test_a_frozen_plan_comes_back_as_it_was_and_a_changed_one_is_another(registry: Registry) -> None:
    ids = {registry.training.freeze(smallest_plan(), at) for at in (1.0, 2.0)}
    assert ids == {smallest_plan().id}
    assert registry.training.freeze(smallest_plan("u"), 1.0) != smallest_plan().id
    assert registry.training.plan(smallest_plan().id) == smallest_plan()
    with pytest.raises(UserError, match="there is no plan"):
        registry.training.plan("0" * 64)


def test_one_run_at_a_time(registry: Registry) -> None:
    frozen = registry.training.freeze(smallest_plan(), 1.0)
    first = registry.training.start_run(frozen, 1.0)
    with pytest.raises(UserError, match=f"run {first} is under way"):
        registry.training.start_run(frozen, 2.0)
    registry.training.end_run(first, "failed", "why", None, 3.0)
    second = registry.training.start_run(frozen, 4.0)
    assert [(run.id, run.status, run.reason) for run in registry.training.runs()] == [
        (second, "running", ""),
        (first, "failed", "why"),
    ]


def test_two_threads_cannot_both_start_a_run(registry: Registry) -> None:
    frozen = registry.training.freeze(smallest_plan(), 1.0)
    outcomes: list[str] = []

    def start() -> None:
        try:
            outcomes.append(str(registry.training.start_run(frozen, 1.0)))
        except UserError:
            outcomes.append("refused")

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["1", *["refused"] * 7]


def test_a_run_needs_a_frozen_plan(registry: Registry) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        registry.training.start_run("0" * 64, 1.0)
    assert not registry.training.runs()


def test_the_newest_model_is_the_one_in_use_and_a_repeat_is_no_second_one(registry: Registry) -> None:
    run = registry.training.start_run(registry.training.freeze(smallest_plan(), 1.0), 1.0)
    for name, published in (("m1", 1e9), ("m2", 2.0), ("m2", 2.0)):  # the first while the clock was ahead
        registry.training.publish(PublishedModel(name, run, {"plan": "t"}, published))
    assert [model.id for model in registry.training.models()] == ["m2", "m1"]
    assert registry.training.models()[0].card == {"plan": "t"}


def test_all_of_it_is_there_after_a_death_without_a_farewell(tmp_path: Path) -> None:
    dead = Registry(tmp_path / "r")
    dead.enrol("A", 1, b"c", 1.0)
    run = dead.training.start_run(dead.training.freeze(smallest_plan(), 1.0), 1.0)
    dead.training.publish(PublishedModel("m", run, {}, 1.0))
    alive = Registry(tmp_path / "r")  # the other was never closed
    assert alive.holds("A", 1)
    assert [r.status for r in alive.training.runs()] == ["running"]
    assert [model.id for model in alive.training.models()] == ["m"]
    alive.close()
    dead.close()


def test_a_registry_of_another_version_is_not_touched(tmp_path: Path) -> None:
    Registry(tmp_path / "r").close()
    with sqlite3.connect(tmp_path / "r") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(UserError, match="another ynet version"):
        Registry(tmp_path / "r")


def test_a_registry_of_the_version_before_is_taken_on_with_all_that_is_in_it(tmp_path: Path) -> None:
    old = Registry(tmp_path / "r")
    old.training.freeze(smallest_plan(), 1.0)
    old.enrol("A", 1, b"c", 1.0)
    old.close()
    with sqlite3.connect(tmp_path / "r") as db:
        db.executescript("DROP TABLE ledgers; DROP TABLE certificates; PRAGMA user_version=1;")
    db.close()
    for _ in range(2):
        again = Registry(tmp_path / "r")
        assert again.ledger_of("A") is None
        assert again.training.plan(smallest_plan().id) == smallest_plan()
        assert again.holds("A", 1)
        assert again.sites()[0].ends is None
        again.used("A", 1, 90.0, 5.0)  # it comes again: from now on it is known how long it is good
        assert again.sites()[0].ends == 90.0
        again.close()
        with sqlite3.connect(tmp_path / "r") as db:
            db.execute("UPDATE certificates SET ends=NULL")
        db.close()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"seed":1', '"newer_key":1', "unknown key 'training.newer_key'"),
        ('"cooldown":0.0', '"settle":0.0', "key 'training.settle' has a new name"),
        ('"weight_decay":0.05', '"weight_decay":0.04', "is another one now"),
    ],
)
def test_a_plan_that_another_ynet_froze_is_that_very_plan_or_refused(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    registry = Registry(tmp_path / "r")
    plan_id = registry.training.freeze(smallest_plan(), 1.0)
    with sqlite3.connect(tmp_path / "r") as db:
        db.execute("UPDATE plans SET canonical=replace(canonical, ?, ?)", (old, new))
    db.close()
    with pytest.raises(UserError, match=words):
        registry.training.plan(plan_id)
    registry.close()


def test_a_file_that_is_no_registry_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(b"not SQLite at all, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        Registry(tmp_path / "r")
