"""A site's home with state of every kind, and with secrets and patients that a dossier must not show."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ynet import weights
from ynet.config import parse
from ynet.data.synthetic import CLASSES
from ynet.federation.countersigned import SERVER, Witness
from ynet.plan import Plan
from ynet.trust import identity, lasting_key
from ynet.trust.identity import Identity
from ynet.trust.ledger import Ledger, Reservation
from ynet.web.accounts import Accounts
from ynet_client.audit import Audit
from ynet_client.egress import Egress
from ynet_client.membership import membership
from ynet_client.membership.membership import Membership
from ynet_client.membership.peers import Peers
from ynet_client.retrieval.consult import ConsultStore
from ynet_client.settings import Policy
from ynet_client.training.consent import Consent

NOW = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
AT = NOW.timestamp()
PATIENT, WORD, INVITATION = "CANARY-PATIENT-4711", "canary-password-9x7", "canary-invitation"
VALUES: dict[str, Any] = {
    "name": "lesions",
    "classes": list(CLASSES),
    "image": {"channels": 1, "size": 32},
    "network": {"width": 4, "code_bits": 32},
    "training": {"rounds": 4, "learning_rate": 1e-3},
    "cohort": {"min_sites": 3, "quorum": 3},
    "privacy": {"mode": "off"},
}


def plan(**changes: Any) -> Plan:
    return parse(Plan, {**VALUES, **changes}, "the test's plan")


OPEN = plan()
PRIVATE = plan(name="private", privacy={"mode": "patient", "epsilon": 3, "delta": 1e-3}, aggregation="secure")
MODEL = "ab" * 32


def settings(home: Path, **values: Any) -> None:
    """Write client.yaml; the path of the manifest names a patient."""
    shown = {"data": f"/data/{PATIENT}/manifest.csv", **values}
    (home / "client.yaml").write_text(yaml.safe_dump(shown), "utf-8")


def enrolled(home: Path, site: str = "A") -> tuple[Membership, Identity]:
    """Make a home of a site that has just enrolled; return also the server's identity."""
    home.mkdir(exist_ok=True)
    key = identity.new_key()
    authority = identity.make_authority("test", NOW - dt.timedelta(days=1))
    certificate = identity.issue_site(authority, site, identity.signing_request(key, site), NOW)
    (home / membership.KEY).write_bytes(key)
    made = Membership(site, "server.example:8440", key, certificate, authority.certificate, invitation=INVITATION)
    return membership.with_lasting(home, membership.keep(home, made)), identity.issue_hub(authority, NOW)


def fingerprint(site: str) -> str:
    return lasting_key.fingerprint_of(site, lasting_key.public_of(lasting_key.new_key()))


def full(home: Path, **values: Any) -> Path:
    """Fill a home with state of every kind: joined, trained twice, asked and answered, a model in use."""
    member, hub = enrolled(home)
    settings(home, **values)
    sent = Egress(home, lambda: AT)
    for name, size in (("enrolment", 700), ("updates", 5000), ("updates", 5000), ("answers", 300)):
        sent.count(name, size)  # type: ignore[arg-type]
    sent.close()
    peers = Peers(home)
    for site in ("B", "C", "D"):
        assert not peers.is_trusted(site, fingerprint(site))
    peers.trust("B")
    peers.trust("C")
    audit = Audit(home)
    audit.did(AT, "joined", "f" * 64)
    audit.did(AT + 60, "task", f"train, round 1, plan {OPEN.id}")
    audit.did(AT + 120, "task", f"train, round 2, plan {OPEN.id}")
    audit.did(AT + 130, "task", f"train, round 3, plan {OPEN.id}", "refused")
    audit.did(AT + 180, "model", MODEL)
    audit.write(AT + 240, "answered", "query", {"B": "found"}, user=PATIENT, hits={"B": 7}, codes=2, k=10)
    audit.write(AT + 250, "answered", "query", {"B": "refused"}, user="u", codes=1, k=10)
    audit.write(AT + 300, "asked", "query", {"B": "found", "C": "late"}, user="u", hits={"B": 10}, codes=1, k=10)
    head = audit.head
    audit.close()
    witness = Witness(home, "", lambda: hub, member.authority)
    signed = witness.sign("A", head, NOW)
    Witness(home, "A", lambda: member.identity, member.authority).keep(signed, SERVER)
    Ledger(home).reserve("default", Reservation(PRIVATE.id, 1, 4, "w", 2.0, 0.1, 10, 1e-3), lambda _: None)
    consent = Consent(home, Policy())
    for one in (OPEN, PRIVATE):
        consent.admits(one)
    consent.say(OPEN.id, "accepted")
    (home / "models").mkdir()
    weights.save(home / "models" / f"{MODEL}.safetensors", {"w": np.zeros(2, np.float32)}, {"plan": OPEN.canonical()})
    _secrets(home)
    return home


def _secrets(home: Path) -> None:
    (home / "gallery.sqlite").write_text(f"images/{PATIENT}.png")
    (home / "gallery.secret").write_text(WORD)
    (home / "users.secret").write_text(WORD)
    (home / "import.secret").write_text(WORD)
    (home / "imported.csv").write_text(f"image,patient\n{PATIENT}.png,{PATIENT}\n")
    (home / "forgotten.csv").write_text(f"patient\n{PATIENT}\n")
    (home / "client.log").write_text(f"{PATIENT} {WORD}")
    (home / "scored.json").write_text(json.dumps({"note": PATIENT}))
    Accounts(home).add("canary.person", "radiologist", WORD, AT)
    consults = ConsultStore(home)
    consults.send("B", "u", b"t" * 16, f"{PATIENT} has a cough", AT)
    consults.close()
