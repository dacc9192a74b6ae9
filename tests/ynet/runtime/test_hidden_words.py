"""What stands on a command line can be read by every user of the machine: secrets and patients' ids need not."""

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from test_docs import ROOT

from ynet.errors import UserError
from ynet.runtime import backup_commands, hidden_words
from ynet_client.dicom import pacs_credentials
from ynet_lab.trial import command

ASK = """
import sys
from ynet.runtime import hidden_words
from ynet.errors import UserError
try:
    print("got", getattr(hidden_words, sys.argv[1])(sys.argv[2], "the invitation"))
except UserError as error:
    print(error)
"""


def ask(kind: str, given: object, piped: str = "") -> str:
    return subprocess.run(
        [sys.executable, "-c", ASK, kind, str(given)], input=piped, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("ynet1.abc\n")
    file.chmod(0o600)
    return file


def test_a_secret_comes_from_stdin_or_a_private_file_or_stands_in_the_open(secret: Path) -> None:
    assert ask("secret", "-", "ynet1.abc\n") == "got ynet1.abc\n"
    assert ask("secret", "-") == "got \n"
    assert ask("secret", f"@{secret}") == "got ynet1.abc\n"
    assert ask("secret", "ynet1.abc") == "got ynet1.abc\n"
    shown = [given for given in ("", "-", "@file", "ynet1.abc") if hidden_words.stands_in_the_open(given)]
    assert shown == ["ynet1.abc"]


def test_a_patients_id_and_a_note_come_from_stdin_too_and_may_begin_as_a_files_name() -> None:
    assert ask("text", "-", "4711\n") == "got 4711\n"
    assert ask("text", "@4711") == "got @4711\n"
    assert ask("text", "-", "two\nlines\n") == "got two\nlines\n"


def test_a_secret_that_is_typed_is_not_shown() -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, "-c", ASK, "secret", "-"])
    shown = b""
    while b"the invitation" not in shown:
        shown += os.read(terminal, 1000)
    time.sleep(0.2)  # the terminal's echo is switched off now
    os.write(terminal, b"ynet1.abc\n")
    while b"\n" not in shown.partition(b"got ")[2]:
        shown += os.read(terminal, 1000)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert shown.count(b"ynet1.abc") == 1  # by ASK itself, at the end


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_a_file_of_a_secret_that_others_may_read_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    readers = (
        lambda: hidden_words.secret(f"@{secret}", "the invitation"),
        lambda: backup_commands.passphrase(secret, is_new=False),
        lambda: pacs_credentials.read_credentials({}, secret),
    )
    for read in readers:
        with pytest.raises(UserError, match="other users of this machine may read it") as caught:
            read()
        assert caught.value.do == f"chmod 600 {secret}"


def test_a_secret_from_a_pipe_has_no_mode_to_be_asked_for() -> None:
    read, write = os.pipe()
    os.write(write, b"ynet1.abc\n")
    os.close(write)
    assert hidden_words.secret(f"@/dev/fd/{read}", "the invitation") == "ynet1.abc"
    os.close(read)


def test_a_file_that_is_not_there_or_no_text_is_three_lines(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "bytes").chmod(0o600)
    for name in ("none", "bytes", "."):
        with pytest.raises(UserError, match="cannot be used"):
            hidden_words.secret(f"@{tmp_path / name}", "the invitation")


def test_join_takes_an_invitation_of_any_of_the_three_ways(secret: Path, tmp_path: Path) -> None:
    """One that cannot be read is refused as such: so far it came."""
    from ynet.data.synthetic import make_federation

    make_federation(tmp_path / "data", {"A": 8}, seed=1, size=32)
    home = tmp_path / "home"
    base = [sys.executable, "-m", "ynet_client", "join", "--site", "A", "--home", home]
    base += ["--data", tmp_path / "data/A/manifest.csv", "--invitation"]
    for given, piped in (("-", "ynet1.abc"), (f"@{secret}", ""), ("ynet1.abc", "")):
        done = subprocess.run([*base, given], input=piped, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: the invitation cannot be read")
    done = command("ynet_client", *base[3:], "-")  # nothing is piped in: as if none were given
    assert done.stderr.splitlines()[2] == "   do: ask the coordinator for one, and join with --invitation -"


def test_nothing_that_is_written_here_shows_a_secret_on_a_command_line() -> None:
    """Documentation, deployments, examples and what commands say to run next."""
    folders = ("docs", "deploy", "configs", "server/ynet_server", "client/ynet_client", "lab/ynet_lab", "ynet")
    files = [ROOT / "README.md", *(path for folder in folders for path in (ROOT / folder).rglob("*"))]
    texts = {
        path: path.read_text("utf-8") for path in files if path.suffix in (".md", ".py", ".yaml", ".txt", ".service")
    }
    assert len(texts) > 200
    for path, text in texts.items():
        for word in ("--invitation ynet1", "--invitation=ynet1", '--invitation "$', "--password", "--token"):
            assert word not in text, f"{path}: {word}"
    compose = yaml.safe_load((ROOT / "deploy/compose/compose.yaml").read_text())
    assert '--invitation="@/invitations/$$SITE"' in compose["x-client"]["entrypoint"][2]
