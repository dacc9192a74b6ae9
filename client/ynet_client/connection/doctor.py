"""The steps of `ynet-client doctor`, which finds out why a site cannot connect.

gRPC reports nearly every fault as a closed socket. So each layer is tested separately, in the order in which a
connection is made, from the site's folder to the server. The steps change nothing, and `join` may be running.
"""

import datetime as dt
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import grpc

from ynet import __version__
from ynet.data import manifest
from ynet.errors import EXIT_UNREACHABLE, EXIT_YOURS, UserError
from ynet.federation import hub_pb2 as pb
from ynet.federation import protocol
from ynet.trust import expiry, identity
from ynet.trust.expiry import Life
from ynet.trust.identity import HUB_NAME
from ynet_client import control_client, settings_check
from ynet_client import proxy as proxies
from ynet_client import settings as client_settings
from ynet_client.connection.hub_errors import PERMANENT, SERVER_IS_BEHIND
from ynet_client.connection.probe import Probe, ServerCertificate, enrolment_of, fingerprint_of
from ynet_client.membership import membership, succession
from ynet_client.membership.membership import Membership
from ynet_client.proxy import ProxySettings, Way, Ways, ways

CLOCK_MAY_DIFFER_S = 300.0
WITHIN_S = 10.0
STEPS = (
    "home",
    "settings",
    "name",
    "port",
    "proxy",
    "server",
    "clock",
    "authority",
    "certificate",
    "access",
    "version",
)


class Step(NamedTuple):
    """The result of one step."""

    step: str
    result: Literal["good", "failed", "skipped"]
    found: str
    do: str = ""
    exit_code: int = 0


class Ailing(Exception):  # noqa: N818 (a finding, not an error of the program)
    """A step has failed."""

    def __init__(self, found: str, do: str, exit_code: int = EXIT_YOURS) -> None:
        super().__init__(found)
        self.found, self.do, self.exit_code = found, do, exit_code


def examine(home: Path, now: dt.datetime, environment: Mapping[str, str] = os.environ) -> list[Step]:
    """Return the results of all steps. A step is skipped when one that it needs has failed."""
    try:
        member, proxy = _home(home)
    except Ailing as bad:
        failed = Step("home", "failed", bad.found, bad.do, bad.exit_code)
        return [failed, *(Step(name, "skipped", "the site's folder must be usable first") for name in STEPS[1:])]
    first = Step("home", "good", f"{home}: site {member.site}, server {member.hub}")
    return [
        first,
        _settings(home),
        *_Examination(member, now, ways(proxy, environment), is_connected=_is_connected(home)).steps(),
    ]


def failure(steps: list[Step]) -> Step | None:
    """Return the first step that has failed; None if none has."""
    return next((step for step in steps if step.result == "failed"), None)


def _home(home: Path) -> tuple[Membership, ProxySettings]:
    if not home.is_dir() or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise Ailing(f"the folder {home} does not exist, or this user may not use it", "choose another --home or user")
    try:
        settings = client_settings.read(home)
        member = membership.load(home)
    except UserError as error:
        raise Ailing(f"{error.what}: {error.why}", error.do) from None
    if member is None:
        raise Ailing(f"no site has enrolled in {home}", "join with an invitation of the coordinator's")
    return member, settings.proxy


def _is_connected(home: Path) -> bool:
    try:
        return bool(control_client.status(home)["connected"])
    except UserError:
        return False


def _settings(home: Path) -> Step:
    """Check the settings against this machine: the device, the data, the pages' addresses and files."""
    settings = client_settings.read(home)
    try:
        settings_check.check(settings)
        if settings.data:
            manifest.read(Path(settings.data))
    except UserError as error:
        return Step("settings", "failed", f"{error.what}: {error.why}", error.do, error.exit_code)
    return Step("settings", "good", "they fit this machine")


