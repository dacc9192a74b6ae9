"""Texts that others write, bent: plans, settings, manifests, layouts, invitations, enrolment, lines of logs."""

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fuzz.mangling import fuzzed, holds, mangled, odd_json
from hypothesis import given
from hypothesis import strategies as st

from ynet import plan as plans
from ynet import weights
from ynet.data import manifest
from ynet.federation import countersigned
from ynet.federation.countersigned import SERVER, SIGNED, Witness
from ynet.trust import chain, identity, invitation, ledger
from ynet.trust.chain import ChainHead
from ynet.trust.identity import Identity
from ynet.trust.ledger import Ledger, Reservation
from ynet_client import audit as site_audit
from ynet_client import settings as client_settings
from ynet_client.membership import membership
from ynet_client.training import consent, microbatches
from ynet_client.training.consent import Consent
from ynet_server import audit as server_audit
from ynet_server import settings as server_settings
from ynet_server.authority import enrolment
from ynet_server.rounds.run_folder import EVENTS, RunFolder

ROOT = Path(__file__).parents[2]
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
AUTHORITY = identity.make_authority("test", NOW)
KEY = identity.new_key()
CSR = identity.signing_request(KEY, "A")
SITE = Identity(KEY, identity.issue_site(AUTHORITY, "A", CSR, NOW))

PLANS = [path.read_bytes() for path in sorted((ROOT / "configs/plans").glob("*.yaml"))]
CANONICAL = [plans.read(path).canonical().encode() for path in sorted((ROOT / "configs/plans").glob("*.yaml"))]
MANIFEST = b"""image,mask,label,patient,split,date
images/1.png,masks/1.png,ring,p1,train,2024-01-02
images/2.png,,"a, b",p2,test,
"im""ages/3.png",,cross,p3,train,x
"""


@fuzzed(250)
@given(mangled(*PLANS))
def test_a_plan_in_yaml(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "plan.yaml").write_bytes(data)
    plan = holds(lambda: plans.read(tmp_path / "plan.yaml"))
    if isinstance(plan, plans.Plan):
        assert plans.from_canonical(plan.canonical()).id == plan.id


@fuzzed(300)
@given(odd_json(*CANONICAL))
def test_a_plan_over_the_wire(data: bytes) -> None:
    plan = holds(lambda: plans.from_canonical(data.decode("utf-8", "surrogateescape")))
    if isinstance(plan, plans.Plan):
        assert plans.from_canonical(plan.canonical()).id == plan.id


@pytest.mark.parametrize("side", ["server", "client"])
@fuzzed(150)
@given(data=st.data())
def test_settings(tmp_path: Path, side: str, data: st.DataObject) -> None:
    path = tmp_path / f"{side}.yaml"
    path.write_bytes(data.draw(mangled((ROOT / "configs" / path.name).read_bytes())))
    if side == "server":
        holds(lambda: server_settings.load(tmp_path, None))
    else:
        holds(lambda: client_settings.read(tmp_path))


