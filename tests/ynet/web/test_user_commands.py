"""The commands of both sides that make accounts: the password comes through a pipe, never as an argument."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ynet.web.accounts import Accounts

PASSWORD = "correct horse battery"


def command(module: str, home: Path, *words: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "YNET_HOME": str(home)}
    line = [sys.executable, "-m", module, "user", *words]
    return subprocess.run(line, input=typed, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(("module", "role"), [("ynet_server", "viewer"), ("ynet_client", "radiologist")])
def test_an_account_is_made_and_listed(module: str, role: str, tmp_path: Path) -> None:
    (tmp_path / "membership.json").touch()  # so that the folder is a site's
    made = command(module, tmp_path, "add", "anna", "--role", role, typed=PASSWORD + "\n")
    assert made.returncode == 0, made.stderr
    assert Accounts(tmp_path).verify("anna", PASSWORD)
    (listed,) = json.loads(command(module, tmp_path, "list", "--json").stdout)["users"]
    assert (listed["name"], listed["role"]) == ("anna", role)


def test_a_password_is_changed_and_an_account_removed(tmp_path: Path) -> None:
    module = "ynet_server"
    Accounts(tmp_path).add("anna", "viewer", PASSWORD, 0.0)
    assert command(module, tmp_path, "password", "anna", typed="another long password\n").returncode == 0
    assert Accounts(tmp_path).verify("anna", PASSWORD) is None
    weak = command(module, tmp_path, "password", "anna", typed="\n")
    assert (weak.returncode, len(weak.stderr.splitlines())) == (2, 3)
    assert command(module, tmp_path, "remove", "anna").returncode == 0
    assert not Accounts(tmp_path).all()