class _Examination:
    """The steps of a connection, with the results that later steps need."""

    def __init__(self, member: Membership, now: dt.datetime, ways: Ways, *, is_connected: bool) -> None:
        """`is_connected`: whether a client runs in this folder and is connected."""
        self._member, self._now, self._is_connected_here = member, now, is_connected
        self._unfit: UserError | None = None
        straight = proxies.ways(ProxySettings(proxies.NONE))
        try:
            self._probe, self._enrolment = Probe(ways(member.hub)), enrolment_of(member, ways)
        except UserError as error:
            self._unfit = error
            self._probe, self._enrolment = Probe(straight(member.hub)), enrolment_of(member, straight)
        self._proxy_of = self._probe.way.proxy
        self._shown: ServerCertificate | None = None
        self._reply: pb.ProbeReply | None = None

    def steps(self) -> list[Step]:
        """Run the steps of a connection."""
        steps, broken = [], ""
        for name in STEPS[2:]:
            if broken and name not in ("clock", "certificate"):
                steps.append(Step(name, "skipped", f"the step '{broken}' must succeed first"))
                continue
            steps.append(self._step(name))
            if steps[-1].result == "failed" and name in ("name", "port", "proxy", "server", "authority"):
                broken = name
        at = STEPS.index("clock") - 2
        if steps[at].result == "skipped" and self._reply is not None:
            steps[at] = self._step("clock")
        return steps

    def _step(self, name: str) -> Step:
        try:
            found = getattr(self, f"_{name}")()
        except Ailing as bad:
            return Step(name, "failed", bad.found, bad.do, bad.exit_code)
        unseen = "the server's clock could not be read" if name == "clock" else "left to the proxy"
        return Step(name, "good" if found else "skipped", found or unseen)

    def _name(self) -> str:
        if self._proxy_of or self._unfit:
            return ""
        host = self._probe.way.target.host
        try:
            addresses = self._probe.addresses()
        except OSError as error:
            raise Ailing(
                f"the name {host} is not known here (DNS): {error.strerror}",
                "check the name with the coordinator, and this machine's name server",
                EXIT_UNREACHABLE,
            ) from None
        return f"{host} is {', '.join(addresses)}"

    def _port(self) -> str:
        if self._proxy_of or self._unfit:
            return ""
        try:
            self._probe.open().close()
        except TimeoutError:
            why, do = "no answer", "let the firewall allow connections to that port"
        except ConnectionRefusedError:
            why, do = "connection refused", "ask the coordinator whether ynet-server runs, and on this port"
        except OSError as error:
            why, do = error.strerror or "no route", "check this machine's network"
        else:
            return f"{self._probe.way} accepts connections"
        raise Ailing(f"{self._probe.way}: {why}", do, EXIT_UNREACHABLE)

    def _proxy(self) -> str:
        if self._unfit is not None:
            raise Ailing(f"{self._unfit.what}: {self._unfit.why}", self._unfit.do)
        if self._proxy_of is None:
            return "none is set for the hub"
        try:
            self._probe.open().close()
        except OSError as error:
            without = (
                f"set {proxies.SETTING}: {proxies.NONE}"
                if self._proxy_of.source == proxies.SETTING
                else f"export no_proxy={self._probe.way.target.host}"
            )
            do = f"correct {self._proxy_of.source}, let the proxy allow CONNECT, or use no proxy: {without}"
            raise Ailing(f"{self._probe.way.target} cannot be reached: {error}", do, EXIT_UNREACHABLE) from None
        return f"{self._proxy_of} leads to {self._probe.way.target}"

    def _server(self) -> str:
        """Check that a ynet server answers, of any federation."""
        do = "let proxies and firewalls pass TLS to this address without decryption, or check the address"
        try:
            self._shown = shown = self._probe.handshake()
        except ssl.SSLError as error:
            why = f"what answers does not use TLS 1.3 ({error.reason or 'the handshake failed'})"
            raise Ailing(f"{why}: it is not ynet's server", do) from None
        except OSError as error:
            why = "sends nothing" if isinstance(error, TimeoutError) else "closes the connection"
            raise Ailing(f"what answers {why} when TLS begins: it is not ynet's server", do) from None
        if HUB_NAME not in shown.names:
            names = protocol.plain(", ".join(shown.names) or "nobody", 100)
            issuer = protocol.plain(shown.issuer, 100)
            why = f"the certificate shown is for {names}, issued by {issuer}: a TLS-decrypting proxy or another server"
            raise Ailing(why, do)
        return "it is a ynet server"

    def _clock(self) -> str:
        there = self._enrolment.time()
        if there is None and self._reply is not None:
            there = dt.datetime.fromtimestamp(self._reply.time, dt.UTC)
        if there is None:
            return ""
        here, off_s = self._now, (self._now - there).total_seconds()
        if abs(off_s) > CLOCK_MAY_DIFFER_S:
            self._now = there  # for the certificates
            direction = "ahead of" if off_s > 0 else "behind"
            raise Ailing(
                f"this machine's clock is {abs(off_s) / 60:.0f} minutes {direction} the server's"
                f" ({here:%Y-%m-%d %H:%M} here, {there:%Y-%m-%d %H:%M} there, UTC)",
                "set this machine's clock (NTP); if it is right, tell the coordinator to set the server's",
            )
        return f"{abs(off_s):.0f} s from the server's"

    def _authority(self) -> str:
        shown, pinned = self._shown, self._member.authority
        assert shown is not None  # noqa: S101 (the step `server` has succeeded)
        own = " and ".join(one.hex() for one in succession.pinned(self._member))
        if not shown.is_issued_by(pinned):
            if (ended := succession.ended(self._enrolment.successions(), pinned)) is not None:
                raise Ailing(
                    f"the authority that this site pinned, SHA-256 {own}, is not in force since"
                    f" {ended:%Y-%m-%d}: it was replaced while this site was away",
                    self._join_again(),
                )
            other = fingerprint_of(self._enrolment.authority()) or "unknown"
            raise Ailing(
                f"the server's certificate is of another authority: SHA-256 {other}; this site pinned {own}",
                "compare the first with the coordinator's (ynet-server status): if they are equal, join with a new"
                " invitation; otherwise the connection is intercepted, tell the coordinator",
            )
        issuer = next(one for one in identity.each_certificate(pinned) if shown.is_issued_by(one))
        authority = identity.read_leaf(issuer)
        for whose, begins, ends in (
            ("server", shown.begins, shown.ends),
            ("authority", authority.begins, authority.ends),
        ):
            if not begins <= self._now <= ends:
                raise Ailing(f"the {whose}'s certificate {self._life(begins, ends)}", "tell the coordinator")
        return f"SHA-256 {own}, as pinned"

    def _certificate(self) -> str:
        leaf = identity.read_leaf(self._member.certificate)
        if leaf.site != self._member.site:
            raise Ailing("the site's certificate is another site's", PERMANENT[grpc.StatusCode.UNAUTHENTICATED])
        if not leaf.begins <= self._now <= leaf.ends:
            raise Ailing(
                f"the site's certificate {self._life(leaf.begins, leaf.ends)}",
                self._join_again(),
            )
        return expiry.in_words(leaf.life, self._now)

    def _join_again(self) -> str:
        return f"join with a new invitation of the coordinator's (ynet-server invite {self._member.site} --replace)"

    def _life(self, begins: dt.datetime, ends: dt.datetime) -> str:
        words = expiry.in_words(Life(begins, ends), self._now)
        return f"is {words}" if self._now < begins else words

    def _access(self) -> str:
        """Ask the hub whether it accepts the site: only the hub knows revoked and replaced certificates."""
        site = self._member.site
        do = f"ask the coordinator why, and for a new invitation (ynet-server invite {site} --replace)"
        try:
            self._reply = ask_hub(self._member, self._probe.way)
        except grpc.RpcError as error:
            code, details = error.code(), protocol.plain(error.details() or "", 200)
            if code is grpc.StatusCode.UNAUTHENTICATED:
                raise Ailing(f"the server does not let this site in: {details}", do) from None
            if not self._probe.takes(self._member):
                why = "it is of another authority, or has expired by the server's clock"
                known = self._member.authority + b"".join(one.certificate for one in self._member.past)
                if succession.is_behind(self._member) and identity.is_issued_by(self._member.certificate, known):
                    why, do = "it is of an authority that was replaced while this site was away", self._join_again()
                raise Ailing(f"the server rejects this site's certificate: {why}", do) from None
            why = f"{code.name.lower().replace('_', ' ')}, {details}"
            do = "ask the coordinator what the server's log says"
            raise Ailing(f"the call to the server failed: {why}", do, EXIT_UNREACHABLE) from None
        if self._reply is not None and self._reply.connected and not self._is_connected_here:
            raise Ailing(
                f"the server has site {site} connected, and no client that runs in this folder is: another machine"
                " runs the folder or a copy of it, or a connection broke a moment ago",
                "try again in a minute; then stop the other client, or, if it is not yours, tell the coordinator",
            )
        return f"the server lets in site {site}" + ("" if self._reply else "; it has an older ynet")

    def _version(self) -> str:
        if self._reply is None:
            return f"this is ynet {__version__}, protocol {protocol.VERSION}"
        there = f"protocol {self._reply.protocol}, ynet {protocol.plain(self._reply.version, 20)}"
        here = f"protocol {protocol.VERSION}, ynet {__version__}"
        server = protocol.told(self._reply.protocol, self._reply.oldest)
        if protocol.agreed(protocol.SPOKEN, server) is None:
            is_ahead = server.oldest > protocol.SPOKEN.newest
            do = PERMANENT[grpc.StatusCode.FAILED_PRECONDITION] if is_ahead else SERVER_IS_BEHIND
            raise Ailing(f"the server speaks {there}, this site {here}", do)
        return there if server.newest == protocol.VERSION else f"{there}; this site {here}"


def ask_hub(member: Membership, way: Way) -> pb.ProbeReply | None:
    """Probe the hub; None when it is too old for that. Raises grpc.RpcError."""
    credentials = grpc.ssl_channel_credentials(member.authority, member.key, member.certificate)
    options = [("grpc.ssl_target_name_override", HUB_NAME), ("grpc.enable_retries", 0), *way.grpc_options()]
    with grpc.secure_channel(way.grpc_target(), credentials, options) as channel:
        ask = channel.unary_unary(
            f"/{protocol.SERVICE}/Probe", pb.ProbeRequest.SerializeToString, pb.ProbeReply.FromString
        )
        try:
            reply: pb.ProbeReply = ask(pb.ProbeRequest(), timeout=WITHIN_S)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
        else:
            return reply
        fetch = channel.unary_stream(
            f"/{protocol.SERVICE}/Download", pb.DownloadRequest.SerializeToString, pb.Chunk.FromString
        )
        try:
            list(fetch(pb.DownloadRequest(), timeout=WITHIN_S))
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:  # there is no such file, so the hub accepted the call
                raise
        return None
