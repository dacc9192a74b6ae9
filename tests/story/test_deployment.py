"""A consortium as services: notifications to the service manager, and restarts from backups."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from needs import needed

from hospitals import small_plan
from notified import Notified
from ynet.data.manifest import find_sites, read
from ynet_lab.trial import Trial, command
from ynet_lab.trial import environment as trial_environment

PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Notified]]:
    folder = tmp_path_factory.mktemp("run")
    with Notified(folder / "server") as server, Notified(folder / "A") as site:
        yield {"server": server, "A": site}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, data: Path, sockets: dict[str, Notified]) -> Iterator[Trial]:
    """Start a server and site A as services that report readiness, and site B as a plain process."""
    sites = {name: manifest for name, manifest in find_sites(data).items() if name in ("A", "B")}
    with pytest.MonkeyPatch.context() as environment, Trial(tmp_path_factory.mktemp("services"), sites) as trial:
        environment.setenv("WATCHDOG_USEC", "600000")
        environment.setenv("NOTIFY_SOCKET", str(sockets["server"].path))
        trial.start_server()
        environment.setenv("NOTIFY_SOCKET", str(sockets["A"].path))
        trial.join("A")
        environment.delenv("NOTIFY_SOCKET")
        environment.delenv("WATCHDOG_USEC")
        trial.join("B")
        trial.wait_connected("A", "B")
        yield trial


def test_service_notifies_readiness_status_and_watchdog(services: Trial, sockets: dict[str, Notified]) -> None:
    sockets["server"].wait("STATUS=2 sites connected; no run yet")
    sockets["A"].wait("STATUS=connected; waiting")
    for one in sockets.values():
        one.wait("WATCHDOG=1")
        assert one.lines[0] == "READY=1"
        assert one.lines.count("READY=1") == 1


COMPOSE = yaml.safe_load((Path(__file__).parents[2] / "deploy/compose/compose.yaml").read_text())


def run_in_its_place(service: str, paths: dict[str, Path], **environment: object) -> "subprocess.Popen[bytes]":
    """Run a compose service's shell lines, with the container's folders mapped to local ones."""
    lines = COMPOSE["services"][service]["entrypoint"][-1].replace("$$", "$")
    for inside, here in paths.items():
        lines = lines.replace(inside, str(here))
    programs = paths["/invitations"] / "programs"
    programs.mkdir(exist_ok=True)
    for program in ("ynet-server", "ynet-client"):
        text = f"#!{sys.executable}\nfrom {program.replace('-', '_')}.commands.cli import main\nmain()\n"
        (programs / program).write_text(text)
        (programs / program).chmod(0o755)
    own = {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": ":".join(sys.path)}
    given = {key: str(value) for key, value in environment.items()}
    return subprocess.Popen([needed("sh"), "-c", lines], env={**trial_environment(), **own, **given})


def test_compose_services_invite_and_join(
    services: Trial, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"/invitations": tmp_path, "/data": data, "/etc/ynet": Path(__file__).parents[2] / "deploy/compose"}
    with run_in_its_place("invitations", paths, YNET_HOME=services.server_home) as asking:
        asking.wait(60)
    assert (tmp_path / "C").read_text().startswith("ynet1.")
    assert not (tmp_path / "A").read_text()  # it has joined
    with run_in_its_place("site-c", paths, YNET_HOME=tmp_path / "home", SITE="C") as site:
        services.wait_connected("A", "B", "C")
        site.terminate()
        assert site.wait(20) == 0
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    left = command("ynet_client", "join", "--site", "C", "--service", home=tmp_path / "home")
    assert left.returncode == 0, left.stderr
    unit = tmp_path / "config/systemd/user/ynet-client-C.service"
    assert left.stdout.splitlines()[0] == f"{unit} is written"
    assert "to run: systemctl --user enable --now ynet-client-C.service" in left.stdout
    assert "the service does not see https_proxy of this shell: set proxy.url" in left.stdout
    assert f"join --site=C --home={tmp_path / 'home'}" in unit.read_text()


def packed(done: Any) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def backups(services: Trial) -> dict[str, Any]:
    """Back up server and site during a run, and (the site sealed) after it."""
    folder = services.folder / "backups"
    folder.mkdir()
    passphrase = folder / "passphrase"
    passphrase.write_text(PASSPHRASE + "\n")
    passphrase.chmod(0o600)
    cohort = {"min_sites": 2, "quorum": 2, "round_deadline_s": 60}
    plan = small_plan(folder / "plan.yaml", cohort=cohort)
    run = json.loads(services.server_command("train", "--plan", plan, "--detach", "--json").stdout)["run"]
    services.wait_for_event(run, "round", 1)
    packed(services.server_command("backup", folder / "server-early.tar", "--json"))
    packed(services.site_command("A", "backup", folder / "A-early.tar", "--json"))
    services.wait_for_event(run, "finished", 1)
    model = services.server_call("GET", "/models")["in_use"]
    services.wait_indexed(model)
    seal = ("--passphrase-file", passphrase)
    return {
        "folder": folder,
        "passphrase": passphrase,
        "model": model,
        "server": packed(services.server_command("backup", folder / "server.tar", "--json")),
        "A": packed(services.site_command("A", "backup", folder / "A.tar", *seal, "--json")),
    }


def test_backup_is_private_and_leaves_no_temporary_file(services: Trial, backups: dict[str, Any]) -> None:
    for name in ("server", "A"):
        assert Path(backups[name]["file"]).stat().st_mode & 0o777 == 0o600
    assert backups["A"]["sealed"]
    assert not backups["server"]["sealed"]
    assert b"PRIVATE KEY" in Path(backups["server"]["file"]).read_bytes()
    assert b"PRIVATE KEY" not in Path(backups["A"]["file"]).read_bytes()
    assert not list(services.folder.rglob("*backup.partial*"))


def test_backup_during_a_run_is_consistent(services: Trial, backups: dict[str, Any], tmp_path: Path) -> None:
    for module, name in (("ynet_server", "server"), ("ynet_client", "A")):
        home = tmp_path / name
        restored = command(module, "restore", backups["folder"] / f"{name}-early.tar", home=home)
        assert restored.returncode == 0, restored.stderr
        assert command(module, "audit", "verify", home=home).returncode == 0


def test_services_stop_cleanly(services: Trial, backups: dict[str, Any], sockets: dict[str, Notified]) -> None:
    backups["asked"] = services.query("A", a_question(services))
    assert services.stop("A") == 0
    assert services.stop("server") == 0
    for one in sockets.values():
        one.wait("STOPPING=1")
        assert one.lines[-1] == "STATUS=stopping"


def a_question(trial: Trial) -> Path:
    manifest = read(trial.sites["B"])
    return manifest.path_of(manifest.test[0].image)


def test_server_and_site_resume_from_backups(services: Trial, backups: dict[str, Any]) -> None:
    """Both folders are gone. B, which kept running, reconnects, and A needs no invitation."""
    for home in (services.server_home, services.home("A")):
        home.rename(home.with_name(home.name + ".lost"))
    restored = services.server_command("restore", backups["server"]["file"], "--json")
    assert packed(restored)["files"] == backups["server"]["files"]
    restored = services.site_command("A", "restore", backups["A"]["file"], "--passphrase-file", backups["passphrase"])
    assert restored.returncode == 0, restored.stderr
    services.start_server()
    services.join("A")
    services.wait_connected("A", "B")
    services.wait_indexed(backups["model"])

    assert services.server_call("GET", "/models")["in_use"] == backups["model"]
    assert services.server_command("audit", "verify").returncode == 0
    assert services.site_command("A", "audit", "verify").returncode == 0
    asked = services.query("A", a_question(services))
    assert asked["hits"] == backups["asked"]["hits"]
    assert asked["answered"] == backups["asked"]["answered"]
