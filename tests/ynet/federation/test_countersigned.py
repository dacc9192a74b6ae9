"""Heads of logs that the other side has signed: they show what a chain alone cannot."""

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ynet.errors import RefusedError
from ynet.federation import countersigned
from ynet.federation.countersigned import MOST_SIGNED, SERVER, SIGNED, Witness, from_wire, to_wire
from ynet.trust import chain, identity
from ynet.trust.chain import ChainHead
from ynet.trust.identity import Identity
from ynet.trust.journal import AuditError
from ynet_client import audit
from ynet_client.audit import Audit

NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
AUTHORITY = identity.make_authority("t", NOW)
HUB = identity.issue_hub(AUTHORITY, NOW)


def a_site(name: str, now: dt.datetime = NOW) -> Identity:
    key = identity.new_key()
    return Identity(key, identity.issue_site(AUTHORITY, name, identity.signing_request(key, name), now))


SITE = a_site("A")


def sides(folder: Path) -> tuple[Witness, Witness]:
    """The site's part and the server's."""
    (folder / "server").mkdir()
    site = Witness(folder, "A", lambda: SITE, AUTHORITY.certificate)
    return site, Witness(folder / "server", SERVER, lambda: HUB, AUTHORITY.certificate)


def written(home: Path, count: int, about: str = "") -> ChainHead:
    log = Audit(home)
    for _ in range(count):
        log.did(1.0, "model", about)
    log.close()
    return audit.verify(home)


def rewritten(home: Path, count: int) -> None:
    """Another log in the place of the one that was, with a chain and a head that are good."""
    (home / audit.LOG).unlink()
    (home / audit.HEAD).unlink()
    written(home, count, "something else")


def verified(home: Path) -> int:
    return countersigned.verify(home, audit.read(home), AUTHORITY.certificate)


def test_both_sides_keep_what_the_other_signed_and_it_is_good_years_later(tmp_path: Path) -> None:
    site, server = sides(tmp_path)
    head = written(tmp_path, 5)
    told = server.sign("A", head, NOW)
    site.keep(from_wire(to_wire(told), "A", SERVER), SERVER)
    assert verified(tmp_path) == 1
    of_server = site.sign(SERVER, ChainHead(3, "c" * 64), NOW)
    server.keep(of_server, "A")
    assert [one.by for one in countersigned.kept(tmp_path / "server")] == ["A"]
    assert written(tmp_path, 3).number == 8
    assert verified(tmp_path) == 1


@pytest.mark.parametrize("count", [3, 5, 9])
def test_a_log_that_was_written_anew_as_a_whole_is_found_out(tmp_path: Path, count: int) -> None:
    site, server = sides(tmp_path)
    site.keep(server.sign("A", written(tmp_path, 5), NOW), SERVER)
    rewritten(tmp_path, count)
    assert audit.verify(tmp_path).number == count  # its chain is good
    with pytest.raises(AuditError, match="another than the one that the server signed"):
        verified(tmp_path)


@pytest.mark.parametrize("count", [3, 5])
def test_shorter_or_other_log_is_not_signed_even_without_its_signatures(tmp_path: Path, count: int) -> None:
    _, server = sides(tmp_path)
    first = written(tmp_path, 5)
    assert [server.sign("A", first, NOW).number for _ in range(2)] == [5, 5]
    rewritten(tmp_path, count)
    for again in (server, Witness(tmp_path / "server", SERVER, lambda: HUB, AUTHORITY.certificate)):
        with pytest.raises(RefusedError, match="another than it was") as caught:
            again.sign("A", audit.verify(tmp_path), NOW)
        assert "it had 5 entries when it was last seen" in caught.value.why
    assert server.sign("B", ChainHead(1, "a" * 64), NOW).number == 1  # another site's is its own


