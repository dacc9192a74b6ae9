"""Makes the files of a release from a commit and its wheels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.utils import NormalizedName

from release import advisories, licences
from release.sbom import bill
from release.sources import Source
from release.wheels import Wheel, lock, needed, read
from ynet.errors import UserError

ROLES: Mapping[str, tuple[str, ...]] = {"server": (), "client": ("client",)}
"""Who installs ynet, and with which extras."""
VERIFIER = "deploy/release/verify_release.py"
INSTALL = """\
ynet {version}, commit {commit}, for {platform}

Nothing here is trusted before the archive was verified with a verifier and a public key that came another way:

    python3 -I verify_release.py {archive} --key PUBLIC_KEY --into ynet-{version}

Then, without a network, as the server (server.lock) or at a hospital (client.lock):

    python3 -m venv /opt/ynet
    /opt/ynet/bin/python -m pip --isolated install --no-index --find-links ynet-{version}/wheels \\
        --only-binary :all: --require-hashes -r ynet-{version}/client.lock

pip compares each wheel with the verified lock again. Read how-to/verify-and-install in the documentation.
"""


def make(
    source: Source, built: tuple[Path, Path], fetched: Sequence[Path], copy: Path | None, folder: Path, name: str
) -> dict[str, Path]:
    """Make everything that the archive contains; return the files by their names in it.

    Args:
        source: The commit.
        built: ynet's source archive and wheel.
        fetched: The dependencies' wheels.
        copy: An offline copy of advisories, or None.
        folder: Where new files are written.
        name: The archive's name.

    Raises:
        UserError: A wheel is missing, or none needs it, or its version or licence is not as agreed.
    """
    archive, own = built
    wheels = {wheel.name: wheel for wheel in map(read, (own, *fetched))}
    roles = {role: needed("ynet", extras, wheels) for role, extras in ROLES.items()}
    check_all_needed(wheels, roles)
    check_versions(wheels, source.folder / "requirements.lock")
    found = licences.declared(wheels.values())
    licences.check(found)
    texts = {
        "INSTALL.txt": INSTALL.format(
            version=source.version, commit=source.commit, archive=name, platform=name.partition("offline-")[2][:-4]
        ),
        "licences.json": as_json({wheels[one].path.name: found[one] for one in sorted(wheels)}),
        "vulnerabilities.json": as_json(advisories.report(copy, list(wheels.values()))),
    }
    for role, extras in ROLES.items():
        texts[f"{role}.lock"] = lock(roles[role])
        texts[f"sbom-{role}.cdx.json"] = bill(role, "ynet", extras, roles[role], found, source.time)
    for text_name, text in texts.items():
        (folder / text_name).write_text(text, "utf-8", newline="\n")
    return {
        **{text_name: folder / text_name for text_name in texts},
        **{f"wheels/{wheel.path.name}": wheel.path for wheel in wheels.values()},
        f"source/{archive.name}": archive,
        Path(VERIFIER).name: source.folder / VERIFIER,
    }


def as_json(value: Mapping[str, Any]) -> str:
    """Write JSON, the same bytes for the same value."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True) + "\n"


def check_all_needed(wheels: Mapping[NormalizedName, Wheel], roles: Mapping[str, Sequence[Wheel]]) -> None:
    """Refuse a wheel that no role installs. Raises UserError."""
    used = {wheel.name for inner in roles.values() for wheel in inner}
    if extra := sorted(set(wheels) - used):
        raise UserError(
            f"the release would bring {extra[0]} for nothing", "nothing needs it", "make release-lock, and commit it"
        )


def check_versions(wheels: Mapping[NormalizedName, Wheel], constraints: Path) -> None:
    """Refuse a wheel whose version was not tested. Raises UserError."""
    lines = [line.split("==") for line in constraints.read_text("utf-8").splitlines()]
    tested = {name.lower().replace("_", "-").replace(".", "-"): version for name, version in lines}
    for wheel in wheels.values():
        version = tested.get(wheel.name, wheel.version)  # pip freeze leaves out setuptools
        if wheel.version.partition("+")[0] != version:
            what = f"{wheel.name} {wheel.version} was not tested"
            raise UserError(what, f"requirements.lock has {version}", "make release-lock, and commit it")
