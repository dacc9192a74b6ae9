"""A site's membership: enrolment with an invitation, and the key and certificates in its home folder."""

import datetime as dt
import hashlib
import json
import ssl
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from ynet.errors import RefusedError, UnreachableError, UserError
from ynet.runtime.home import write_private
from ynet.trust import identity, invitation, lasting_key
from ynet.trust.expiry import Life
from ynet.trust.identity import Identity
from ynet.trust.invitation import Invitation
from ynet.trust.succession import Past
from ynet_client import proxy
from ynet_client.egress import Count, nowhere
from ynet_client.homes import MEMBER
from ynet_client.membership.https_call import HttpReply, exchange
from ynet_client.proxy import ProxyError, Way

FILE, KEY, NEXT_KEY, LASTING = MEMBER, "site.key", "site.next.key", "site.lasting.key"
"""The certificate in FILE determines which key is used: a renewal writes the next key, then FILE, then moves the key. A
crash at any point leaves a key and a certificate that belong together."""
TIMEOUT_S = 20.0
OUT_OF_TIME = (9, 10)  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED


class Membership(NamedTuple):
    """What a site needs to connect."""

    site: str
    hub: str  # host:port
    key: bytes  # PEM
    certificate: bytes  # PEM
    authority: bytes  # PEM; two during a rotation, the older first
    enrolment: str = ""  # host:port where it enrolled; empty when it enrolled with an older ynet
    invitation: str = ""  # digest of the invitation that it enrolled with
    past: tuple[Past, ...] = ()  # the authorities that it trusted before
    lasting: bytes = b""  # PEM, by which other sites recognise it; empty before the first `join` with this ynet

    @property
    def identity(self) -> Identity:
        """The key and certificate, with the lasting key that signs for them."""
        return Identity(self.key, self.certificate, self.lasting)

    @property
    def life(self) -> Life:
        """The validity period of its certificate."""
        return identity.read_leaf(self.certificate).life

    @property
    def ends(self) -> dt.datetime:
        """When its certificate ends."""
        return identity.read_leaf(self.certificate).ends


def load(home: Path) -> Membership | None:
    """Read the membership in `home`; None when the site has not enrolled. Raises UserError."""
    path = home / FILE
    if not path.exists():
        return None
    try:
        try:
            return _read(home)
        except (OSError, LookupError):
            return _read(home)  # a renewal moved the key between two reads
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(
            f"the membership in {home} cannot be read",
            f"{FILE} or {KEY} was lost or changed",
            "restore them from a backup, or remove both and join with a new invitation",
        ) from None


def _read(home: Path) -> Membership:
    kept = json.loads((home / FILE).read_text("utf-8"))
    certificate = kept["certificate"].encode()
    keys = [path.read_bytes() for path in (home / KEY, home / NEXT_KEY) if path.exists()]
    key = next((key for key in keys if identity.has_key(certificate, key)), None)
    if key is None:
        raise LookupError
    return Membership(
        kept["site"],
        kept["hub"],
        key,
        certificate,
        kept["authority"].encode(),
        kept.get("enrolment", ""),
        kept.get("invitation", ""),
        tuple(Past(one["certificate"].encode(), float(one["until"])) for one in kept.get("past", [])),
        (home / LASTING).read_bytes() if (home / LASTING).exists() else b"",
    )


def with_lasting(home: Path, member: Membership) -> Membership:
    """Return the membership with its lasting key; make the key when it is missing."""
    if not (home / LASTING).exists():
        write_private(home / LASTING, lasting_key.new_key())
    return member._replace(lasting=(home / LASTING).read_bytes())


def enrol(
    home: Path, site: str, text: str, count: Count = nowhere, ways: proxy.Ways = proxy.BY_ENVIRONMENT
) -> Membership:
    """Enrol with an invitation. The private key is made here and never leaves the site.

    A repeat after a lost answer uses the same key and gets the same certificate. A repeat with an invitation that the
    site has used already changes nothing. A site that enrols a second time makes new keys, the lasting one included.

    Args:
        home: the site's folder.
        site: its name.
        text: the invitation.
        count: counts the bytes that leave.
        ways: chooses the proxy.

    Raises:
        UserError: enrolment failed; only the key is stored.
    """
    invited = invitation.parse(text)
    identity.check_site_name(site)
    old, used = load_or_none(home), hashlib.sha256(b"ynet used invitation 1\0" + invited.secret).hexdigest()
    if old is not None and (old.site, old.invitation) == (site, used):
        return old
    # 1. Get the authority's certificate over an untrusted connection; the invitation holds its fingerprint.
    way = ways(invited.address)
    authority = _pinned(_request(way, _unverified(), "GET", "/authority").content, invited)
    # 2. Make a key, and sign a request with it.
    key = next_key(home) if old is not None else _key(home)
    csr = identity.signing_request(key, site)
    proof = invitation.proof(invitation.verifier(invited.secret), site, csr)
    # 3. Get the site's certificate over a connection that the authority's certificate secures.
    body = json.dumps({"site": site, "csr": csr.decode(), "proof": proof.hex()}).encode()
    count("enrolment", len(body))
    hub, certificate = _granted(_request(way, _verified(authority), "POST", "/enrol", body))
    if identity.read_leaf(certificate).site != site:
        raise RefusedError("enrolment failed", "the certificate is for another site", "ask the coordinator")
    member = keep(
        home, Membership(site, hub, key, certificate, authority, invited.address, used, _past(old, authority))
    )
    if old is not None:  # its keys may have been stolen: the other admins must confirm the new lasting key
        (home / LASTING).unlink(missing_ok=True)
    return with_lasting(home, member)


