"""A consortium on IPv6 behind hospitals' proxies: CONNECT out, a reverse proxy in, and a copy of a site's folder."""

import datetime as dt
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from connect_proxy import Proxy, proxying
from reverse_proxy import proxied

from hospitals import query_url, small_plan
from ynet.data.manifest import find_sites, read
from ynet.web import certificate
from ynet.web.accounts import Accounts
from ynet_client.membership import membership
from ynet_lab.trial import Trial, environment

HUB, PAGE, PASSWORD = "hub.consortium.invalid", "ynet.hospital.example", "correct horse battery"
BENCH = {"enabled": True, "host": "::1", "port": 0, "outer_name": PAGE, "trusted_proxies": ["::1"]}


@pytest.fixture(scope="module")
def between(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """Start the hospitals' proxy, which alone can resolve the hub and requires a password."""
    with proxying(tmp_path_factory.mktemp("proxy"), "--auth", "site:s:cret", "--knows", f"{HUB}=::1") as running:
        yield running


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, data: Path, between: Proxy) -> Iterator[Trial]:
    """Join two sites through the proxy and train a model."""
    folder = tmp_path_factory.mktemp("network")
    sites = {site: manifest for site, manifest in find_sites(data).items() if site in "AB"}
    config = folder / "listens.yaml"
    settings = {
        "federation": "v6",
        "advertise": HUB,
        "listen": {"host": "::1", "hub_port": 0, "enrolment_port": 0},
        "status": {"enabled": True, "host": "::1", "port": 0},
    }
    config.write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch, Trial(folder, sites, workbench=BENCH) as running:
        running.start_server(["-m", "ynet_server", "start", "--home", running.server_home, "--config", config])
        patch.setenv("https_proxy", f"http://site:s%3Acret@127.0.0.1:{between.port}")
        patch.setenv("no_proxy", "127.0.0.0/8,::1/128")
        Accounts(membership_home(running, "A")).add("weber", "radiologist", PASSWORD, time.time())
        running.join_all()
        plan = small_plan(folder / "plan.yaml", cohort={"min_sites": 2, "quorum": 2, "round_deadline_s": 60})
        done = running.server_command("train", "--plan", plan)
        assert done.returncode == 0, done.stdout + done.stderr
        running.wait_indexed(running.server_call("GET", "/models")["in_use"])
        yield running


def membership_home(trial: Trial, site: str) -> Path:
    trial.home(site).mkdir(mode=0o700, parents=True, exist_ok=True)
    return trial.home(site)


def an_image(trial: Trial, site: str) -> Path:
    manifest = read(trial.sites[site])
    return manifest.path_of(manifest.test[0].image)


def test_sites_join_train_and_ask_through_a_connect_proxy(trial: Trial, between: Proxy) -> None:
    found = trial.query("A", an_image(trial, "A"))
    assert list(found["answered"]) == ["B"]
    member = membership.load(trial.home("A"))
    assert member is not None
    assert member.hub.startswith(f"{HUB}:")
    asked = between.asked()
    assert set(asked) == {f"200 {member.hub}", f"200 {member.enrolment}"}
    assert asked.count(f"200 {member.hub}") >= 2
    assert f"at {member.hub} through the proxy 127.0.0.1:{between.port} (https_proxy)" in trial.log("A")
    assert "s:cret" not in trial.log("A")
    assert "cret" not in (trial.home("A") / "client.log").read_text()


def test_doctor_uses_the_proxy_of_join(trial: Trial, between: Proxy) -> None:
    done = trial.site_command("A", "doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {step["step"]: step["found"] for step in json.loads(done.stdout)["steps"]}
    assert f"the proxy 127.0.0.1:{between.port} (https_proxy) leads to {HUB}:" in steps["proxy"]
    assert "https://[::1]:" in trial.log("server")  # the status page


def test_page_behind_a_reverse_proxy_signs_in_and_asks(trial: Trial, tmp_path: Path) -> None:
    certificate.present(tmp_path, "", "", PAGE, dt.datetime.now(dt.UTC))
    address = httpx.URL(trial.site_call("A", "GET", "/workbench")["address"])
    assert address.host == "::1"
    origin = {"origin": f"https://{PAGE}"}
    with proxied(tmp_path / certificate.FILE, f"[::1]:{address.port}") as port:
        at = f"https://127.0.0.1:{port}"
        with httpx.Client(base_url=at, verify=False, trust_env=False, headers={"host": PAGE}, timeout=60) as client:
            signed = client.post("/login", data={"name": "weber", "password": PASSWORD}, headers=origin)
            assert signed.status_code == 303
            page = client.get("/", headers={"accept": "text/html"}).text
            token = page.partition('name="csrf" content="')[2].partition('"')[0]
            headers = {**origin, "x-csrf": token, "content-type": "application/octet-stream"}
            asked = client.post(query_url(5, "a.png"), content=an_image(trial, "A").read_bytes(), headers=headers)
            assert asked.status_code == 200, asked.text
            assert asked.headers.get("content-type") == "application/json"
            stranger = client.post("/api/query", content=b"", headers={**headers, "origin": "https://evil.example"})
            assert stranger.status_code == 403
            assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert f"behind a reverse proxy: https://{PAGE}/" in trial.log("A")


def test_dead_proxy_is_named_and_sites_reconnect(trial: Trial, between: Proxy) -> None:
    between.kill()
    wait_for(trial, "A", f"through the proxy 127.0.0.1:{between.port} (https_proxy): unavailable; trying again")
    done = trial.site_command("A", "doctor")
    assert done.returncode == 4
    assert f"the proxy 127.0.0.1:{between.port} (https_proxy) cannot be reached: nobody listens there" in done.stderr
    assert "cret" not in done.stdout + done.stderr
    between.start()
    trial.wait_connected("A", "B")


def test_copied_folder_is_refused_and_killed_client_reconnects(trial: Trial) -> None:
    copy = trial.folder / "sites" / "copy"
    shutil.copytree(trial.home("A"), copy, ignore=lambda *_: ["control.sock", "lock"])
    log = trial.folder / "copy.out"
    command = [sys.executable, "-m", "ynet_client", "join", "--site", "A", "--home", str(copy), "--no-workbench"]
    with log.open("wb") as out:
        second = subprocess.Popen(command, env=environment(), stdout=out, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + 60
        while "trying again" not in log.read_text():
            assert second.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        assert "site A is already connected from elsewhere" in log.read_text()
        assert "trying again in about 60 s" in log.read_text()
        wait_for(trial, "A", "refused another process with this site's identity")
        doctor = subprocess.run(
            [sys.executable, "-m", "ynet_client", "doctor", "--home", str(copy)],
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert (doctor.returncode, "a copy of it" in doctor.stderr) == (2, True)
        for home, program in ((trial.home("A"), "ynet_client"), (trial.server_home, "ynet_server")):
            assert '"copy-refused"' in (home / "audit.jsonl").read_text(), program
        trial.kill("A")
        trial.join("A")
        begun = time.monotonic()
        trial.wait_connected("A")
        assert time.monotonic() - begun < 20
        assert (trial.home("A") / "control.sock").exists()
    finally:
        second.terminate()
        assert second.wait(20) == 0


def wait_for(trial: Trial, name: str, words: str) -> None:
    until = time.monotonic() + 60
    while words not in trial.log(name):
        assert time.monotonic() < until, trial.log(name)
        time.sleep(0.05)
