"""A release: built twice, verified, and installed without a network in an empty folder, where three sites are asked."""

import json
import os
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from needs import needed

from release import wheelhouse
from release.__main__ import lock_for
from ynet.data.manifest import find_sites, read
from ynet.data.synthetic import make_federation
from ynet.errors import UserError
from ynet_lab.demo import shipped_plan, write_plan

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / "dist/wheels"
"""Kept, as `make release` keeps them: 340 MB that the first run downloads."""
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""
pytestmark = [pytest.mark.may_skip, pytest.mark.timeout(1800)]


def run(*command: object, cwd: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "YNET", "PIP"))}
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, env=environment | more, capture_output=True, text=True, check=False)


def offline(*command: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a network namespace of its own, which has the loopback interface alone."""
    return run(needed("unshare"), "-rn", sys.executable, "-c", LOOPBACK_UP, *command, cwd=cwd)


@pytest.fixture(scope="module")
def wheels() -> Path:
    try:
        wheelhouse.fetch(lock_for(ROOT), WHEELS)
    except UserError as error:
        pytest.skip(f"the wheels cannot be had here: {error.what}: {error.why}")
    return WHEELS


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("releaser") / "release-key.pem"
    private = Ed25519PrivateKey.generate()
    path.touch(0o600)
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


@pytest.fixture(scope="module")
def commit() -> str:
    """Return the commit to release: with the changes that are not committed yet, if there are any."""
    changed = run(needed("git"), "stash", "create", cwd=ROOT).stdout.strip()
    head = run(needed("git"), "rev-parse", "HEAD", cwd=ROOT)
    if head.returncode:
        pytest.skip(f"a release is made from a commit, and here is none: {head.stderr.strip()}")
    return changed or head.stdout.strip()


def build(folder: Path, commit: str, wheels: Path, key: Path) -> Path:
    """Make a release in a new clone of the repository."""
    git = needed("git")
    clone = folder / "clone"
    assert run(git, "clone", "--quiet", "--shared", "--no-checkout", ROOT, clone, cwd=folder).returncode == 0
    assert run(git, "checkout", "--quiet", commit, cwd=clone).returncode == 0
    command = [sys.executable, "-m", "release", "--key", key, "--wheels", wheels, "--out", folder / "out"]
    done = run(*command, cwd=folder, PYTHONPATH=f"{clone / 'deploy'}:{clone}")
    assert done.returncode == 0, done.stderr
    (made,) = (folder / "out").iterdir()
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, commit: str, wheels: Path, key: Path) -> Path:
    return build(tmp_path_factory.mktemp("first"), commit, wheels, key)


@pytest.fixture(scope="module")
def bundle(made: Path) -> Path:
    (path,) = made.glob("*.tar")
    return path


@pytest.fixture(scope="module")
def digits(made: Path) -> str:
    """Return the public key as the release notes show it."""
    _, _, after = (made / "RELEASE-NOTES.txt").read_text().partition("on paper\n")
    return after.splitlines()[0].strip()


def verify(made: Path, *arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return offline(sys.executable, "-I", made / "verify_release.py", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory, made: Path, bundle: Path, digits: str) -> Path:
    folder = tmp_path_factory.mktemp("hospital")
    if offline("true", cwd=folder).returncode:
        pytest.skip("this machine permits no network namespace (unshare -rn)")
    done = verify(made, bundle, "--key", digits, "--into", "ynet", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "verified: ynet 0.2.0" in done.stdout
    return folder / "ynet"


def install(python: Path, lock: str, unpacked: Path) -> "subprocess.CompletedProcess[str]":
    flags = ["--isolated", "install", "--no-compile", "--no-index", "--find-links", "ynet/wheels"]
    flags += ["--only-binary", ":all:", "--require-hashes", "-r", f"ynet/{lock}"]
    return offline(python, "-m", "pip", *flags, cwd=unpacked.parent)


def test_release_installs_offline_and_answers_a_query(unpacked: Path) -> None:
    folder = unpacked.parent
    made = offline(sys.executable, "-m", "venv", "site", cwd=folder)
    assert made.returncode == 0, made.stderr
    done = install(folder / "site/bin/python", "client.lock", unpacked)
    assert done.returncode == 0, done.stdout + done.stderr
    checked = offline(folder / "site/bin/python", "-m", "pip", "check", cwd=folder)
    assert checked.returncode == 0, checked.stdout
    make_federation(folder / "data", {"A": 24, "B": 24, "C": 24}, seed=1, size=32)
    plan = yaml.safe_load(shipped_plan("demo").read_text("utf-8"))
    plan["training"].update(rounds=1)
    plan["image"].update(size=32)
    (folder / "template.yaml").write_text(yaml.safe_dump(plan))
    manifests = {site: read(path) for site, path in find_sites(folder / "data").items()}
    write_plan(folder / "template.yaml", manifests, folder / "plan.yaml")
    script = Path(__file__).with_name("three_sites.py")
    asked = offline(folder / "site/bin/python", "-I", script, folder, cwd=folder)
    assert asked.returncode == 0, asked.stdout + asked.stderr
    answer = json.loads(asked.stdout)
    assert answer["outcomes"] == {"B": "found", "C": "found"}
    assert len(answer["hits"]) == 10


def test_same_commit_builds_the_same_bytes(made: Path, commit: str, wheels: Path, key: Path, tmp_path: Path) -> None:
    again = build(tmp_path, commit, wheels, key)
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in made.iterdir())
    for path in again.iterdir():
        assert wheelhouse.digest(path) == wheelhouse.digest(made / path.name), path.name


@contextmanager
def flipped(path: Path, place: int) -> Iterator[None]:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        for value in (byte ^ 1, byte):
            file.seek(place)
            file.write(bytes([value]))
            file.flush()
            if value != byte:
                yield


def test_flipped_byte_of_the_release_is_refused(unpacked: Path, made: Path, bundle: Path, digits: str) -> None:
    with tarfile.open(bundle) as archive:
        members = {member.name: member for member in archive}
    wheel = max(members, key=lambda name: members[name].size)
    for name in ("MANIFEST", "SIGNATURE", "client.lock", "sbom-client.cdx.json", wheel):
        with flipped(bundle, members[name].offset_data + members[name].size // 2):
            done = verify(made, bundle, "--key", digits, cwd=unpacked.parent)
        assert done.returncode == 1, name
        assert done.stderr.startswith("refused: "), name
    assert verify(made, bundle, "--key", digits, cwd=unpacked.parent).returncode == 0


def test_wheel_that_changed_after_it_was_verified_is_not_installed(unpacked: Path) -> None:
    first = (unpacked / "server.lock").read_text().partition("==")[0]
    (wheel,) = (unpacked / "wheels").glob(f"{first}-*.whl")
    venv.create(unpacked.parent / "empty", with_pip=True)
    with flipped(wheel, wheel.stat().st_size // 2):
        done = install(unpacked.parent / "empty/bin/python", "server.lock", unpacked)
    assert done.returncode
    assert "DO NOT MATCH THE HASHES" in done.stderr


def test_release_lists_what_it_brings(unpacked: Path) -> None:
    licences = json.loads((unpacked / "licences.json").read_text())
    assert set(licences) == {path.name for path in (unpacked / "wheels").iterdir()}
    assert json.loads((unpacked / "vulnerabilities.json").read_text())["made"] is False
    for role in ("server", "client"):
        bill = json.loads((unpacked / f"sbom-{role}.cdx.json").read_text())
        hashes = {one["hashes"][0]["content"] for one in (*bill["components"], bill["metadata"]["component"])}
        assert hashes == {line.rpartition(":")[2] for line in (unpacked / f"{role}.lock").read_text().splitlines()}
    assert "torch==" not in (unpacked / "server.lock").read_text()
