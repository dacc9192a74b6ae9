"""Wrong input to the commands: three lines, the right exit code, nothing half-written."""

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from hospitals import small_plan
from ynet import plan as plans
from ynet.data.manifest import find_sites
from ynet.data.synthetic import make_federation
from ynet.trust import invitation
from ynet_lab.trial import Trial, command

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """Start a server that waits for sites."""
    with Trial(tmp_path_factory.mktemp("server"), {}) as trial:
        trial.start_server()
        yield trial


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Make one hospital's folder, for tests to damage."""
    make_federation(tmp_path, {"A": 8}, seed=1, size=32)
    return tmp_path / "A"


def invite(server: Trial, name: str, *, replace: bool = True) -> str:
    made = server.server_call("POST", "/invitations", json={"site": name, "replace": replace})
    return str(made["invitation"])


def join(home: Path, name: str, invited: str | None, manifest: Path) -> Done:
    given = [] if invited is None else ["--invitation", invited]
    return command("ynet_client", "join", "--site", name, "--home", home, "--data", manifest, *given)


def assert_refused(done: Done, exit_code: int, *words: str) -> None:
    assert done.returncode == exit_code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    lines = done.stderr.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["error", "why", "do"], done.stderr
    for word in words:
        assert word in done.stderr


def assert_not_a_member(home: Path) -> None:
    assert not (home / "membership.json").exists()
    assert not list(home.glob("*.partial"))


def test_an_invitation_that_was_not_copied_whole(server: Trial, site: Path, tmp_path: Path) -> None:
    done = join(tmp_path / "home", "A", invite(server, "A")[:-3], site / "manifest.csv")
    assert_refused(done, 2, "invitation", "not copied whole")
    assert_not_a_member(tmp_path / "home")


def test_an_invitation_for_another_site(server: Trial, site: Path, tmp_path: Path) -> None:
    invite(server, "A")
    done = join(tmp_path / "home", "A", invite(server, "B"), site / "manifest.csv")
    assert_refused(done, 3, "not the one made for this site")
    assert_not_a_member(tmp_path / "home")


def test_an_invitation_that_was_used_already(server: Trial, site: Path, tmp_path: Path) -> None:
    invited = invite(server, "used")
    arguments = ["--site", "used", "--home", tmp_path / "first", "--invitation", invited]
    first = subprocess.Popen(
        [sys.executable, "-m", "ynet_client", "join", *arguments, "--data", site / "manifest.csv"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server.wait_connected("used")
    finally:
        first.terminate()
        first.wait()
    done = join(tmp_path / "second", "used", invited, site / "manifest.csv")
    assert_refused(done, 3, "used already")
    assert_not_a_member(tmp_path / "second")


def test_server_with_another_authority_is_refused(server: Trial, site: Path, tmp_path: Path) -> None:
    true = invitation.parse(invite(server, "A"))
    forged = true._replace(fingerprint=bytes(32)).to_text()
    done = join(tmp_path / "home", "A", forged, site / "manifest.csv")
    assert_refused(done, 3, "authority", "compare the fingerprint")
    assert_not_a_member(tmp_path / "home")


def test_a_server_that_is_not_there(site: Path, tmp_path: Path) -> None:
    nowhere = invitation.Invitation("127.0.0.1:9", invitation.new_secret(), bytes(32)).to_text()
    done = join(tmp_path / "home", "A", nowhere, site / "manifest.csv")
    assert_refused(done, 4, "could not be reached")
    assert_not_a_member(tmp_path / "home")


def test_a_site_name_that_is_taken(server: Trial) -> None:
    assert "used" in {entry["site"] for entry in server.server_call("GET", "/sites")["sites"]}
    assert_refused(server.server_command("invite", "used"), 2, "has enrolled already", "--replace")


def test_joining_without_an_invitation(site: Path, tmp_path: Path) -> None:
    assert_refused(join(tmp_path / "home", "A", None, site / "manifest.csv"), 2, "has not enrolled yet")


def test_commands_for_a_client_that_does_not_run(site: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert_refused(command("ynet_client", "status", "--home", home), 4, "is not running")
    image = next((site / "images").iterdir())
    assert_refused(command("ynet_client", "query", image, "--home", home), 4, "is not running")
    assert_refused(command("ynet_client", "query", site / "none.png", "--home", home), 2, "cannot be read")


def spoil_column(site: Path) -> None:
    manifest = site / "manifest.csv"
    manifest.write_text(manifest.read_text("utf-8").replace("label", "lable", 1), "utf-8")


def spoil_all_rows(site: Path) -> None:
    manifest = site / "manifest.csv"
    manifest.write_text(manifest.read_text("utf-8").splitlines()[0] + "\n", "utf-8")


def spoil_path(site: Path) -> None:
    manifest = site / "manifest.csv"
    manifest.write_text(manifest.read_text("utf-8").replace("images/", "../images/", 1), "utf-8")


def spoil_mask(site: Path) -> None:
    Image.new("L", (5, 7), 255).save(next(iter(sorted((site / "masks").iterdir()))))


def spoil_image(site: Path) -> None:
    path = next(iter(sorted((site / "images").iterdir())))
    path.write_bytes(path.read_bytes()[:60])


def plant_bomb(site: Path) -> None:
    """Write a PNG of some hundred bytes whose header claims 40,000 x 40,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    body = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    next(iter(sorted((site / "images").iterdir()))).write_bytes(body)


@pytest.mark.parametrize(
    "spoil", [spoil_column, spoil_all_rows, spoil_path, spoil_mask, spoil_image, plant_bomb], ids=lambda f: f.__name__
)
def test_faulty_data_are_refused_by_join_and_check(
    spoil: Callable[[Path], None], server: Trial, site: Path, tmp_path: Path
) -> None:
    spoil(site)
    invited = invite(server, "faulty")
    done = join(tmp_path / "home", "faulty", invited, site / "manifest.csv")
    assert_refused(done, 2)
    assert_not_a_member(tmp_path / "home")
    assert command("ynet_client", "check", "--data", site / "manifest.csv").returncode == 2


def test_label_unknown_to_the_plan_excludes_the_site_from_the_run(
    tmp_path: Path,
) -> None:
    make_federation(tmp_path / "data", {"A": 12, "B": 12, "C": 12}, seed=1, size=32)
    manifest = tmp_path / "data" / "C" / "manifest.csv"
    manifest.write_text(manifest.read_text("utf-8").replace("ring", "CANARY-LABEL"), "utf-8")
    plan = small_plan(tmp_path / "plan.yaml", rounds=1)
    assert command("ynet_client", "check", "--data", manifest, "--plan", plan).returncode == 2
    with Trial(tmp_path / "trial", find_sites(tmp_path / "data")) as trial:
        trial.start_server()
        trial.join_all()
        number = trial.server_call(
            "POST", "/runs", json={"plan": json.loads(plans.read(plan).canonical()), "init": None}
        )["run"]
        trial.wait_for_event(number, "site_failed", 1)
        shown = trial.server_command("runs", number).stdout
        assert "site C gave no result" in shown
        assert "CANARY-LABEL" not in shown
        assert "CANARY-LABEL" in trial.log("C")
        assert "Traceback" not in trial.log("C")
