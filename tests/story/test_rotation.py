"""The authority is rotated under a working consortium, with whole processes: who was there in time goes on."""

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
from trial import Trial
from ynet.data.manifest import find_sites, read
from ynet_client import doctor, membership

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


def test_a_consortium_lives_through_its_authoritys_rotation_and_who_was_away_is_told_what_to_do(
    tmp_path: Path, data: Path
) -> None:
    found = find_sites(data)
    with Trial(tmp_path / "trial", found) as trial:
        trial.start_server()
        trial.join_all()
        # D has enrolled, and is away from now on.
        trial.sites["D"] = found["C"]
        trial.join("D")
        trial.wait_connected("D")
        trial.stop("D")
        del trial.sites["D"]
        old = {site: membership.load(trial.home(site)) for site in "ABC"}
        assert all(old.values())
        waiting = trial.server_call("POST", "/invitations", json={"site": "E", "replace": False})["invitation"]
        # 1. Two authorities. A moves over by itself; C pins the new one and stays under the old; B comes back in time.
        trial.stop("C")
        trial.stop("B")
        trial.join("C", script=STAYS)
        trial.wait_connected("C")
        first = authority(trial, "show")
        assert (first["successor"], first["past"]) == (None, [])
        begun = authority(trial, "rotate")
        assert (begun["authority"], bool(begun["successor"])) == (first["authority"], True)
        until(lambda: stages(trial) == {"A": "moved", "B": "away", "C": "pinned", "D": "away"})
        trial.kill("server")
        trial.start_server()
        trial.join("B")
        trial.wait_connected("A", "B", "C")
        until(lambda: stages(trial) == {"A": "moved", "B": "moved", "C": "pinned", "D": "away"})
        # 2. Both generations train, sum secretly, and ask each other.
        trains(trial, tmp_path, 1, aggregation="secure")
        all_ask(trial, "A", "B", "C")
        assert doctor.failure(doctor.examine(trial.home("C"), dt.datetime.now(dt.UTC))) is None
        # 3. An invitation from before is good still; the newcomer moves over at its first connection.
        trial.home("E").mkdir()
        membership.enrol(trial.home("E"), "E", waiting)
        trial.join("E", "--data", found["B"])
        trial.wait_connected("E")
        until(lambda: stages(trial)["E"] == "moved")
        trial.stop("E")
        # 4. The end: first refused, for who is not ready.
        refused = trial.server_command("authority", "retire")
        assert refused.returncode == 2
        assert "C (pinned), D (away)" in refused.stderr
        trial.stop("C")
        trial.join("C")
        until(lambda: stages(trial)["C"] == "moved")
        assert "has moved" in good(trial.server_command("authority", "show"))
        ended = authority(trial, "retire", "--force")
        assert (ended["shut_out"], ended["authority"], ended["successor"]) == (["D"], begun["successor"], None)
        assert [one["authority"] for one in ended["past"]] == [first["authority"]]
        until(lambda: "in force no more" in trial.log("C"))
        # 5. All goes on, under the new one alone, and after the server was started anew.
        trial.kill("server")
        trial.start_server()
        trial.wait_connected("A", "B", "C")
        trains(trial, tmp_path, 2)
        all_ask(trial, "A", "B", "C")
        for site in "ABC":
            assert doctor.failure(doctor.examine(trial.home(site), dt.datetime.now(dt.UTC))) is None
        good(trial.site_command("A", "audit", "verify"))
        assert json.loads(good(trial.server_command("audit", "verify", "--json")))["signed"] >= 4
        # 6. Who has a certificate of the old one is not let in, even by the way that trusts the new.
        stranger, now = old["A"], membership.load(trial.home("A"))
        assert stranger is not None
        assert now is not None
        for trusts in (stranger, stranger._replace(authority=now.authority)):
            with pytest.raises(grpc.RpcError) as caught:
                doctor._probe(trusts)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        told = trial.site_command("D", "doctor")
        assert told.returncode == 2
        assert "it was replaced while this site was away" in told.stderr
        assert "ynet-server invite D --replace" in told.stderr
        # 7. What it is told to do helps.
        made = json.loads(good(trial.server_command("invite", "D", "--replace", "--json")))["invitation"]
        trial.join("D", "--invitation", made, "--data", found["C"])
        trial.wait_connected("D")
        # 8. A thief has the key: all are shut out at once, and enrol anew.
        gone = authority(trial, "rotate", "--now")
        assert gone["shut_out"] == ["A", "B", "C", "D", "E"]
        until(lambda: "of an authority that was retired" in trial.log("A"))
        assert trial._processes["A"].wait(20) == 3
        made = json.loads(good(trial.server_command("invite", "A", "--replace", "--json")))["invitation"]
        trial.stop("A")
        trial.join("A", "--invitation", made)
        trial.wait_connected("A")
        good(trial.site_command("A", "audit", "verify"))
        good(trial.server_command("audit", "verify"))
