"""Becoming and being a member: enrolment by invitation, and the key and certificates that come of it."""

import json
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.federation import identity, invitation
from ynet.federation.identity import HUB_NAME
from ynet.federation.invitation import Invitation
from ynet.home import write_private

FILE, KEY = "membership.json", "site.key"
TIMEOUT_S = 20.0


class Membership(NamedTuple):
    """What a site needs to connect."""

    site: str
    hub: str  # host:port
    key: bytes  # PEM
    certificate: bytes  # PEM
    authority: bytes  # PEM


def load(home: Path) -> Membership | None:
    """The membership kept in `home`, if the site has enrolled."""
    path = home / FILE
    if not path.exists():
        return None
    kept = json.loads(path.read_text("utf-8"))
    key = (home / KEY).read_bytes()
    return Membership(kept["site"], kept["hub"], key, kept["certificate"].encode(), kept["authority"].encode())


def enrol(home: Path, site: str, text: str) -> Membership:
    """Enrol with an invitation; the key is made here and never leaves. Raises UserError, and then keeps only the key.

    A repeat after a lost answer uses the same key, and the server gives the same certificate again.
    """
    invited = invitation.parse(text)
    identity.check_site_name(site)
    # 1. The authority's certificate, over a connection not yet trusted: its fingerprint is in the invitation.
    authority = _request(invited, _unverified(), "GET", "/authority").content
    _check_fingerprint(authority, invited)
    # 2. A key of our own, and a request signed with it.
    key = _key(home)
    csr = identity.signing_request(key, site)
    proof = invitation.proof(invitation.verifier(invited.secret), site, csr)
    # 3. The certificate, over a connection that the authority vouches for.
    body = {"site": site, "csr": csr.decode(), "proof": proof.hex()}
    granted = _request(invited, _verified(authority), "POST", "/enrol", json=body).json()
    certificate = granted["certificate"].encode()
    if identity.read_leaf(certificate).site != site:
        raise RefusedError("enrolment failed", "the certificate is for another site", "ask the coordinator")
    kept = {"site": site, "hub": granted["hub"], "certificate": certificate.decode(), "authority": authority.decode()}
    write_private(home / FILE, json.dumps(kept).encode())
    return Membership(site, granted["hub"], key, certificate, authority)


def _key(home: Path) -> bytes:
    path = home / KEY
    if not path.exists():
        write_private(path, identity.new_key())
    return path.read_bytes()


def _check_fingerprint(authority: bytes, invited: Invitation) -> None:
    try:
        fits = identity.fingerprint(authority) == invited.fingerprint
    except ValueError:
        fits = False
    if not fits:
        raise RefusedError(
            "enrolment refused",
            "the server's authority is not the one in the invitation: this may be another server, or somebody between",
            "compare the fingerprint with the coordinator's (ynet-server status), and ask for a new invitation",
        )


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # what comes is checked against the invitation's fingerprint
    return context


def _verified(authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority.decode())
    return context


def _request(invited: Invitation, context: ssl.SSLContext, method: str, path: str, **body: Any) -> httpx.Response:
    try:
        with httpx.Client(verify=context, timeout=TIMEOUT_S) as client:
            extensions = {"sni_hostname": HUB_NAME}
            answer = client.request(method, f"https://{invited.address}{path}", extensions=extensions, **body)
    except httpx.HTTPError:
        raise UnreachableError(
            "the server could not be reached",
            f"nothing answers at {invited.address}",
            "check that ynet-server runs there and that the firewall lets this machine out to that port",
        ) from None
    if answer.status_code == httpx.codes.FORBIDDEN:
        told = answer.json()
        raise RefusedError(str(told["what"]), str(told["why"]), str(told["do"]))
    if answer.is_error:
        raise UserError("enrolment failed", f"the server answered {answer.status_code}", "ask the coordinator")
    return answer
