"""The server's settings: addresses, ports, limits and the federation's name."""

from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ynet.config import STRICT, parse, read_yaml
from ynet.runtime import address, setting_sources
from ynet.runtime.home import write_private
from ynet.runtime.listening import ListenAddress
from ynet.web.prometheus import MetricsSettings
from ynet.web.public_address import OuterName, TrustedProxy

FILE = "server.yaml"
Port = Annotated[int, Field(ge=0, le=65_535)]  # 0: any free one, remembered in the home folder


@dataclass(frozen=True, config=STRICT)
class Listen:
    """The addresses on which the server listens for sites."""

    host: Annotated[str, AfterValidator(address.host_or_all)] = "0.0.0.0"  # noqa: S104 (sites come from other machines)
    """The address to listen on; `::` listens on every IPv6 and IPv4 address."""
    hub_port: Port = 8440
    """gRPC with mutual TLS 1.3; 0 takes a free port and keeps it."""
    enrolment_port: Port = 8441
    """HTTPS (TLS 1.3) for sites that join; 0 takes a free port and keeps it."""


@dataclass(frozen=True, config=STRICT)
class StatusSettings:
    """The coordinator's [status page], for people with accounts."""

    enabled: bool = False
    """Whether the page is served."""
    host: Annotated[str, AfterValidator(address.host)] = "127.0.0.1"
    """The address to listen on."""
    port: Port = 8442
    """HTTPS (TLS 1.2 or 1.3); 0 takes a free port."""
    certificate: str = ""
    """PEM file of the intranet's certificate, with `status.key`.

    Without one the server makes a certificate and prints its fingerprint.
    """
    key: str = ""
    """PEM file of that certificate's key, not encrypted."""
    outer_name: OuterName = ""
    """HOST or HOST:PORT under which browsers reach a [reverse proxy]."""
    trusted_proxies: tuple[TrustedProxy, ...] = ()
    """Addresses or networks of reverse proxies whose `X-Forwarded-For` is believed.

    The header decides limits and log lines only, never access.
    """


@dataclass(frozen=True, config=STRICT)
class ServerSettings:
    """configs/server.yaml."""

    federation: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$")] = "ynet"
    """The consortium's name, shown to every site; at most 64 letters, digits, spaces, `_`, `.`, `-`."""
    advertise: Annotated[str, AfterValidator(address.host)] = "127.0.0.1"
    """The host name or IP address under which sites reach this machine, without a port."""
    listen: Listen = field(default_factory=Listen)
    engine: Literal["hub"] = "hub"  # simulation: `ynet-lab simulate`; superlink: docs/how-to/superlink.md
    """The only engine that the server runs."""
    asking_sites: Literal["accept", "refuse"] = "accept"
    """`refuse` rejects sites that have no training cases and [only ask]."""
    max_model_mb: Annotated[int, Field(gt=0, le=4096)] = 1024
    """Larger weights are refused; in MiB."""
    status: StatusSettings = field(default_factory=StatusSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)


def places(settings: ServerSettings) -> list[ListenAddress]:
    """The addresses on which the server must listen."""
    at, page, metrics = settings.listen, settings.status, settings.metrics
    found = [
        ListenAddress("listen.hub_port", at.host, at.hub_port),
        ListenAddress("listen.enrolment_port", at.host, at.enrolment_port),
    ]
    found += [ListenAddress("status.port", page.host, page.port)] if page.enabled else []
    return found + ([ListenAddress("metrics.port", metrics.host, metrics.port)] if metrics.port else [])


def load(home: Path, config: Path | None) -> ServerSettings:
    """Load the settings from the file that `sources.source_of` finds, or the defaults. Raises UserError."""
    file, _ = setting_sources.source_of(home, FILE, config)
    return parse(ServerSettings, read_yaml(file, "settings"), f"settings {file}") if file else ServerSettings()


def known_of(home: Path, config: Path | None, settings: ServerSettings) -> dict[str, str]:
    """The source of each setting, by key. Raises UserError."""
    return setting_sources.sources(settings, setting_sources.source_of(home, FILE, config))


def remember(
    home: Path,
    settings: ServerSettings,
    hub_port: int,
    enrolment_port: int,
    known: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Store the settings of a started server with the ports that it chose, since sites remember the ports.

    `known`: where they came from, by key.
    """
    ports = {"hub_port": hub_port, "enrolment_port": enrolment_port}
    free = {f"listen.{key}": "found free" for key, port in ports.items() if port != getattr(settings.listen, key)}
    kept = replace(settings, listen=replace(settings.listen, hub_port=hub_port, enrolment_port=enrolment_port))
    write_private(home / FILE, setting_sources.remembered(kept, {**known, **free}))
