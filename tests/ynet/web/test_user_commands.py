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


@pytest.mark.parametrize(("module", "role"), [("ynet_server", "viewer"), ("ynet_client", "radiologist")])
def test_accounts_can_be_made_before_the_first_start_and_looking_makes_no_folder(
    module: str, role: str, tmp_path: Path
) -> None:
    home = tmp_path / "sites/A"
    listed = command(module, tmp_path, "list", "--home", str(home), "--json")
    assert (listed.returncode, json.loads(listed.stdout)["users"]) == (0, []), listed.stderr
    assert not home.exists()
    made = command(module, tmp_path, "add", "anna", "--role", role, "--home", str(home), typed=PASSWORD + "\n")
    assert made.returncode == 0, made.stderr
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_password_is_changed_and_an_account_removed(tmp_path: Path) -> None:
    module = "ynet_server"
    Accounts(tmp_path).add("anna", "viewer", PASSWORD, 0.0)
    assert command(module, tmp_path, "password", "anna", typed="another long password\n").returncode == 0
    assert Accounts(tmp_path).verify("anna", PASSWORD) is None
    weak = command(module, tmp_path, "password", "anna", typed="\n")
    assert (weak.returncode, len(weak.stderr.splitlines())) == (2, 3)
    assert command(module, tmp_path, "remove", "anna").returncode == 0
    assert not Accounts(tmp_path).all()
