"""Why a site cannot connect: looked at step by step, from its own folder to the server's word, each with what to do.

gRPC says of nearly every fault that the socket was closed. So each layer is tried by itself here, in the order in
which a connection is made. Nothing is changed by it, at the site or at the server, and `join` may be running.
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
    """One thing that was looked at."""

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
    """All steps. What needs one that has failed is skipped."""
    try:
        member, proxy = _home(home)
    except Ailing as bad:
        failed = Step("home", "failed", bad.found, bad.do, bad.exit_code)
        return [failed, *(Step(name, "skipped", "the site's folder comes first") for name in STEPS[1:])]
    first = Step("home", "good", f"{home}: site {member.site}, server {member.hub}")
    return [
        first,
        _settings(home),
        *_Examination(member, now, ways(proxy, environment), is_connected=_is_connected(home)).steps(),
    ]


def failure(steps: list[Step]) -> Step | None:
    """The first step that has failed."""
    return next((step for step in steps if step.result == "failed"), None)


def _home(home: Path) -> tuple[Membership, ProxySettings]:
    if not home.is_dir() or not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise Ailing(f"the folder {home} is not there, or this user may not use it", "choose another --home or user")
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
    """Whether this machine can do what the settings say: the device, the data, the pages' addresses and files."""
    settings = client_settings.read(home)
    try:
        settings_check.check(settings)
        if settings.data:
            manifest.read(Path(settings.data), is_labelled=settings.trains)
    except UserError as error:
        return Step("settings", "failed", f"{error.what}: {error.why}", error.do, error.exit_code)
    return Step("settings", "good", "this machine can do what they say")


class _Examination:
    """What is found on the way is needed by later steps."""

    def __init__(self, member: Membership, now: dt.datetime, ways: Ways, *, is_connected: bool) -> None:
        """`is_connected`: whether the client that runs in this folder is, if one does."""
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
        """The steps of a connection."""
        steps, broken = [], ""
        for name in STEPS[2:]:
            if broken and name not in ("clock", "certificate"):
                steps.append(Step(name, "skipped", f"the step '{broken}' comes first"))
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
            why, do = "nothing answers, not even with a no", "have the firewall let this machine out to that port"
        except ConnectionRefusedError:
            why, do = "nobody listens there", "ask the coordinator whether ynet-server runs, and on this port"
        except OSError as error:
            why, do = error.strerror or "no way there", "check this machine's network"
        else:
            return f"{self._probe.way} takes connections"
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
            do = f"mend {self._proxy_of.source}, have the proxy let CONNECT through, or go without: {without}"
            raise Ailing(f"the way to {self._probe.way.target} is barred: {error}", do, EXIT_UNREACHABLE) from None
        return f"{self._proxy_of} leads to {self._probe.way.target}"

    def _server(self) -> str:
        """Whether it is ynet's server that answers, whoever's."""
        do = "have TLS to this address pass unopened (a proxy or firewall between), or check the address"
        try:
            self._shown = shown = self._probe.handshake()
        except ssl.SSLError as error:
            why = f"what answers speaks no TLS 1.3 ({error.reason or 'the handshake failed'})"
            raise Ailing(f"{why}: it is not ynet's server", do) from None
        except OSError as error:
            why = "says nothing" if isinstance(error, TimeoutError) else "hangs up"
            raise Ailing(f"what answers {why} when TLS begins: it is not ynet's server", do) from None
        if HUB_NAME not in shown.names:
            names = protocol.plain(", ".join(shown.names) or "nobody", 100)
            issuer = protocol.plain(shown.issuer, 100)
            why = f"the certificate shown is for {names}, issued by {issuer}: a proxy that opens TLS, or another server"
            raise Ailing(why, do)
        return "it is a ynet server"

    def _clock(self) -> str:
        told = self._enrolment.time()
        if told is None and self._reply is not None:
            told = dt.datetime.fromtimestamp(self._reply.time, dt.UTC)
        if told is None:
            return ""
        here, off_s = self._now, (self._now - told).total_seconds()
        if abs(off_s) > CLOCK_MAY_DIFFER_S:
            self._now = told  # for the certificates
            direction = "ahead of" if off_s > 0 else "behind"
            raise Ailing(
                f"this machine's clock is {abs(off_s) / 60:.0f} minutes {direction} the server's"
                f" ({here:%Y-%m-%d %H:%M} here, {told:%Y-%m-%d %H:%M} there, UTC)",
                "set this machine's clock (NTP); if it is right, tell the coordinator to set the server's",
            )
        return f"{abs(off_s):.0f} s from the server's"

    def _authority(self) -> str:
        shown, pinned = self._shown, self._member.authority
        assert shown is not None  # noqa: S101 (the step `server` came first)
        own = " and ".join(one.hex() for one in succession.pinned(self._member))
        if not shown.is_issued_by(pinned):
            if (ended := succession.ended(self._enrolment.successions(), pinned)) is not None:
                raise Ailing(
                    f"the authority that this site pinned, SHA-256 {own}, is in force no more since"
                    f" {ended:%Y-%m-%d}: it was replaced while this site was away",
                    self._anew(),
                )
            other = fingerprint_of(self._enrolment.authority()) or "unknown"
            raise Ailing(
                f"the server's certificate is of another authority: SHA-256 {other} is shown, this site pinned {own}",
                "compare the one shown with the coordinator's (ynet-server status): if it is theirs, join with a new"
                " invitation; else somebody is between, tell them",
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
                self._anew(),
            )
        return expiry.in_words(leaf.life, self._now)

    def _anew(self) -> str:
        return f"join with a new invitation of the coordinator's (ynet-server invite {self._member.site} --replace)"

    def _life(self, begins: dt.datetime, ends: dt.datetime) -> str:
        said = expiry.in_words(Life(begins, ends), self._now)
        return f"is {said}" if self._now < begins else said

    def _access(self) -> str:
        """Whether the hub lets the site in: it alone knows what was revoked or replaced."""
        site = self._member.site
        do = f"ask the coordinator why, and for a new invitation (ynet-server invite {site} --replace)"
        try:
            self._reply = ask_hub(self._member, self._probe.way)
        except grpc.RpcError as error:
            code, details = error.code(), protocol.plain(error.details() or "", 200)
            if code is grpc.StatusCode.UNAUTHENTICATED:
                raise Ailing(f"the server does not let this site in: {details}", do) from None
            if not self._probe.takes(self._member):
                why = "it is of another authority, or has ended by the server's clock"
                known = self._member.authority + b"".join(one.certificate for one in self._member.past)
                if succession.is_behind(self._member) and identity.is_issued_by(self._member.certificate, known):
                    why, do = "it is of an authority that was replaced while this site was away", self._anew()
                raise Ailing(f"the server hangs up when it sees this site's certificate: {why}", do) from None
            why = f"{code.name.lower().replace('_', ' ')}, {details}"
            do = "ask the coordinator what the server's log says"
            raise Ailing(f"the server does not take this site's call: {why}", do, EXIT_UNREACHABLE) from None
        if self._reply is not None and self._reply.connected and not self._is_connected_here:
            raise Ailing(
                f"the server has site {site} connected, and no client that runs in this folder is: another machine"
                " runs the folder or a copy of it, or a line broke a moment ago",
                "look again in a minute; then stop the other one, or, if it is not yours, tell the coordinator",
            )
        return f"the server lets in site {site}" + ("" if self._reply else ", and is an older one")

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
    """What the hub says of itself to this site; None of one that cannot be asked. Raises grpc.RpcError."""
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
            if error.code() is not grpc.StatusCode.NOT_FOUND:  # there is no such file: so it looked for one
                raise
        return None
