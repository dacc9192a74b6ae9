"""What a release brings: needed wheels, allowed licences, known vulnerabilities, bills; and who may sign it."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from release import advisories, contents, licences, wheels
from release.sbom import bill
from release.signing import public_digits, read_key
from release.wheelhouse import read_lock
from ynet.errors import UserError

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "deploy/release").glob("wheels-*.lock"))


def make_wheel(folder: Path, name: str, version: str = "1.0", *metadata: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *metadata]
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines) + "\n\n")
    return path


def read_all(*paths: Path) -> dict[Any, wheels.Wheel]:
    return {wheel.name: wheel for wheel in map(wheels.read, paths)}


@pytest.fixture
def three(tmp_path: Path) -> dict[Any, wheels.Wheel]:
    return read_all(
        make_wheel(tmp_path, "app", "1.0", "Requires-Dist: low>=1", "Requires-Dist: more[big]; extra == 'client'"),
        make_wheel(tmp_path, "low", "1.5", "Requires-Dist: absent; sys_platform == 'win32'", "License-Expression: MIT"),
        make_wheel(tmp_path, "more", "2.0+cpu", "Requires-Dist: low; extra == 'big'", "License: Odd"),
    )


def test_each_role_needs_its_own_wheels(three: dict[Any, wheels.Wheel]) -> None:
    assert [wheel.name for wheel in wheels.needed("app", (), three)] == ["app", "low"]
    assert [wheel.name for wheel in wheels.needed("app", ("client",), three)] == ["app", "low", "more"]


def test_missing_or_old_wheel_is_refused(three: dict[Any, wheels.Wheel], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks low"):
        wheels.needed("app", (), {"app": three["app"]})
    old = wheels.read(make_wheel(tmp_path, "low", "0.9"))
    with pytest.raises(UserError, match="lacks low"):
        wheels.needed("app", (), three | {"low": old})


def test_wheel_that_nothing_needs_is_refused(three: dict[Any, wheels.Wheel]) -> None:
    with pytest.raises(UserError, match="for nothing"):
        contents.check_all_needed(three, {"server": wheels.needed("app", (), three)})


def test_wheel_of_an_untested_version_is_refused(three: dict[Any, wheels.Wheel], tmp_path: Path) -> None:
    (tmp_path / "requirements.lock").write_text("low==1.5\nmore==2.0\n")
    contents.check_versions(three, tmp_path / "requirements.lock")
    (tmp_path / "requirements.lock").write_text("low==1.6\n")
    with pytest.raises(UserError, match="not tested"):
        contents.check_versions(three, tmp_path / "requirements.lock")


def test_lock_pins_each_wheel_by_its_hash(three: dict[Any, wheels.Wheel]) -> None:
    lines = wheels.lock(three.values()).splitlines()
    assert lines[2] == f"more==2.0+cpu --hash=sha256:{three['more'].sha256}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_committed_lock_has_the_tested_versions(lock: Path) -> None:
    tested = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
    tested = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in tested.items()}
    pinned = [line.split(" ")[0].split("==") for line in read_lock(lock).values()]
    assert all(version.partition("+")[0] == tested.get(name, version) for name, version in pinned)
    assert {name for name, _ in pinned} - set(tested) <= {"setuptools"}


def test_licences_are_read_from_the_wheels(three: dict[Any, wheels.Wheel]) -> None:
    found = licences.declared(three.values())
    assert found == {"app": "UNKNOWN", "low": "MIT", "more": "Odd"}
    with pytest.raises(UserError, match="not allowed") as refusal:
        licences.check(found)
    assert refusal.value.why == "app: UNKNOWN; more: Odd"


@pytest.mark.parametrize(
    ("text", "is_allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("MIT AND (Apache-2.0 WITH LLVM-exception OR GPL-2.0-only)", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("AGPL-3.0-or-later", False),
        ("BSD License; MIT License", True),
        ("BSD License; GNU General Public License v3 (GPLv3)", False),
        ("MIT License; ", False),
        ("UNKNOWN", False),
        ("", False),
        ("see the file", False),
    ],
)
def test_licence_is_compared_with_the_allow_list(text: str, is_allowed: bool) -> None:
    assert licences.is_allowed(text, yaml.safe_load(licences.ALLOWED.read_text())) is is_allowed


def test_bill_is_valid_and_the_same_again(three: dict[Any, wheels.Wheel]) -> None:
    found: Mapping[Any, str] = {"app": "MIT", "low": "MIT OR Apache-2.0", "more": "Odd; Other"}
    inner = wheels.needed("app", ("client",), three)
    made = bill("client", "app", ("client",), inner, found, 1_700_000_000)
    assert made == bill("client", "app", ("client",), list(reversed(inner)), found, 1_700_000_000)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(made) is None
    read = json.loads(made)
    assert read["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    depends = {one["ref"]: one.get("dependsOn", []) for one in read["dependencies"]}
    assert depends["app==1.0"] == ["low==1.5", "more==2.0+cpu"]
    assert made != bill("server", "app", ("client",), inner, found, 1_700_000_000)


def copy_of(tmp_path: Path, *affected: Mapping[str, Any], **more: str) -> Path:
    path = tmp_path / "osv.zip"
    record = {"id": "OSV-1", "modified": "2026-01-01T00:00:00Z", "affected": affected, **more}
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("OSV-1.json", json.dumps(record))
    return path


def ranges(name: str, *events: Mapping[str, str], ecosystem: str = "PyPI") -> dict[str, Any]:
    package = {"ecosystem": ecosystem, "name": name}
    return {"package": package, "ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


@pytest.mark.parametrize(
    ("affected", "is_found"),
    [
        (ranges("Low", {"introduced": "0"}, {"fixed": "1.6"}), True),
        (ranges("low", {"introduced": "0"}, {"fixed": "1.5"}), False),
        (ranges("low", {"introduced": "0"}, {"last_affected": "1.5"}), True),
        (ranges("low", {"introduced": "0"}, {"last_affected": "1.4"}), False),
        (ranges("low", {"introduced": "0"}, {"fixed": "1.2"}, {"introduced": "1.4"}), True),
        (ranges("low", {"introduced": "2"}), False),
        (ranges("low", {"introduced": "0"}, ecosystem="npm"), False),
        (ranges("lower", {"introduced": "0"}), False),
        ({"package": {"ecosystem": "PyPI", "name": "low"}, "versions": ["1.4", "1.5.0", "not one"]}, True),
        ({"package": {"ecosystem": "PyPI", "name": "more"}, "versions": ["2.0"]}, True),  # its own is 2.0+cpu
    ],
)
def test_advisory_is_found_by_version(
    affected: Mapping[str, Any], is_found: bool, three: dict[Any, wheels.Wheel], tmp_path: Path
) -> None:
    made = advisories.report(copy_of(tmp_path, affected), list(three.values()))
    assert made["made"] is True
    assert [one["id"] for one in made["found"]] == ["OSV-1"] * is_found


def test_report_says_what_it_compared(three: dict[Any, wheels.Wheel], tmp_path: Path) -> None:
    entry = ranges("low", {"introduced": "0"})
    made = advisories.report(copy_of(tmp_path, entry), list(three.values()))
    assert (made["copy"]["records"], made["copy"]["newest"]) == (1, "2026-01-01T00:00:00Z")
    withdrawn = copy_of(tmp_path, entry, withdrawn="2026-01-02T00:00:00Z")
    assert advisories.report(withdrawn, list(three.values()))["found"] == []
    assert advisories.report(None, list(three.values()))["made"] is False
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="advisories"):
        advisories.report(tmp_path / "broken.zip", [])


def pem(path: Path, key: Any, mode: int = 0o600) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(mode)
    return path


def test_key_is_read_and_shown_in_groups(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    read = read_key(pem(tmp_path / "key.pem", key), tmp_path / "repository")
    assert public_digits(read).replace(" ", "") == key.public_key().public_bytes_raw().hex()


def test_key_that_others_may_have_is_refused(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(UserError, match="not used") as refusal:
        read_key(pem(tmp_path / "key.pem", key), tmp_path)
    assert refusal.value.why == "it lies in the repository"
    with pytest.raises(UserError, match="not used"):
        read_key(pem(tmp_path / "open.pem", key, 0o640), tmp_path / "repository")
    with pytest.raises(UserError, match="cannot sign"):
        read_key(pem(tmp_path / "ec.pem", ec.generate_private_key(ec.SECP256R1())), tmp_path / "repository")
    with pytest.raises(UserError, match="cannot be read"):
        read_key(tmp_path / "absent.pem", tmp_path / "repository")
    with pytest.raises(UserError, match="no key"):
        read_key(None, tmp_path)
