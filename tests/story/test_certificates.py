"""A site's certificate over the years, with real processes: renewed automatically, revoked, and issued again."""

import datetime as dt
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet.trust import identity
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership
from ynet_lab.trial import Trial
from ynet_server.authority import certificates
from ynet_server.registry import Registry


@pytest.fixture
def trial(tmp_path: Path) -> "Trial":
    make_federation(tmp_path / "data", {"A": 12}, seed=1, size=32)
    return Trial(tmp_path, find_sites(tmp_path / "data"))


def until(true: Callable[[], object], within_s: float = 20.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def shown(trial: Trial) -> dict[str, object]:
    (site,) = json.loads(trial.server_command("sites", "--json").stdout)["sites"]
    return dict(site)


def enrolled(trial: Trial, age_days: float) -> Membership:
    """Enrol a site this long ago; it was away since."""
    now, home = dt.datetime.now(dt.UTC) - dt.timedelta(days=age_days), trial.home("A")
    home.mkdir(parents=True)
    made = trial.server_call("POST", "/invitations", json={"site": "A", "replace": False})["invitation"]
    member = membership.enrol(home, "A", made)
    authority = certificates.authority_of(trial.server_home, "", now)
    certificate = identity.issue_site(authority, "A", identity.signing_request(member.key, "A"), now)
    leaf = identity.read_leaf(certificate)
    registry = Registry(trial.server_home / "registry.sqlite")
    registry.invite("A", b"s" * 16, now.timestamp(), replace=True)
    registry.enrol("A", leaf.serial, certificate, now.timestamp(), leaf.ends.timestamp())
    registry.close()
    return membership.keep(home, member._replace(certificate=certificate))


def test_site_with_expiring_certificate_renews_at_once(trial: Trial) -> None:
    with trial:
        trial.start_server()
        old = enrolled(trial, 80)
        assert round(float(str(shown(trial)["certificate_days"]))) == 10
        trial.join("A", "--data", trial.sites["A"])
        until(lambda: "the certificate was renewed: good until" in trial.log("A"))
        trial.wait_connected("A")
        kept = membership.load(trial.home("A"))
        assert kept is not None
        assert kept.key != old.key
        assert (kept.ends - old.ends).days == 80
        until(lambda: round(float(str(shown(trial)["certificate_days"]))) == 90)
        status = json.loads(trial.site_command("A", "status", "--json").stdout)
        assert round(status["certificate_days"]) == 90
        assert trial.site_command("A", "doctor").returncode == 0


def test_revoked_site_is_disconnected_and_can_enrol_again(trial: Trial) -> None:
    with trial:
        trial.start_server()
        trial.join_all()
        process = trial._processes["A"]
        done = trial.server_call("POST", "/revocations", json={"site": "A"})
        until(lambda: "the certificate was revoked" in trial.log("A"), 5)
        assert done["was_connected"]
        assert process.wait(20) == 3
        assert (shown(trial)["revoked"], shown(trial)["connected"]) == (done["revoked"], False)
        trial.stop("A")
        made = json.loads(trial.server_command("invite", "A", "--replace", "--json").stdout)["invitation"]
        trial.join("A", "--invitation", made)
        trial.wait_connected("A")
        assert shown(trial)["revoked"] is None
