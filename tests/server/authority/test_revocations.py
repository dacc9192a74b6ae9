"""Revoking while the disk takes nothing: the site is out at once, and the disk has it when it can."""

import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import pytest
from loopback import Consortium, play, until

from ynet.errors import UserError
from ynet.runtime.reserve import Reserve
from ynet_server import audit
from ynet_server.authority.revocations import Revocations
from ynet_server.registry import Registry


@contextmanager
def disk_that_takes_nothing() -> Iterator[None]:
    """No file of this process can grow: writes fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_site_is_cut_off_although_the_disk_is_full_and_it_is_written_down_later(tmp_path: Path) -> None:
    said: list[str] = []

    async def story(consortium: Consortium) -> None:
        joined = await consortium.join("A")
        revocations = Revocations(
            consortium.registry, consortium.hub, consortium.audit.write, Reserve(tmp_path, 1 << 20, 1)
        )
        async with consortium.wire(joined.session.member) as wire:
            await wire.ask(b"q")
            with disk_that_takes_nothing():
                done = revocations.revoke("A", 7.0)
                assert (done.at, done.was_connected, done.is_written) == (7.0, True, False)
                assert "A" not in consortium.hub.connected()
                with pytest.raises(grpc.aio.AioRpcError, match="revoked"):
                    await wire.ask(b"q")
                revocations.settle(said.append)
                assert not said
            await until(joined.task.done)
            assert "revoked" in str(joined.task.exception())
        assert list(consortium.registry.shut_out_unwritten()) == ["A"]
        revocations.settle(said.append)
        assert said == ["the revocation of site A is written down now"]
        assert not consortium.registry.shut_out_unwritten()
        assert [(entry.action, entry.site) for entry in audit.read(tmp_path)] == [("revoked", "A")]
        revocations.settle(said.append)
        assert len(said) == 1

    play(tmp_path, story)
    with closing(Registry(tmp_path / "registry.sqlite")) as again:
        assert [site.revoked for site in again.sites()] == [7.0]


def test_revoked_site_enrols_again_and_its_old_certificate_stays_revoked(tmp_path: Path) -> None:
    with closing(Registry(tmp_path / "registry.sqlite")) as registry:
        registry.invite("A", b"s" * 16, 1.0, replace=False)
        registry.enrol("A", 1, b"old", 2.0, 1e10)
        registry.shut_out("A", 3.0)
        assert registry.standing("A", 1) == "revoked"
        registry.invite("A", b"t" * 16, 4.0, replace=True)
        registry.enrol("A", 2, b"new", 5.0, 1e10)
        assert (registry.standing("A", 1), registry.standing("A", 2)) == ("revoked", "current")
        assert not registry.shut_out_unwritten()
        with pytest.raises(UserError, match="no site"):
            registry.shut_out("B", 6.0)
