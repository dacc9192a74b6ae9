"""Lists the licences that the wheels declare, and compares them with allowed-licences.yaml."""

import json
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from license_expression import AND, OR, ExpressionError, LicenseExpression, get_spdx_licensing
from packaging.utils import NormalizedName, canonicalize_name

from release.wheels import Wheel
from ynet.errors import UserError

ALLOWED = Path(__file__).with_name("allowed-licences.yaml")
FIELDS = ("License-Expression", "License-Classifier", "License-Metadata")
"""Where a package may declare its licence; the first that says something counts."""
UNKNOWN = "UNKNOWN"


def declared(wheels: Iterable[Wheel]) -> dict[NormalizedName, str]:
    """Return the licence that each wheel declares, as pip-licenses reads it from the wheels' own metadata."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        for wheel in wheels:
            with zipfile.ZipFile(wheel.path) as opened:
                inner = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
                opened.extractall(packages, [name for name in inner if name.count("/") == 1])
        python = Path(folder) / "bin/python"
        flags = ["--python", str(python), "--with-system", "--from=all", "--format=json"]
        command = [sys.executable, "-m", "piplicenses", *flags]
        rows = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {canonicalize_name(row["Name"]): _first(row) for row in rows}


def _first(row: Mapping[str, str]) -> str:
    return next((row[field] for field in FIELDS if row[field] != UNKNOWN), UNKNOWN)


def refused(licences: Mapping[NormalizedName, str], allowed: Mapping[str, Any]) -> dict[NormalizedName, str]:
    """Return the packages whose licence is not allowed."""
    return {name: text for name, text in licences.items() if not is_allowed(text, allowed)}


def is_allowed(text: str, allowed: Mapping[str, Any]) -> bool:
    """Say whether a declared licence is allowed: an SPDX expression, or names separated by `;`."""
    if all(name in allowed["names"] for name in text.split("; ")):
        return True
    try:
        parsed = get_spdx_licensing().parse(text, validate=True, strict=True)
    except ExpressionError:
        return False
    return parsed is not None and _is_allowed(parsed, set(allowed["spdx"]))


def _is_allowed(expression: LicenseExpression, allowed: set[str]) -> bool:
    if isinstance(expression, OR):
        return any(_is_allowed(one, allowed) for one in expression.args)
    if isinstance(expression, AND):
        return all(_is_allowed(one, allowed) for one in expression.args)
    return str(expression) in allowed


def check(licences: Mapping[NormalizedName, str]) -> None:
    """Compare with the allow-list. Raises UserError."""
    bad = refused(licences, yaml.safe_load(ALLOWED.read_text("utf-8")))
    if bad:
        shown = "; ".join(f"{name}: {text[:80]}" for name, text in sorted(bad.items()))
        raise UserError(
            "a dependency's licence is not allowed",
            shown,
            f"read the licence, then extend {ALLOWED.name} or replace it",
        )