@fuzzed(300)
@given(mangled(MANIFEST, MANIFEST.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + MANIFEST))
def test_a_manifest(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.csv").write_bytes(data)
    holds(lambda: manifest.read(tmp_path / "manifest.csv"))


@fuzzed(200)
@given(odd_json(b'[["stem.weight",[16,1,3,3]],["stem.bias",[16]],["scale",[]]]'))
def test_a_layout(data: bytes) -> None:
    holds(lambda: weights.layout_from_json(data.decode("utf-8", "surrogateescape")))


@fuzzed(300)
@given(mangled(invitation.Invitation("hub.example.org:8441", bytes(range(16)), bytes(32)).to_text().encode()))
def test_an_invitation(data: bytes) -> None:
    holds(lambda: invitation.parse(data.decode("utf-8", "surrogateescape")))


@fuzzed(300)
@given(odd_json(json.dumps({"site": "A", "csr": CSR.decode(), "proof": "00" * 32}).encode()))
def test_a_request_to_enrol(data: bytes) -> None:
    read = holds(lambda: enrolment._read(data))
    if read is not None:
        _, csr, _ = read  # type: ignore[misc]
        holds(lambda: identity.public_key_of(csr))


@fuzzed(300)
@given(mangled(CSR, SITE.certificate, KEY))
def test_a_certificate_and_a_signing_request(data: bytes) -> None:
    holds(lambda: identity.public_key_of(data))
    holds(lambda: identity.check_member(data, "A", AUTHORITY.certificate, NOW))
    holds(lambda: identity.read_leaf(data), ValueError)
    holds(lambda: identity.fingerprint(data), ValueError)
    holds(lambda: identity.first_certificate(data), ValueError)
    holds(lambda: identity.has_key(SITE.certificate, data), ValueError, TypeError)
    holds(lambda: identity.check_signature(data, bytes(70), b"x"))


def _membership(home: Path) -> None:
    (home / membership.KEY).write_bytes(KEY)
    member = membership.Membership("A", "127.0.0.1:1", KEY, SITE.certificate, AUTHORITY.certificate, "127.0.0.1:2", "")
    membership.keep(home, member)


def _site_audit(home: Path) -> None:
    log = site_audit.Audit(home)
    log.did(1.0, "joined", "0" * 64)
    log.did(2.0, "plan-accepted", "1" * 64)
    log.close()


def _server_audit(home: Path) -> None:
    log = server_audit.ServerAudit(home)
    log.write("invited", "A")
    log.write("run-started", about="run 1")
    log.close()


def _ledger(home: Path) -> None:
    book = Ledger(home)
    for number in (1, 2):
        book.reserve("d", Reservation("p" * 64, number, 2, "w" * 64, 1.5, 0.1, 7, 1e-5), lambda _: None)


def _countersigned(home: Path) -> None:
    own = Witness(home, "A", lambda: SITE, AUTHORITY.certificate)
    hub = identity.issue_hub(AUTHORITY, NOW)
    other = Witness(home / "other", SERVER, lambda: hub, AUTHORITY.certificate)
    (home / "other").mkdir(exist_ok=True)
    own.keep(other.sign("A", ChainHead(1, "0" * 64), NOW), SERVER)
    own.sign(SERVER, ChainHead(3, "0" * 64), NOW)


def _events(home: Path) -> None:
    RunFolder(home).event("round", round=1, sites=["A"])
    RunFolder(home).event("failed", reason="x", do="y")


def _plan_seen(home: Path) -> None:
    (home / consent.FOLDER).mkdir(exist_ok=True)
    (home / consent.FOLDER / "seen.json").write_bytes(CANONICAL[0])


def _pieces(home: Path) -> None:
    kept = {"plan": "0" * 64, "pieces": 2, "is_under_way": True, "kills": 3}
    (home / microbatches.FILE).write_text(json.dumps(kept), "utf-8")


def _sees(home: Path) -> None:
    Witness(home, "A", lambda: SITE, AUTHORITY.certificate).sign(SERVER, ChainHead(4, "1" * 64), NOW)


def _keeps(home: Path) -> None:
    hub = identity.issue_hub(AUTHORITY, NOW)
    other = Witness(home / "third", SERVER, lambda: hub, AUTHORITY.certificate)
    (home / "third").mkdir(exist_ok=True)
    signed = other.sign("A", ChainHead(2, "2" * 64), NOW)
    Witness(home, "A", lambda: SITE, AUTHORITY.certificate).keep(signed, SERVER)


def _opened(home: Path) -> None:
    site_audit.Audit(home).close()


def _server_opened(home: Path) -> None:
    server_audit.ServerAudit(home).close()


FILES: dict[str, tuple[Callable[[Path], None], str, tuple[Callable[[Path], object], ...]]] = {
    "membership": (_membership, membership.FILE, (membership.load,)),
    "site's audit log": (_site_audit, site_audit.LOG, (site_audit.verify, _opened)),
    "site's audit head": (_site_audit, site_audit.HEAD, (site_audit.verify, _opened)),
    "server's audit log": (_server_audit, server_audit.LOG, (server_audit.verify, _server_opened)),
    "ledger": (_ledger, ledger.LEDGER, (ledger.read, Ledger)),
    "ledger's head": (_ledger, ledger.HEAD, (ledger.read, Ledger)),
    "countersignatures": (
        _countersigned,
        SIGNED,
        (lambda home: countersigned.verify(home, [], AUTHORITY.certificate), _keeps),
    ),
    "heads seen": (_countersigned, countersigned.SEEN, (_sees,)),
    "a plan that was seen": (
        _plan_seen,
        f"{consent.FOLDER}/seen.json",
        (lambda home: list(Consent(home, client_settings.Policy()).seen()),),
    ),
    "pieces": (_pieces, microbatches.FILE, (lambda home: microbatches._read(home / microbatches.FILE),)),
    "a run's events": (_events, EVENTS, (lambda home: RunFolder(home).events(),)),
}
_GOOD: dict[str, bytes] = {}


@pytest.mark.parametrize("name", FILES)
@fuzzed(60)
@given(data=st.data())
def test_a_file_in_a_home(tmp_path: Path, name: str, data: st.DataObject) -> None:
    make, file, parsers = FILES[name]
    home = tmp_path / "home"
    if not home.exists():
        home.mkdir()
        make(home)
        _GOOD[name] = (home / file).read_bytes()
    *_, last = _GOOD[name].splitlines(keepends=True)
    whole, line = mangled(_GOOD[name]), odd_json(last).map(lambda line: _GOOD[name].removesuffix(last) + line + b"\n")
    spoilt = data.draw(whole | line)
    for parse in parsers:
        (home / file).write_bytes(spoilt)
        holds(lambda parse=parse: parse(home))  # type: ignore[misc]


@fuzzed(100)
@given(mangled(ChainHead(7, "0" * 64).to_text().encode()))
def test_a_head_that_is_told(data: bytes) -> None:
    holds(lambda: chain.ChainHead.from_text(data.decode("utf-8", "surrogateescape")), ValueError)
