"""A site in a secure sum with a dishonest server: it refuses everything beyond one sum per round."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, RecordDict
from loopback import tiny_app

from ynet import plan as plans
from ynet.errors import RefusedError, UserError
from ynet.federation import secure_sum
from ynet.federation.content import Content
from ynet.federation.records import ARRAYS, CONFIG, KEYS, MASK, OPEN, TRAIN, flat_weights, to_records, weights_record
from ynet.federation.secure_sum import Masked, Offer, Purpose, fresh_keys
from ynet.plan import Plan
from ynet.trust import identity
from ynet.trust.identity import Identity
from ynet_client import restored
from ynet_client.restored import Restored
from ynet_client.settings import Policy
from ynet_client.site_backup import withdraw_acceptances
from ynet_client.training import app_call, secure_aggregation
from ynet_client.training.consent import Consent
from ynet_client.training.secure_aggregation import Party

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)
PLAN = plans.from_canonical(
    json.dumps(
        {
            "name": "t",
            "classes": ["a", "b"],
            "image": {"channels": 1, "size": 32},
            "training": {"rounds": 9, "learning_rate": 0.1},
            "cohort": {"min_sites": 3, "quorum": 3},
            "privacy": {"mode": "off"},
            "aggregation": "secure",
        }
    )
)


class Site:
    """A site and the messages of a server."""

    def __init__(self, name: str, home: Path | None = None, plan: Plan = PLAN) -> None:
        key = identity.new_key()
        certificate = identity.issue_site(AUTHORITY, name, identity.signing_request(key, name), NOW)
        self.party = Party(name, Identity(key, certificate), AUTHORITY.certificate, home)
        self.plan = plan
        self.start()

    def start(self) -> None:
        """Restart the process: the state in memory is lost."""
        self.app = tiny_app(lambda number, flat: flat + np.float32(number), 5, party=self.party)
        self.context: Context = app_call.new_context()

    def ask(
        self, kind: str, number: int, attempt: int = 1, roster: str = "", begin: np.ndarray | None = None
    ) -> Content:
        config = {"plan": self.plan.canonical(), "server-round": number, "attempt": attempt, "roster": roster}
        records = RecordDict({CONFIG: ConfigRecord(config)})
        if kind == TRAIN:
            records[ARRAYS] = weights_record(np.zeros(7, np.float32) if begin is None else begin)
        return app_call.call(self.app, self.context, kind, records)

    def train(self, number: int, begin: np.ndarray | None = None) -> Offer:
        return secure_sum.offer_from_json(str(self.ask(TRAIN, number, begin=begin).configs[CONFIG]["offer"]))

    def renew(self, number: int, attempt: int) -> Offer:
        return secure_sum.offer_from_json(str(self.ask(KEYS, number, attempt).configs[CONFIG]["offer"]))

    def mask(self, number: int, roster: list[Offer], attempt: int = 1) -> Masked:
        reply = self.ask(MASK, number, attempt, secure_sum.roster_to_json(roster))
        return secure_sum.from_wire(flat_weights(to_records(reply).array_records[ARRAYS]))

    def open(self, number: int, attempt: int = 1) -> bytes:
        return bytes.fromhex(str(self.ask(OPEN, number, attempt).configs[CONFIG]["mask"]))


def sites(names: str = "ABC") -> list[Site]:
    return [Site(name) for name in names]


def test_three_sites_are_summed(tmp_path: Path) -> None:
    three = sites()
    roster = [site.train(2) for site in three]
    total = secure_sum.add_up([site.mask(2, roster) for site in three])
    summed = secure_sum.unmask(total, [site.open(2) for site in three])
    np.testing.assert_allclose(summed, 3 * 5 * 2.0)


def test_sum_continues_when_a_certificate_is_renewed() -> None:
    three = sites()
    roster = [site.train(2) for site in three]
    first, key = three[0], identity.new_key()
    renewed = identity.issue_site(AUTHORITY, "A", identity.signing_request(key, "A"), NOW)
    first.party = first.party._replace(own=Identity(key, renewed))
    first.app = tiny_app(lambda number, flat: flat + np.float32(number), 5, party=first.party)
    total = secure_sum.add_up([site.mask(2, roster) for site in three])
    np.testing.assert_allclose(secure_sum.unmask(total, [site.open(2) for site in three]), 3 * 5 * 2.0)
    roster = [site.train(3) for site in three]
    assert roster[0].certificate == renewed.decode()
    total = secure_sum.add_up([site.mask(3, roster) for site in three])
    np.testing.assert_allclose(secure_sum.unmask(total, [site.open(3) for site in three]), 3 * 5 * 3.0)


def test_server_reporting_a_present_site_lost_gets_one_sum() -> None:
    four = sites("ABCD")
    roster = [site.train(1) for site in four]
    first = secure_sum.add_up([site.mask(1, roster) for site in four])
    own = [site.open(1) for site in four[:3]]  # they are told that all is well
    for site in four[:3]:
        with pytest.raises(RefusedError, match="was summed already"):
            site.renew(1, 2)
    four[3].renew(1, 2)  # D is told otherwise, and so keeps its own mask of the first for good
    with pytest.raises(RefusedError, match="nothing was masked for this attempt"):
        four[3].open(1, 1)
    with pytest.raises(RefusedError, match="do not cancel"):
        secure_sum.unmask(first, own)


def test_after_fresh_keys_the_masks_of_the_sum_before_are_given_to_nobody() -> None:
    four = sites("ABCD")
    roster = [site.train(1) for site in four]
    for site in four:
        site.mask(1, roster)
    four[0].renew(1, 2)
    for attempt in (1, 2):
        with pytest.raises(RefusedError, match="nothing was masked"):
            four[0].open(1, attempt)


def test_a_round_that_was_summed_is_not_trained_or_summed_again() -> None:
    three = sites()
    roster = [site.train(4) for site in three]
    three[0].mask(4, roster)
    three[0].open(4)
    assert three[0].open(4) == three[0].open(4)  # whose answer was lost is asked again
    for number in (4, 3):
        with pytest.raises(RefusedError, match="is over"):
            three[0].train(number)
    for again in (lambda: three[0].mask(4, roster), lambda: three[0].renew(4, 2)):
        with pytest.raises(RefusedError):
            again()
    three[0].train(5)


def test_a_restart_does_not_make_a_site_forget_what_was_summed(tmp_path: Path) -> None:
    others, site = sites("BC"), Site("A", tmp_path)
    roster = [one.train(4) for one in (site, *others)]
    site.mask(4, roster)
    site.open(4)
    site.start()
    with pytest.raises(RefusedError, match="is over"):
        site.train(4)
    with pytest.raises(RefusedError, match="may have restarted"):
        site.open(4)
    site.train(5)


def test_two_runs_at_once_get_one_sum_of_a_round(tmp_path: Path) -> None:
    """As with SuperLink: the node states of two runs are separate."""
    others = sites("BCD")
    site, other_run = Site("A", tmp_path), Site("A", tmp_path)
    other_run.party = site.party
    other_run.start()
    for number, (run, peers) in enumerate(((site, others), (other_run, others[:2]))):
        roster = [one.train(2) for one in (run, *peers)]
        run.mask(2, roster)
        if number == 0:
            continue
        run.open(2)
    with pytest.raises(RefusedError, match="was summed already"):
        site.open(2)
    assert other_run.open(2)


def test_sites_that_were_let_begin_elsewhere_are_in_no_sum_with_this_one() -> None:
    """Otherwise a server that knows the others' updates gets this site's update by subtraction."""
    three = sites()
    roster = [site.train(1) for site in three[:2]]
    roster.append(three[2].train(1, begin=np.ones(7, np.float32)))
    with pytest.raises(RefusedError, match="not that of its certificate"):
        three[0].mask(1, roster)


def test_another_plan_begins_at_its_own_first_round(tmp_path: Path) -> None:
    others, site = sites("BC"), Site("A", tmp_path)
    roster = [one.train(4) for one in (site, *others)]
    site.mask(4, roster)
    site.open(4)
    site.plan = replace(PLAN, name="another")
    site.train(1)


def test_a_record_of_sums_that_cannot_be_read_stops_secure_sums(tmp_path: Path) -> None:
    (tmp_path / secure_aggregation.SUMMED).write_text("{")
    with pytest.raises(RefusedError, match="cannot be read"):
        Site("A", tmp_path).train(1)


def test_keys_mask_once() -> None:
    three = sites()
    roster = [site.train(1) for site in three]
    three[0].mask(1, roster)
    with pytest.raises(RefusedError, match="used already"):
        three[0].mask(1, [*roster[:2], Site("C").train(1)])


def test_a_refused_roster_uses_nothing_up() -> None:
    three = sites()
    roster = [site.train(1) for site in three]
    with pytest.raises(RefusedError, match="2 sites"):
        three[0].mask(1, roster[:2])
    three[0].mask(1, roster)


def test_the_keys_of_another_round_or_attempt_are_refused() -> None:
    three = sites()
    old = [site.train(1) for site in three]
    new = [site.train(2) for site in three]
    with pytest.raises(RefusedError, match="not that of its certificate"):
        three[0].mask(2, [new[0], *old[1:]])
    renewed = [site.renew(2, 2) for site in three]
    with pytest.raises(RefusedError, match="not that of its certificate"):
        three[0].mask(2, [renewed[0], *new[1:]], attempt=2)


def test_a_key_that_the_server_put_in_the_place_of_a_sites_is_refused() -> None:
    three = sites()
    roster = [site.train(1) for site in three]
    made = fresh_keys(
        Site("B").party.own, "B", Purpose(PLAN.id, 1, 1, secure_sum.beginning(np.zeros(7, np.float32), 0.0))
    ).offer  # by another key of the same name
    forged = replace(made, certificate=roster[1].certificate)
    with pytest.raises(RefusedError, match="not that of its certificate"):
        three[0].mask(1, [roster[0], forged, roster[2]])


@pytest.mark.parametrize("attempt", [1, 3])
def test_attempts_follow_each_other(attempt: int) -> None:
    site = Site("A")
    site.train(1)
    with pytest.raises(RefusedError, match="the next attempt is 2"):
        site.renew(1, attempt)


@pytest.mark.parametrize("kind", [KEYS, MASK, OPEN])
def test_a_site_that_trained_nothing_sums_nothing(kind: str) -> None:
    with pytest.raises(RefusedError, match="no update of that round"):
        Site("A").ask(kind, 1)


def test_a_plan_with_a_lower_quorum_brings_no_smaller_sum() -> None:
    """A plan cannot set a lower minimum, and a site enforces three sites anyway."""
    with pytest.raises(UserError, match=r"needs a 'cohort\.quorum' of 3"):
        plans.from_canonical(json.dumps(json.loads(PLAN.canonical()) | {"cohort": {"min_sites": 2, "quorum": 2}}))


def test_a_site_from_a_backup_is_in_no_sum_before_its_admin_has_said_yes_again(tmp_path: Path) -> None:
    """Also when the policy accepts all plans, and when the acceptance is as old as the backup."""
    consent = Consent(tmp_path, Policy(new_plans="accept"))
    consent.say(PLAN.id, "accepted")
    (tmp_path / "plans" / f"{PLAN.id}.json").write_text(PLAN.canonical())
    site = Site("A", home=tmp_path)
    restored.write(tmp_path, Restored(1_700_000_000.0, 1_700_000_900.0))
    withdraw_acceptances(tmp_path)
    with pytest.raises(RefusedError) as refused:
        site.train(1)
    assert "it may have been in one of this plan since" in refused.value.why
    consent.say(PLAN.id, "accepted")
    assert site.train(1)


def test_a_site_from_a_backup_keeps_its_yes_to_plain_plans(tmp_path: Path) -> None:
    plain = replace(PLAN, aggregation="plain")
    consent = Consent(tmp_path, Policy())
    consent.say(plain.id, "accepted")
    (tmp_path / "plans" / f"{plain.id}.json").write_text(plain.canonical())
    withdraw_acceptances(tmp_path)
    assert consent.decision_on(plain.id) == "accepted"
