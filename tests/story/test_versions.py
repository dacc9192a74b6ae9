"""A consortium during an update: sites and server differ by one protocol version, in both directions."""

import time
from pathlib import Path

from hospitals import small_plan
from ynet.data.manifest import find_sites, read
from ynet.federation import protocol
from ynet_lab.trial import Trial

NEXT = Path(__file__).parent / "next_version.py"


def versions(trial: Trial) -> dict[str, int | None]:
    return {site["site"]: site["protocol"] for site in trial.server_call("GET", "/sites")["sites"]}


def test_neighbouring_versions_train_and_answer(tmp_path: Path, data: Path) -> None:
    now, later = protocol.VERSION, protocol.VERSION + 1
    plan = small_plan(tmp_path / "plan.yaml", rounds=1)
    with Trial(tmp_path / "trial", find_sites(data)) as trial:
        # 1. A server of the next version; one site is as new, the others are of this version.
        trial.start_server([NEXT, "ynet_server", "start", "--home", trial.server_home, "--config", _config(trial)])
        trial.join("A", script=[NEXT, "ynet_client"])
        trial.join("B")
        trial.join("C")
        trial.wait_connected("A", "B", "C")
        assert versions(trial) == {"A": later, "B": now, "C": now}
        done = trial.server_command("train", "--plan", plan)
        assert done.returncode == 0, done.stdout + done.stderr
        trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])
        _ask(trial)
        assert f"protocol {later}" in " ".join(trial.server_command("sites").stdout.split())
        assert trial.site_command("B", "doctor").returncode == 0
        # 2. The server returns to this version; the sites reconnect unchanged.
        trial.stop("server")
        trial.start_server()
        trial.wait_connected("A", "B", "C")
        assert versions(trial) == dict.fromkeys("ABC", now)
        done = trial.server_command("train", "--plan", small_plan(tmp_path / "again.yaml", rounds=1, seed=2))
        assert done.returncode == 0, done.stdout + done.stderr
        trial.wait_indexed(trial.server_call("GET", "/models")["in_use"])
        _ask(trial)


def _config(trial: Trial) -> Path:
    path = trial.folder / "server.yaml"
    path.write_text("federation: trial\nlisten: {host: 127.0.0.1, hub_port: 0, enrolment_port: 0}\n", "utf-8")
    return path


def _ask(trial: Trial) -> None:
    """Let every site ask the two others; a site that has just returned may need a second query for its card."""
    for site in trial.sites:
        manifest, until = read(trial.sites[site]), time.monotonic() + 30
        while set(trial.query(site, manifest.path_of(manifest.test[0].image))["answered"]) != set("ABC") - {site}:
            assert time.monotonic() < until
