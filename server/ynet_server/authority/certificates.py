"""The server's own certificates: renewal of the hub's, and warnings before certificates end."""

import asyncio
import datetime as dt
import logging
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path

import grpc

from ynet.errors import UserError
from ynet.runtime.home import write_private
from ynet.trust import expiry, identity
from ynet.trust.expiry import Life, Warnings
from ynet.trust.identity import CLOCK_SLACK, Identity, Signer
from ynet_server.hub.hub import Hub
from ynet_server.registry import Registry

log = logging.getLogger("ynet.certificates")
LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
LOOK_EVERY_S = 1.0
"""How often live connections are checked against the registry."""
THINK_EVERY_S = 600.0
"""How often the hub's certificate is checked for renewal, and all certificates for warnings."""


def authority_of(home: Path, federation: str, now: dt.datetime) -> Identity:
    """The consortium's authority, made at the first start."""
    return _kept(home / "authority", lambda: identity.make_authority(federation, now))


def authority_in(home: Path) -> bytes:
    """The certificate of the authority in a home folder, PEM. Raises UserError when there is none."""
    path = home / "authority/identity.pem"
    if not path.exists():
        raise UserError(f"there is no authority in {home}", "no server was ever started there", "give another --home")
    return read_identity(path).certificate


class HubCertificate:
    """The hub's key and certificate, for both ports; renewed in the last third of its life, for new connections."""

    def __init__(
        self, home: Path, authority: Signer, now: dt.datetime, trusted: Callable[[], bytes] | None = None
    ) -> None:
        """`trusted` returns the authorities that may have issued sites' certificates, PEM; default: `authority`."""
        self._folder, self._authority = home / "hub", authority
        self._trusted = trusted or (lambda: authority.certificate)
        self.identity = _kept(self._folder, lambda: identity.issue_hub(authority, now))
        self._is_new = False
        self.news: list[str] = []  # lines for the terminal
        self._tls = tls(self.identity, authority)
        self.renew(now)

    def follow(self) -> None:
        """Use the authorities in force from the next handshake on, after they have changed."""
        self._is_new = True

    def renew(self, now: dt.datetime) -> bool:
        """Renew the certificate if that is due. Returns whether it was."""
        is_of_authority = identity.is_issued_by(self.identity.certificate, self._authority.certificate)
        if is_of_authority and not identity.due_for_renewal(self.identity.certificate, now):
            return False
        if now < (life := self.life()).begins:
            self.news.append(f"the hub's certificate was {expiry.in_words(life, now)}; a new one is made")
        self.identity = identity.issue_hub(self._authority, now)
        _keep(self._folder, self.identity)
        _load(self._tls, self.identity, self._authority)
        self._is_new = True
        log.info("the hub's certificate was renewed")
        return True

    def life(self) -> Life:
        """The validity of the certificate in use."""
        return identity.read_leaf(self.identity.certificate).life

    def tls(self) -> ssl.SSLContext:
        """The context of the HTTPS port; a renewal changes it for later handshakes."""
        return self._tls

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """The credentials of the hub's port; a renewal changes them for later handshakes."""
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._newer, True)  # type: ignore[arg-type]

    def _newer(self) -> grpc.ServerCertificateConfiguration | None:
        if not self._is_new:
            return None
        self._is_new = False
        return self._configuration()

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        pair = (self.identity.key, self.identity.certificate)
        return grpc.ssl_server_certificate_configuration([pair], self._trusted())


