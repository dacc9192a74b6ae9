"""A server's folder that came out of a backup: whole, and with nothing in it that others may have used since."""

import contextlib
import datetime as dt
import json
from pathlib import Path

import pytest

from ynet.errors import UserError
from ynet.web.accounts import Accounts
from ynet_server import audit, server_backup
from ynet_server.audit import ServerAudit
from ynet_server.authority import certificates
from ynet_server.registry import Registry

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A server that has invited a site, and does not run."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    certificates.authority_of(home, "lungs", NOW)
    with contextlib.closing(Registry(home / "registry.sqlite")) as registry:
        registry.invite("A", b"s" * 16, NOW.timestamp(), replace=False)
    with contextlib.closing(ServerAudit(home)) as log:
        log.write("invited", "A")
        log.write("invited", "B")
    return home


def packed(home: Path, out: Path) -> Path:
    return server_backup.pack(home, out, NOW.timestamp(), None).path


def restored(file: Path, to: Path) -> None:
    server_backup.unpack(file, to, NOW.timestamp() + 3600, lambda: "")


def invitations(home: Path) -> int:
    with contextlib.closing(Registry(home / "registry.sqlite")) as registry:
        return len(registry._file.rows("SELECT site FROM invitations"))


def test_a_restored_server_has_its_authority_and_no_open_invitation(home: Path, tmp_path: Path) -> None:
    restored(packed(home, tmp_path / "b.tar"), tmp_path / "to")
    assert certificates.authority_in(tmp_path / "to") == certificates.authority_in(home)
    assert invitations(home) == 1
    assert invitations(tmp_path / "to") == 0
    entries = list(audit.read(tmp_path / "to"))
    assert [one.action for one in entries] == ["invited", "invited", "restored"]
    assert entries[-1].about == "from a backup made 3600 s before"


def test_accounts_come_back_as_they_were_and_that_is_said(home: Path, tmp_path: Path) -> None:
    accounts = Accounts(home)
    accounts.add("anna", "viewer", "correct horse battery", NOW.timestamp())
    file = packed(home, tmp_path / "b.tar")
    accounts.remove("anna")
    restored(file, tmp_path / "to")
    assert Accounts(tmp_path / "to").verify("anna", "correct horse battery")
    assert (tmp_path / "to/accounts.json").stat().st_mode & 0o777 == 0o600
    assert any("user remove" in note for note in server_backup.NOTES)


def test_a_server_whose_log_was_cut_or_whose_authority_is_gone_is_not_restored(home: Path, tmp_path: Path) -> None:
    log, kept = home / "audit.jsonl", (home / "audit.jsonl").read_bytes()
    log.write_bytes(kept.splitlines(keepends=True)[0])
    with pytest.raises(UserError, match="cannot be trusted"):
        restored(packed(home, tmp_path / "cut.tar"), tmp_path / "to")
    log.write_bytes(kept)
    (home / "authority/identity.pem").unlink()
    with pytest.raises(UserError, match="there is no authority"):
        restored(packed(home, tmp_path / "without.tar"), tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_a_model_that_is_not_what_its_id_says_is_not_restored(home: Path, tmp_path: Path) -> None:
    with contextlib.closing(Registry(home / "registry.sqlite")) as registry, registry._file.transaction() as database:
        database.execute("INSERT INTO plans VALUES ('p', 'story', '{}', 1)")
        database.execute("INSERT INTO runs VALUES (1, 'p', 'finished', 1, 2, '', 'm')")
        database.execute("INSERT INTO models VALUES ('m', 1, ?, 2)", (json.dumps({}),))
    with pytest.raises(UserError):
        restored(packed(home, tmp_path / "b.tar"), tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def test_a_folder_in_which_no_server_was_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no server"):
        packed(tmp_path, tmp_path / "b.tar")
