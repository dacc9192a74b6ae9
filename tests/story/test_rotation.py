"""Rotation of the authority under a running consortium, with real processes."""

import datetime as dt
import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from hospitals import small_plan
from ynet.data.manifest import find_sites, read
from ynet_client.connection import doctor
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership
from ynet_client.proxy import ProxySettings, ways
from ynet_lab.trial import Trial

STAYS = [Path(__file__).parent / "staying_site.py"]


def until(true: Callable[[], object], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


def authority(trial: Trial, *arguments: object) -> dict[str, Any]:
    return dict(json.loads(good(trial.server_command("authority", *arguments, "--json"))))


def stages(trial: Trial) -> dict[str, str]:
    return {one["site"]: one["stage"] for one in trial.server_call("GET", "/authority")["sites"]}


def trains(trial: Trial, tmp_path: Path, seed: int, **more: Any) -> None:
    plan = small_plan(tmp_path / f"plan-{seed}.yaml", rounds=1, seed=seed)
    if more:
        plan.write_text(plan.read_text() + "".join(f"{key}: {value}\n" for key, value in more.items()))
    good(trial.server_command("train", "--plan", plan))
    trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])


def all_ask(trial: Trial, *sites: str) -> None:
    for site in sites:
        manifest = read(trial.sites[site])
        image = manifest.path_of(manifest.test[0].image)
        until(lambda: set(trial.query(site, image)["answered"]) == set(sites) - {site})  # noqa: B023 (called at once)


def good(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def invited(trial: Trial, site: str) -> str:
    return str(trial.server_call("POST", "/invitations", json={"site": site, "replace": False})["invitation"])


def enrol(trial: Trial, site: str, invitation: str) -> None:
    """Enrol as `join` does first."""
    trial.home(site).mkdir(parents=True, exist_ok=True)
    membership.enrol(trial.home(site), site, invitation)


def kept(trial: Trial, site: str) -> Membership:
    member = membership.load(trial.home(site))
    assert member is not None
    return member


def assert_well(trial: Trial, site: str) -> None:
    """Check that the site's doctor finds no fault."""
    assert doctor.failure(doctor.examine(trial.home(site), dt.datetime.now(dt.UTC))) is None


def test_rotation_of_authority_under_a_running_consortium(tmp_path: Path, data: Path) -> None:
    found = find_sites(data)
    with Trial(tmp_path / "trial", found) as trial:
        trial.start_server()
        trial.join("A")
        trial.join("C", script=STAYS)  # it pins the successor, and stays under the old authority
        trial.wait_connected("A", "C")
        for site in "BD":  # these are enrolled and away
            enrol(trial, site, invited(trial, site))
        waiting, old = invited(trial, "E"), kept(trial, "A")
        # 1. Two authorities. A moves automatically, C stays; B comes back in time, to a server that was killed.
        first = authority(trial, "show")
        assert (first["successor"], first["past"]) == (None, [])
        begun = authority(trial, "rotate")
        assert (begun["authority"], bool(begun["successor"])) == (first["authority"], True)
        until(lambda: stages(trial) == {"A": "moved", "B": "away", "C": "pinned", "D": "away"})
        trial.kill("server")
        trial.start_server()
        trial.join("B", "--data", found["B"], "--config", trial.config("B"))
        trial.wait_connected("A", "B", "C")
        until(lambda: stages(trial) == {"A": "moved", "B": "moved", "C": "pinned", "D": "away"})
        # 2. Both generations train, use secure sums, and ask each other. An earlier invitation is valid.
        trains(trial, tmp_path, 1, aggregation="secure")
        all_ask(trial, "A", "B", "C")
        enrol(trial, "E", waiting)
        for site in "CE":
            assert_well(trial, site)
        # 3. Retirement is refused at first because of sites that are not ready.
        refused = trial.server_command("authority", "retire")
        assert refused.returncode == 2
        assert "C (pinned), D (away), E (away)" in refused.stderr
        trial.stop("C")
        trial.join("C")
        until(lambda: stages(trial)["C"] == "moved")
        assert "has moved" in good(trial.server_command("authority", "show"))
        ended = authority(trial, "retire", "--force")
        assert (ended["shut_out"], ended["authority"], ended["successor"]) == (["D", "E"], begun["successor"], None)
        assert [one["authority"] for one in ended["past"]] == [first["authority"]]
        until(lambda: "in force no more" in trial.log("C"))
        # 4. All continue under the new authority alone, also after a restart of the server.
        trial.kill("server")
        trial.start_server()
        trial.wait_connected("A", "B", "C")
        trains(trial, tmp_path, 2)
        all_ask(trial, "A", "B", "C")
        for site in "ABC":
            assert_well(trial, site)
        good(trial.site_command("A", "audit", "verify"))
        assert json.loads(good(trial.server_command("audit", "verify", "--json")))["signed"] >= 4
        # 5. A certificate of the old authority is refused, even over a channel that trusts the new one.
        for trusts in (old, old._replace(authority=kept(trial, "A").authority)):
            with pytest.raises(grpc.RpcError) as caught:
                doctor.ask_hub(trusts, ways(ProxySettings(), {})(trusts.hub))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        # 6. A site that was away is told what to do, and it works.
        report = trial.site_command("D", "doctor")
        assert report.returncode == 2
        assert "it was replaced while this site was away" in report.stderr
        assert "ynet-server invite D --replace" in report.stderr
        enrol(trial, "D", json.loads(good(trial.server_command("invite", "D", "--replace", "--json")))["invitation"])
        assert_well(trial, "D")
        # 7. A thief has the key: all sites are disconnected at once.
        gone = authority(trial, "rotate", "--now")
        assert gone["shut_out"] == ["A", "B", "C", "D"]
        for site in "ABC":
            until(lambda site=site: "of an authority that was retired" in trial.log(site))  # type: ignore[misc]
        assert trial._processes["A"].wait(30) == 3
        enrol(trial, "A", json.loads(good(trial.server_command("invite", "A", "--replace", "--json")))["invitation"])
        assert_well(trial, "A")
        good(trial.site_command("A", "audit", "verify"))
        good(trial.server_command("audit", "verify"))
