"""A site and its server sign the heads of each other's audit logs, over a real connection."""

from pathlib import Path

from loopback import Consortium, Site, play, until

from ynet.federation import countersigned
from ynet.federation.countersigned import SERVER, Witness
from ynet_client import audit
from ynet_client.audit import Audit
from ynet_client.connection.hooks import SessionHooks
from ynet_client.connection.session import Session
from ynet_client.connection.witness import exchanging
from ynet_server import audit as server_audit


class Told:
    """A site whose session exchanges audit log heads."""

    def __init__(self, consortium: Consortium, home: Path) -> None:
        home.mkdir()
        (home / "spool").mkdir()
        member, self.said = consortium.enrol("A"), list[str]()
        self.home, self.log = home, Audit(home)
        witness = Witness(home, "A", lambda: self.session.identity, member.authority)
        exchange = exchanging("A", self.log, witness, self.said.append, lambda: consortium.now)
        self.session = Session(member, home / "spool", Site(), self.said.append, SessionHooks(exchange_heads=exchange))

    def signed(self, by: str = SERVER) -> list[int]:
        return [one.number for one in countersigned.kept(self.home) if one.by == by]


def test_each_connection_signs_both_heads(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        site = Told(consortium, tmp_path / "A")
        consortium.audit.write("invited", "A")
        for about in ("1", "2"):
            site.log.did(1.0, "model", about)
        consortium.run(site.session)
        await until(lambda: list(countersigned.kept(consortium.folder)))
        assert site.signed() == [2]
        assert [(one.by, one.number) for one in countersigned.kept(consortium.folder)] == [("A", 1)]
        authority = consortium.authority.certificate
        assert countersigned.verify(tmp_path / "A", audit.read(tmp_path / "A"), authority) == 1
        assert countersigned.verify(consortium.folder, server_audit.read(consortium.folder), authority) == 1
        site.log.close()

    play(tmp_path, story)


def test_a_site_whose_log_was_cut_is_told_so_and_stands_in_the_servers_log(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        site = Told(consortium, tmp_path / "A")
        for _ in range(3):
            site.log.did(1.0, "model")
        running = consortium.run(site.session)
        await until(site.signed)
        running.cancel()
        site.log.close()
        for file in (tmp_path / "A").glob("audit.*"):
            file.unlink()  # with all that the server had signed
        again = Told(consortium, tmp_path / "again")
        again.log.did(1.0, "model")
        consortium.run(again.session)
        await until(lambda: any("did not sign" in line for line in again.said))
        assert "it had 3 entries when it was last seen, and has 1 now" in " ".join(again.said)
        assert again.session.connected
        assert [one.action for one in server_audit.read(consortium.folder)] == ["audit-refused"]
        again.log.close()

    play(tmp_path, story)


def test_a_server_whose_log_was_cut_is_found_out_by_its_sites(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        site = Told(consortium, tmp_path / "A")
        for _ in range(3):
            consortium.audit.write("invited", "B")
        running = consortium.run(site.session)
        await until(lambda: list(countersigned.kept(consortium.folder)))
        running.cancel()
        consortium.audit.close()
        for file in consortium.folder.glob("audit.*"):
            file.unlink()
        consortium.audit = server_audit.ServerAudit(consortium.folder)
        await consortium.stop()
        await consortium.open()
        consortium.run(site.session)
        await until(lambda: any("the server's audit log" in line for line in site.said))
        assert "it had 3 entries when it was last seen, and has 0 now" in " ".join(site.said)
        site.log.close()

    play(tmp_path, story)


def test_an_older_server_that_signs_nothing_is_no_fault(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        await consortium.stop()
        consortium.renews = False
        await consortium.open()
        site = Told(consortium, tmp_path / "A")
        consortium.run(site.session)
        await until(lambda: site.session.connected)
        assert len(site.said) == 1
        assert not site.signed()
        site.log.close()

    play(tmp_path, story)