def keep(home: Path, member: Membership) -> Membership:
    """Store a membership. Its key is in `home` already, as the current or the next one. Raises RefusedError."""
    if not identity.has_key(member.certificate, member.key):
        raise RefusedError("the certificate was refused", "it is not for this site's key", "ask the coordinator")
    _write(home, member)
    if (home / NEXT_KEY).exists() and (home / NEXT_KEY).read_bytes() == member.key:
        (home / NEXT_KEY).replace(home / KEY)
    return member


def pin(home: Path, member: Membership) -> None:
    """Store the authorities of a membership. The stored key and certificate stay: a renewal may have changed them.

    Raises UserError, OSError.
    """
    kept = load(home)
    _write(home, member if kept is None else kept._replace(authority=member.authority, past=member.past))


def _write(home: Path, member: Membership) -> None:
    kept: dict[str, object] = {
        "site": member.site,
        "hub": member.hub,
        "certificate": member.certificate.decode(),
        "authority": member.authority.decode(),
        "enrolment": member.enrolment,
        "invitation": member.invitation,
    }
    if member.past:
        kept["past"] = [{"certificate": one.certificate.decode(), "until": one.until} for one in member.past]
    write_private(home / FILE, json.dumps(kept).encode())


def _past(old: Membership | None, authority: bytes) -> tuple[Past, ...]:
    """Return the authorities that a site trusted before, so that older signatures on its audit log stay valid."""
    if old is None:
        return ()
    now = round(dt.datetime.now(dt.UTC).timestamp(), 3)
    gone = [Past(one, now) for one in identity.each_certificate(old.authority) if one != authority]
    return (*old.past, *gone)


def next_key(home: Path) -> bytes:
    """Return the key of the next certificate; the same one until that certificate is stored.

    Raises UserError when the membership in `home` cannot be read.
    """
    member = load(home)
    if (home / NEXT_KEY).exists() and member and (home / NEXT_KEY).read_bytes() == member.key:
        (home / NEXT_KEY).replace(home / KEY)  # a crash interrupted `keep`
    return _key(home, NEXT_KEY)


def load_or_none(home: Path) -> Membership | None:
    """Read the membership in `home`; None also when it cannot be read."""
    try:
        return load(home)
    except UserError:
        return None


def _key(home: Path, name: str = KEY) -> bytes:
    path = home / name
    if not path.exists():
        write_private(path, identity.new_key())
    return path.read_bytes()


def _pinned(shown: bytes, invited: Invitation) -> bytes:
    """Return the server's authority if its fingerprint is in the invitation. Raises RefusedError."""
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
        "the server's authority is not the one in the invitation: this may be another server, or an interception",
        "compare the fingerprint with the coordinator's (ynet-server status), and ask for a new invitation",
    )


def _granted(answer: HttpReply) -> tuple[str, bytes]:
    """Read the hub's address and the site's certificate from an answer. Raises UserError."""
    try:
        granted = json.loads(answer.content)
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
    context.verify_mode = ssl.CERT_NONE  # the certificate is checked against the invitation's fingerprint
    return context


def _verified(authority: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=authority.decode())
    return context


def _request(way: Way, context: ssl.SSLContext, method: str, path: str, body: bytes = b"") -> HttpReply:
    from http.client import HTTPException  # takes 0.1 s to load, which help and completion do not need

    try:
        answer = exchange(way, context, method, path, TIMEOUT_S, body)
    except ssl.SSLCertVerificationError as fault:
        raise (_out_of_its_time() if fault.verify_code in OUT_OF_TIME else _another_authority()) from None
    except ProxyError as error:
        raise UnreachableError(
            "the server could not be reached",
            str(error),
            "correct the proxy's address, let the proxy allow CONNECT to that port, or use no proxy:"
            f" export no_proxy={way.target.host}",
        ) from None
    except (OSError, HTTPException):
        raise UnreachableError(
            "the server could not be reached",
            f"nothing answers at {way}",
            "check that ynet-server runs there and that the firewall allows connections to that port",
        ) from None
    if answer.status == HTTPStatus.FORBIDDEN:
        raise _refusal(answer)
    if not answer.is_good:
        raise _strange_answer(f"is {answer.status}")
    return answer


def _out_of_its_time() -> RefusedError:
    return RefusedError(
        "enrolment refused",
        "the server's certificate is not valid by this machine's clock: that clock is wrong, or the server's is",
        "set this machine's clock (NTP); if it is right, tell the coordinator: the server says it on its terminal",
    )


def _refusal(answer: HttpReply) -> UserError:
    try:
        refusal = json.loads(answer.content)
        return RefusedError(*(" ".join(str(refusal[part]).split()) for part in ("what", "why", "do")))
    except (ValueError, KeyError, TypeError):
        return _strange_answer(f"is {answer.status}, and not ynet's")