def tls(hub: Identity, authority: Signer) -> ssl.SSLContext:
    """A TLS 1.3 context with the hub's certificate and the authority's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load(context, hub, authority)
    return context


def _load(context: ssl.SSLContext, hub: Identity, authority: Signer) -> None:
    with tempfile.TemporaryDirectory() as folder:  # the ssl module reads keys from files only; this one is 0700
        chain, key = Path(folder) / "chain.pem", Path(folder) / "key.pem"
        chain.write_bytes(hub.certificate + authority.certificate)
        key.write_bytes(hub.key)
        context.load_cert_chain(chain, key)


async def watch(
    hub: Hub,
    registry: Registry,
    certificate: HubCertificate,
    authorities: Callable[[], bytes],
    say: Callable[[str], None],
    clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
) -> None:
    """Close connections with invalid certificates, renew the hub's, warn before certificates end; until cancelled."""
    warnings, loop = Warnings(), asyncio.get_running_loop()
    due, begun = loop.time(), (clock(), loop.time())
    while True:
        try:
            now = clock()
            hub.dismiss_ended(now)
            off_s = (now - begun[0]).total_seconds() - (loop.time() - begun[1])
            if abs(off_s) > CLOCK_SLACK.total_seconds():
                due, begun = loop.time(), (now, loop.time())  # check all certificates by the new time
                certificate.news.append(
                    f"this machine's clock was put {'forward' if off_s > 0 else 'back'} by {_span(off_s)}"
                )
            if loop.time() >= due:
                due = loop.time() + THINK_EVERY_S
                certificate.renew(now)
                news, certificate.news = certificate.news, []
                for line in [*news, *running_out(registry, authorities(), warnings, now)]:
                    log.warning("%s", line)
                    say(line)
        except Exception:
            log.exception("the certificates could not be looked at")
        await asyncio.sleep(LOOK_EVERY_S)


def running_out(registry: Registry, authorities: bytes, warnings: Warnings, now: dt.datetime) -> list[str]:
    """Warnings, each given once, about certificates that end within 30, 7 or 1 days, or are not in force."""
    lines, in_force = [], identity.each_certificate(authorities)
    do = "every site must be invited again when it ends; make a successor in time: ynet-server authority rotate"
    if len(in_force) > 1:
        do = "every site must be invited again when it ends; its successor exists: ynet-server authority retire"
    for whose, one in zip(("authority", "successor"), in_force, strict=False):
        life = identity.read_leaf(one).life
        if whose == "successor" and life.has(now):
            continue
        if warning := warnings.new(whose, life, now):
            lines.append(f"the {whose}'s certificate: {warning}; {_about_authority(whose, life, now) or do}")
    for site, life in _lives(registry).items():
        if warning := warnings.new(("site", site), life, now):
            is_early = now < life.begins
            why = "the site cannot connect" if is_early else "a connected site renews it automatically"
            way = f"ynet-server invite {site} --replace"
            lines.append(f"the certificate of site {site}: {warning}; {why} ({way if is_early else 'else: ' + way})")
    return lines


def _about_authority(whose: str, life: Life, now: dt.datetime) -> str:
    if life.has(now) or now > life.ends:
        return ""
    if whose == "successor":
        return "no site takes it before; make another: ynet-server authority rotate"
    return (
        "no site can connect before; if this machine's clock is right now, replace it, and invite every site:"
        " ynet-server authority rotate --now"
    )


def _lives(registry: Registry) -> dict[str, Life]:
    """The validity of the certificates of all sites that are not revoked."""
    lives = registry.lives()
    for site in registry.sites():
        if site.name not in lives and site.ends is not None and not site.revoked:
            lives[site.name] = Life(LONG_AGO, dt.datetime.fromtimestamp(site.ends, dt.UTC))
    return dict(sorted(lives.items()))


def _span(seconds: float) -> str:
    """A length of time in days, hours or minutes."""
    size, word = next(
        (one for one in ((86_400, "days"), (3_600, "hours")) if abs(seconds) >= 2 * one[0]), (60, "minutes")
    )
    return f"{abs(seconds) / size:.0f} {word}"


def days(ends: float | None, now: float) -> float | None:
    """Days until a certificate ends, as the commands show them."""
    return None if ends is None else round((ends - now) / 86_400, 2)


def read_identity(path: Path) -> Identity:
    """Read a key and its certificate from one file. Raises UserError when it holds something else."""
    pem = path.read_bytes()
    end = pem.find(b"-----BEGIN CERTIFICATE")
    if end < 0:
        raise UserError(f"{path} cannot be read", "it holds no key and certificate", "restore it from a backup")
    return Identity(pem[:end], pem[end:])


def _kept(folder: Path, make: Callable[[], Identity]) -> Identity:
    """The identity in `folder`, made at the first start. One file holds key and certificate, so that they match."""
    path = folder / "identity.pem"
    if not path.exists():
        _keep(folder, make())
    return read_identity(path)


def _keep(folder: Path, made: Identity) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    write_private(folder / "identity.pem", made.key + made.certificate)
