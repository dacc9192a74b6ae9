"""The authority's files: two while one follows another, one after that, whenever the server was killed in between."""

import datetime as dt
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ynet.errors import UserError
from ynet.runtime import home as homes
from ynet.trust import identity, succession
from ynet_server.authority import authorities
from ynet_server.authority.authorities import CURRENT, FOLDER, NEXT, Authorities

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Killed(BaseException):
    """The server was killed at this point."""


def opened(home: Path) -> Authorities:
    return Authorities(home, "test", NOW)


def keys_in(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted((home / FOLDER).iterdir()))


def test_two_authorities_until_retirement_which_destroys_the_older_key(tmp_path: Path) -> None:
    held = opened(tmp_path)
    first = held.certificate, held.key
    held.rotate(NOW)
    assert (held.certificate, held.key) == first
    assert opened(tmp_path).trusted == held.trusted
    second = held.newest
    assert len(held.in_force) == 2
    with pytest.raises(UserError, match="not rotated"):
        held.rotate(NOW)
    held.retire(NOW)
    for one in (held, opened(tmp_path)):
        assert (one.key, one.certificate, one.successor) == (second.key, second.certificate, None)
        assert [gone.certificate for gone in one.past] == [first[0]]
        assert one.in_force == [second.certificate]
    assert first[1] not in keys_in(tmp_path)
    with pytest.raises(UserError, match="retired"):
        held.retire(NOW)


def test_the_older_ones_last_word_names_its_successor_and_a_stolen_ones_names_nobody(tmp_path: Path) -> None:
    held = opened(tmp_path)
    first = held.certificate
    held.rotate(NOW)
    held.retire(NOW)
    (told,) = held.successions()
    signature, named = bytes.fromhex(str(told["signature"])), bytes.fromhex(str(told["successor"]))
    assert succession.is_signed(first, named, signature)
    assert named == identity.fingerprint(held.certificate)
    held.rotate(NOW)
    held.replace(NOW)
    assert [one["signature"] for one in held.successions()[1:]] == ["", ""]
    assert len(held.past) == 3
    assert held.successor is None


def test_where_a_key_was_overwritten_the_old_file_holds_zeros(tmp_path: Path) -> None:
    held = opened(tmp_path)
    held.rotate(NOW)
    os.link(tmp_path / FOLDER / CURRENT, tmp_path / "the same blocks")
    held.retire(NOW)
    assert not (tmp_path / "the same blocks").read_bytes().strip(b"\0")


def killed_at(step: int, home: Path, act: Callable[[Authorities], None], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Act in a folder, killed before the step-th thing that would be written, moved or removed; whether it was."""
    left = step

    def counted(inner: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return inner(*arguments, **more)

        return call

    held = opened(home)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", counted(Path.replace))
        patched.setattr(Path, "unlink", counted(Path.unlink))
        patched.setattr(os, "fsync", counted(os.fsync))
        patched.setattr(authorities, "write_private", counted(homes.write_private))
        try:
            act(held)
        except Killed:
            return True
    return False


@pytest.mark.parametrize("act", [Authorities.rotate, Authorities.retire, Authorities.replace])
def test_killed_server_starts_with_state_before_or_after_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[Authorities, dt.datetime], None]
) -> None:
    (tmp_path / "made").mkdir()
    made = opened(tmp_path / "made")
    if act is not Authorities.rotate:
        made.rotate(NOW)
    before = made.in_force
    for step in range(60):
        home = tmp_path / str(step)
        shutil.copytree(tmp_path / "made", home)
        was_killed = killed_at(step, home, lambda held: act(held, NOW), monkeypatch)
        after = opened(home)
        assert identity.has_key(after.certificate, after.key)
        assert opened(home).in_force == after.in_force
        if act is Authorities.rotate:
            assert after.in_force[:1] == before
            assert after.past == []
        elif after.in_force != before:  # what has begun to end has ended
            assert len(after.in_force) == 1
            assert [gone.certificate for gone in after.past] == (before[:1] if act is Authorities.retire else before)
            assert after.in_force == before[1:] or act is Authorities.replace
            assert not (home / FOLDER / NEXT).exists()
        else:
            assert after.past == []
        if not was_killed:
            break
    else:
        raise AssertionError("it never came to an end")
    assert step > 3


def test_a_log_is_verified_by_the_past_and_by_no_file_that_a_command_would_write(tmp_path: Path) -> None:
    held = opened(tmp_path)
    held.rotate(NOW)
    listed = sorted((tmp_path / FOLDER).iterdir())
    assert authorities.kept_in(tmp_path) == (held.trusted, [])
    held.retire(NOW)
    assert authorities.kept_in(tmp_path) == (held.trusted, held.past)
    (tmp_path / FOLDER / "past.json").write_text("{")
    for read in (authorities.kept_in, opened):
        with pytest.raises(UserError, match=r"past\.json"):
            read(tmp_path)
    assert len(listed) == 2