SPOILS: dict[str, Callable[[countersigned.Countersigned], countersigned.Countersigned]] = {
    "another number": lambda one: replace(one, number=one.number + 1),
    "another digest": lambda one: replace(one, digest="f" * 64),
    "another time": lambda one: replace(one, time=one.time + 1),
    "no time": lambda one: replace(one, time=float("nan")),
    "another signature": lambda one: replace(one, signature="00" + one.signature[2:]),
    "another site's log": lambda one: replace(one, owner="B"),
    "signed by a site": lambda one: replace(one, by="B"),
    "a site's certificate": lambda one: replace(one, certificate=SITE.certificate.decode()),
    "the authority's": lambda one: replace(one, certificate=AUTHORITY.certificate.decode()),
    "no certificate": lambda one: replace(one, certificate="none"),
    "out of its time": lambda one: replace(one, time=(NOW + dt.timedelta(days=400)).timestamp()),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=list(SPOILS))
def test_what_the_server_did_not_sign_is_not_kept_and_found_where_it_lies(
    tmp_path: Path, spoil: Callable[[countersigned.Countersigned], countersigned.Countersigned]
) -> None:
    site, server = sides(tmp_path)
    one = spoil(server.sign("A", written(tmp_path, 5), NOW))
    with pytest.raises(RefusedError):
        site.keep(one, SERVER)
    assert verified(tmp_path) == 0
    (tmp_path / SIGNED).write_bytes(json.dumps(vars(one)).encode() + b"\n")
    with pytest.raises(AuditError):
        verified(tmp_path)


def test_a_certificate_of_another_consortium_signs_nothing(tmp_path: Path) -> None:
    site, _ = sides(tmp_path)
    other = identity.make_authority("t", NOW)
    stranger = Witness(tmp_path / "server", SERVER, lambda: identity.issue_hub(other, NOW), other.certificate)
    with pytest.raises(RefusedError, match="not one of the consortium's"):
        site.keep(stranger.sign("A", ChainHead(1, "a" * 64), NOW), SERVER)


def test_what_is_kept_is_bounded_and_a_head_that_stands_still_is_kept_once(tmp_path: Path) -> None:
    site, server = sides(tmp_path)
    head = written(tmp_path, 2)
    for _ in range(3):
        site.keep(server.sign("A", head, NOW), SERVER)
    assert len((tmp_path / SIGNED).read_bytes().splitlines()) == 1
    line = (tmp_path / SIGNED).read_bytes()
    (tmp_path / SIGNED).write_bytes(line * (2 * MOST_SIGNED))
    site.keep(server.sign("A", written(tmp_path, 1), NOW), SERVER)
    assert len((tmp_path / SIGNED).read_bytes().splitlines()) == MOST_SIGNED + 1
    assert chain.NOTHING not in (tmp_path / SIGNED).read_text()
    assert verified(tmp_path) == MOST_SIGNED + 1


@pytest.mark.parametrize("spoilt", [b"no JSON\n", b"\xff\n", b"{}\n", b"[1]\n"])
def test_a_spoilt_line_of_signatures_hinders_no_new_one_and_is_found_by_verifying(
    tmp_path: Path, spoilt: bytes
) -> None:
    site, server = sides(tmp_path)
    (tmp_path / SIGNED).write_bytes(spoilt)
    site.keep(server.sign("A", written(tmp_path, 2), NOW), SERVER)
    with pytest.raises(AuditError, match="cannot be read"):
        verified(tmp_path)


@pytest.mark.parametrize("spoilt", [b"", b"no JSON", b'{"": {"number": "x", "digest": "0"}}', b"[" * 10_000])
def test_heads_seen_that_cannot_be_read_sign_nothing(tmp_path: Path, spoilt: bytes) -> None:
    site, _ = sides(tmp_path)
    (tmp_path / countersigned.SEEN).write_bytes(spoilt)
    with pytest.raises(AuditError, match="cannot be read"):
        site.sign(SERVER, ChainHead(3, "c" * 64), NOW)
