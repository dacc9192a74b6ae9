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
    try:
        kept = json.loads(path.read_text("utf-8"))
        key = (home / KEY).read_bytes()
        return Membership(kept["site"], kept["hub"], key, kept["certificate"].encode(), kept["authority"].encode())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"the membership in {home} cannot be read",
            f"{FILE} or {KEY} was lost or changed",
            "restore them from a backup, or remove both and join with a new invitation",
        ) from None


def enrol(home: Path, site: str, text: str) -> Membership:
    """Enrol with an invitation; the key is made here and never leaves. Raises UserError, and then keeps only the key.

    A repeat after a lost answer uses the same key, and the server gives the same certificate again.
    """
    invited = invitation.parse(text)
    identity.check_site_name(site)
    # 1. The authority's certificate, over a connection not yet trusted: its fingerprint is in the invitation.
    authority = _pinned(_request(invited, _unverified(), "GET", "/authority").content, invited)
    # 2. A key of our own, and a request signed with it.
    key = _key(home)
    csr = identity.signing_request(key, site)
    proof = invitation.proof(invitation.verifier(invited.secret), site, csr)
    # 3. The certificate, over a connection that the authority vouches for.
    body = {"site": site, "csr": csr.decode(), "proof": proof.hex()}
    hub, certificate = _granted(_request(invited, _verified(authority), "POST", "/enrol", json=body))
    if identity.read_leaf(certificate).site != site:
        raise RefusedError("enrolment failed", "the certificate is for another site", "ask the coordinator")
    kept = {"site": site, "hub": hub, "certificate": certificate.decode(), "authority": authority.decode()}
    write_private(home / FILE, json.dumps(kept).encode())
    return Membership(site, hub, key, certificate, authority)


def _key(home: Path) -> bytes:
    path = home / KEY
    if not path.exists():
        write_private(path, identity.new_key())
    return path.read_bytes()


def _pinned(shown: bytes, invited: Invitation) -> bytes:
    """The one certificate, of those shown, whose fingerprint is in the invitation. Raises RefusedError."""
    try:
        authority = identity.first_certificate(shown)
    except ValueError:
        raise _another_authority() from None
    if identity.fingerprint(authority) != invited.fingerprint:
        raise _another_authority()
    return authority


def _another_authority() -> RefusedError:
    return RefusedError(
        "enrolment refused",
        "the server's authority is not the one in the invitation: this may be another server, or somebody between",
        "compare the fingerprint with the coordinator's (ynet-server status), and ask for a new invitation",
    )


def _granted(answer: httpx.Response) -> tuple[str, bytes]:
    """The hub's address and the certificate that a site was given. Raises UserError."""
    try:
        granted = answer.json()
        hub, certificate = str(granted["hub"]), str(granted["certificate"]).encode()
        identity.read_leaf(certificate)
    except (ValueError, KeyError, TypeError):
        raise _strange_answer("is not ynet's") from None
    return hub, certificate


def _strange_answer(what: str) -> UserError:
    return UserError("enrolment failed", f"the server's answer {what}", "ask the coordinator, or try again")


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
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if _is_about_a_certificate(error):
            raise _another_authority() from None
        raise UnreachableError(
            "the server could not be reached",
            f"nothing answers at {invited.address}",
            "check that ynet-server runs there and that the firewall lets this machine out to that port",
        ) from None
    if answer.status_code == httpx.codes.FORBIDDEN:
        raise _refusal(answer)
    if answer.is_error:
        raise _strange_answer(f"is {answer.status_code}")
    return answer


def _is_about_a_certificate(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return error is not None


def _refusal(answer: httpx.Response) -> UserError:
    try:
        told = answer.json()
        return RefusedError(*(" ".join(str(told[part]).split()) for part in ("what", "why", "do")))
    except (ValueError, KeyError, TypeError):
        return _strange_answer(f"is {answer.status_code}, and not ynet's")
