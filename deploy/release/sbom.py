"""Writes the software bill of materials: CycloneDX, the same bytes for the same wheels."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.utils import NormalizedName, canonicalize_name

from release.wheels import Wheel, directly, lock


def bill(
    role: str,
    root: str,
    extras: Sequence[str],
    wheels: Sequence[Wheel],
    licences: Mapping[NormalizedName, str],
    time: int,
) -> str:
    """Return the bill of one role as JSON.

    Args:
        role: `server` or `client`.
        root: The wheel that needs the others.
        extras: Its extras in this role.
        wheels: All wheels of the role, the root too.
        licences: What each declares.
        time: Of the commit, seconds since 1970; the bill's time. Its serial number is derived from the wheels.
    """
    parts = {wheel.name: component(wheel, licences[wheel.name]) for wheel in wheels}
    top = parts[canonicalize_name(root)]
    top.type = ComponentType.APPLICATION
    bom = Bom(
        components=[part for part in parts.values() if part is not top],
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, f"{role}\n{lock(wheels)}"),
        metadata=BomMetaData(component=top, timestamp=datetime.fromtimestamp(time, UTC)),
    )
    for wheel in wheels:
        wanted = [one for extra in ("", *(extras if wheel.name == root else ())) for one in directly(wheel, extra)]
        inner = {canonicalize_name(one.name) for one in wanted}
        bom.register_dependency(parts[wheel.name], [parts[name] for name in sorted(inner & set(parts))])
    text: str = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    if (problem := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)) is not None:
        raise ValueError(f"the bill does not fit CycloneDX's schema: {problem}")
    return text


def component(wheel: Wheel, licence: str) -> Component:
    """Return a wheel as a component: the SHA-256 is the wheel's."""
    return Component(
        name=wheel.name,
        version=wheel.version,
        description=wheel.summary,
        bom_ref=f"{wheel.name}=={wheel.version}",
        purl=PackageURL("pypi", name=wheel.name, version=wheel.version, qualifiers={"file_name": wheel.path.name}),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=wheel.sha256)],
        licenses=[LicenseFactory().make_from_string(licence)],
    )
