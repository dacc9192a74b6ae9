"""The real commands of the coordinator: a server that starts, and every way in which one does not."""

import datetime as dt
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ynet.trust import identity, invitation
from ynet_client.connection import doctor
from ynet_client.membership import membership
from ynet_lab.trial import Trial, command

Done = subprocess.CompletedProcess[str]
PLAN = """
name: t
classes: [a, b]
image: {channels: 1, size: 32}
training: {rounds: 2, learning_rate: 1.0e-3}
cohort: {min_sites: 2, quorum: 2}
privacy: {mode: off}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with Trial(tmp_path_factory.mktemp("trial"), {}) as trial:
        trial.start_server()
        yield trial


def run(home: Path, *arguments: object) -> Done:
    return command("ynet_server", *arguments, home=home)


def assert_refused(done: Done, exit_code: int, *words: str) -> None:
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert done.stdout == ""
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()] == ["error", "why", "do"], done.stderr
    for word in words:
        assert word in done.stderr


def config(path: Path, **listen: object) -> Path:
    path.write_text(yaml.safe_dump({"listen": {"host": "127.0.0.1", "hub_port": 0, "enrolment_port": 0, **listen}}))
    return path


# --- a server that runs


def test_the_server_says_where_it_is_and_what_to_run_next(server: Trial) -> None:
    said = server.log("server").splitlines()
    status = json.loads(server.server_command("status", "--json").stdout)
    assert status["hub"] in said[1]
    assert status["enrolment"] in said[2]
    assert status["fingerprint"] in said[3]
    assert said[-1] == "ready. Next: ynet-server invite SITE"


def test_what_is_secret_can_be_read_by_its_owner_alone(server: Trial) -> None:
    home = server.server_home
    assert home.stat().st_mode & 0o777 == 0o700
    for name in ("authority/identity.pem", "hub/identity.pem", "control.sock", "server.yaml", "server.log"):
        assert (home / name).stat().st_mode & 0o777 == 0o600, name
    for name in ("authority", "hub", "spool"):
        assert (home / name).stat().st_mode & 0o777 == 0o700, name


def test_the_log_has_no_secret(server: Trial) -> None:
    made = json.loads(server.server_command("invite", "L", "--json").stdout)["invitation"]
    secret = invitation.parse(made).secret
    log = (server.server_home / "server.log").read_bytes() + server.log("server").encode()
    assert made.encode() not in log
    assert secret.hex().encode() not in log
    assert secret not in (server.server_home / "registry.sqlite").read_bytes()


def test_an_invitation_leads_to_this_server(server: Trial) -> None:
    made = invitation.parse(json.loads(server.server_command("invite", "A", "--json").stdout)["invitation"])
    status = server.server_call("GET", "/status")
    assert (made.address, made.fingerprint.hex()) == (status["enrolment"], status["fingerprint"])
    alone = server.server_command("invite", "A").stdout  # what a script takes: one word
    assert invitation.parse(alone.strip()).address == made.address


@pytest.mark.parametrize(
    ("host", "advertise", "said"),
    [("::1", "::1", "[::1]"), ("[::1]", "[::1]", "[::1]"), ("::", "127.0.0.1", "127.0.0.1")],
)
def test_every_listener_listens_on_ipv6(tmp_path: Path, host: str, advertise: str, said: str) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
        port = free.getsockname()[1]
    listen = {"host": host, "hub_port": 0, "enrolment_port": 0}
    values = {"advertise": advertise, "listen": listen, "metrics": {"host": host, "port": port}}
    values["status"] = {"enabled": True, "host": host, "port": 0}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    with Trial(tmp_path / "trial", {}) as running:
        home = running.server_home
        running.start_server(["-m", "ynet_server", "start", "--home", home, "--config", tmp_path / "config.yaml"])
        status, log = running.server_call("GET", "/status"), running.log("server")
        assert {status["hub"].rpartition(":")[0], status["enrolment"].rpartition(":")[0]} == {said}
        assert "status page        https://[::1]:" in log
        assert f"http://[{host.strip('[]')}]:{port}/metrics" in log
        with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=10) as metrics:
            assert b"ynet_server" in metrics.read()
        with socket.create_connection(("::1", int(status["hub"].rpartition(":")[2])), 10):
            pass
        made = json.loads(running.server_command("invite", "A", "--json").stdout)["invitation"]
        (tmp_path / "site").mkdir(mode=0o700)
        member = membership.enrol(tmp_path / "site", "A", made)
        assert member.hub == status["hub"]
        assert doctor.failure(doctor.examine(tmp_path / "site", dt.datetime.now(dt.UTC), {})) is None
        remembered = yaml.safe_load((home / "server.yaml").read_text())
        assert (remembered["listen"]["host"], remembered["advertise"]) == (host.strip("[]"), advertise.strip("[]"))


def test_advertised_address_with_a_port_is_refused(tmp_path: Path) -> None:
    for advertise in ("[::1]:8443", "hub.example:8443"):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"advertise": advertise}))
        done = run(tmp_path / "home", "start", "--config", tmp_path / "config.yaml")
        assert_refused(done, 2, "'advertise'", "a port does not belong here")


def test_a_site_that_never_enrolled_cannot_be_revoked(server: Trial) -> None:
    assert_refused(server.server_command("revoke", "Z"), 2, "there is no site 'Z'", "ynet-server sites")


def test_a_site_is_revoked_and_shown_as_such_until_it_enrols_anew(server: Trial, tmp_path: Path) -> None:
    def enrol(flag: str, home: Path) -> None:
        home.mkdir()
        made = json.loads(server.server_command("invite", "V", *flag.split(), "--json").stdout)["invitation"]
        membership.enrol(home, "V", made)

    def shown() -> dict[str, object]:
        listed = json.loads(server.server_command("sites", "--json").stdout)["sites"]
        return next(dict(site) for site in listed if site["site"] == "V")

    enrol("", tmp_path / "first")
    assert (shown()["revoked"], round(float(str(shown()["certificate_days"])))) == (None, 90)
    done = json.loads(server.server_command("revoke", "V", "--json").stdout)
    assert (done["site"], done["was_connected"]) == ("V", False)
    assert (shown()["revoked"], shown()["certificate_days"]) == (done["revoked"], None)
    assert "revoked" in server.server_command("sites").stdout
    examined = command("ynet_client", "doctor", "--json", home=tmp_path / "first")
    assert examined.returncode == 2
    assert "was revoked" in examined.stderr
    assert_refused(server.server_command("invite", "V"), 2, "has enrolled already")
    enrol("--replace", tmp_path / "second")
    assert shown()["revoked"] is None
    assert command("ynet_client", "doctor", home=tmp_path / "second").returncode == 0


def test_the_days_of_the_authority_and_of_the_hub_are_shown(server: Trial) -> None:
    status = server.server_call("GET", "/status")
    assert (round(status["authority_days"]), round(status["hub_days"])) == (3650, 90)


@pytest.mark.parametrize("name", ["a b", "../a", "", "x" * 33])
def test_a_name_that_cannot_name_a_site_is_refused(server: Trial, name: str) -> None:
    assert_refused(server.server_command("invite", name), 2, "cannot name a site")


@pytest.mark.parametrize("port", ["hub", "enrolment"])
def test_nothing_older_than_tls_1_3_connects(server: Trial, port: str) -> None:
    host, _, number = server.server_call("GET", "/status")[port].rpartition(":")

    def connect(newest: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_2, newest
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, int(number)), 5) as plain,
            context.wrap_socket(plain, server_hostname=identity.HUB_NAME) as tls,
        ):
            return tls.version()

    assert connect(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(ssl.TLSVersion.TLSv1_2)


def test_a_second_server_in_the_same_home_is_refused_and_the_first_goes_on_as_it_was(
    server: Trial, tmp_path: Path
) -> None:
    settings = (server.server_home / "server.yaml").read_bytes()
    assert_refused(run(server.server_home, "start"), 2, "ynet-server is running already")
    other = config(tmp_path / "c.yaml", hub_port=1)
    assert_refused(run(server.server_home, "start", "--config", other), 2, "ynet-server is running already")
    assert (server.server_home / "server.yaml").read_bytes() == settings
    assert server.server_call("GET", "/status")["connected"] == []


@pytest.mark.parametrize("key", ["hub_port", "enrolment_port"])
def test_a_port_that_is_taken_is_named_with_the_setting_to_change(tmp_path: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path / "home", "start", "--config", config(tmp_path / "c.yaml", **{key: port}))
    assert_refused(done, 2, f"cannot listen on port {port}", "another process listens there", f"listen.{key}")
    assert not (tmp_path / "home" / "control.sock").exists()


def test_an_address_that_is_not_this_machines_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path / "home", "start", "--config", config(tmp_path / "c.yaml", host="192.0.2.1"))
    assert_refused(done, 2, "listen.host is '192.0.2.1'", "Cannot assign")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fedration: x\n", ["unknown key 'fedration'", "did you mean 'federation'?"]),
        ("listen: {hub_port: 99999}\n", ["listen.hub_port"]),
        ("listen: [\n", ["is not YAML"]),
        (None, ["was not found"]),
    ],
)
def test_settings_with_a_mistake_start_nothing_and_leave_nothing(
    tmp_path: Path, text: str | None, words: list[str]
) -> None:
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    assert_refused(run(tmp_path / "home", "start", "--config", tmp_path / "c.yaml"), 2, *words)
    assert not list((tmp_path / "home").iterdir())


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    assert_refused(run(tmp_path / "home", "start"), 2, "home folder", "--home")


def test_a_server_keeps_its_identity_and_its_ports_and_stops_when_told(tmp_path: Path) -> None:
    with Trial(tmp_path, {}) as trial:
        trial.start_server()
        before = trial.server_call("GET", "/status")
        (trial.server_home / "spool" / "left").write_text("by a process that died")
        begun = time.monotonic()
        trial.stop("server")
        assert time.monotonic() - begun < 5
        assert_refused(trial.server_command("status"), 4, "the server is not running", "ynet-server start")
        trial.start_server()
        after = trial.server_call("GET", "/status")
        assert {key: after[key] for key in ("hub", "enrolment", "fingerprint")} == {
            key: before[key] for key in ("hub", "enrolment", "fingerprint")
        }
        assert not list((trial.server_home / "spool").iterdir())


# --- commands without a server


@pytest.mark.parametrize("words", ["status", "runs 1", "invite A", "sites --json"])
def test_commands_need_a_running_server(tmp_path: Path, words: str) -> None:
    done = run(tmp_path, *words.split())
    assert_refused(done, 4, "the server is not running", "start it: ynet-server start")


# --- plans


def test_a_plan_is_checked_without_a_server_and_frozen_under_the_same_id(server: Trial, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PLAN)
    checked = json.loads(run(tmp_path, "plan", "check", path, "--json").stdout)
    frozen = json.loads(server.server_command("plan", "freeze", path, "--json").stdout)
    again = json.loads(server.server_command("plan", "freeze", path, "--json").stdout)
    assert checked == frozen == again
    assert checked["plan"] in server.server_command("plan", "freeze", path).stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rounds: 2", "rouns: 2", "did you mean 'rounds'?"),
        ("quorum: 2", "quorum: 3", "above 'cohort.min_sites'"),
    ],
)
def test_a_plan_with_a_mistake_is_neither_good_nor_frozen_nor_trained(
    server: Trial, tmp_path: Path, old: str, new: str, words: str
) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PLAN.replace(old, new))
    for arguments in (("plan", "check", path), ("plan", "freeze", path), ("train", "--plan", path)):
        assert_refused(server.server_command(*arguments), 2, words)
    assert server.server_call("GET", "/runs") == {"runs": []}


def test_a_plan_that_is_not_there_and_a_run_that_never_was(server: Trial, tmp_path: Path) -> None:
    assert_refused(server.server_command("plan", "check", tmp_path / "none.yaml"), 2, "was not found")
    assert_refused(server.server_command("runs", 7), 2, "there is no run 7")


def test_one_run_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PLAN)
    with Trial(tmp_path / "trial", {}) as trial:
        trial.start_server()
        started = json.loads(trial.server_command("train", "--plan", path, "--detach", "--json").stdout)
        assert_refused(trial.server_command("train", "--plan", path), 2, f"run {started['run']} is under way")
        trial.wait_for_event(started["run"], "waiting", 1)
        shown = trial.server_command("runs", started["run"]).stdout
        assert "waiting for sites: 0 of 2 are connected" in shown
        trial.kill("server")
        trial.start_server()
        trial.wait_for_event(started["run"], "resumed", 1)
        assert trial.server_command("cancel", started["run"]).returncode == 0
        trial.wait_for_event(started["run"], "cancelled", 1)
        assert trial.server_command("train", "--plan", path, "--detach").returncode == 0


def test_a_run_is_watched_until_it_ends_and_one_that_was_cancelled_can_be_resumed(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(PLAN)
    with Trial(tmp_path / "trial", {}) as trial:
        trial.start_server()
        assert_refused(trial.server_command("runs", "--watch"), 2, "no run was ever started here")
        number = json.loads(trial.server_command("train", "--plan", path, "--detach", "--json").stdout)["run"]
        watch = [sys.executable, "-m", "ynet_server", "runs", "--watch", "--home", trial.server_home]
        with subprocess.Popen(watch, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert "waiting for sites" in watching.stdout.readline()
            assert trial.server_command("cancel", number).returncode == 0
            rest = watching.stdout.read().splitlines()
        assert rest[-1] == f"run {number}: cancelled"
        assert watching.returncode == 0
        assert_refused(trial.server_command("cancel", number), 2, "it is not under way")
        resumed = trial.server_command("resume", number, "--detach", "--json")
        assert json.loads(resumed.stdout) == {"run": number}
        trial.wait_for_event(number, "waiting", 2)
        with subprocess.Popen([*watch, "--json"], stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["kind"] == "waiting"
            trial.server_command("cancel", number)
            kinds = [json.loads(line)["kind"] for line in watching.stdout.read().splitlines()]
        assert kinds[-1] == "cancelled"
        assert kinds.count("resumed") == 1


def test_an_address_that_other_machines_cannot_reach_is_pointed_out(server: Trial, tmp_path: Path) -> None:
    assert "other machines" not in server.log("server")
    path = tmp_path / "server.yaml"
    path.write_text("listen: {host: 0.0.0.0, hub_port: 0, enrolment_port: 0}\n")
    start = [sys.executable, "-m", "ynet_server", "start", "--home", tmp_path / "home", "--config", path]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = list(iter(process.stdout.readline, "ready. Next: ynet-server invite SITE\n"))
        process.terminate()
    assert any("set 'advertise' in the config" in line for line in lines)
