"""A site's settings, kept in its home folder: where its data lie, and what training may use."""

from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ynet.config import STRICT, parse, read_yaml
from ynet.errors import UserError
from ynet.plan import Recipe
from ynet.runtime import address, setting_sources
from ynet.runtime.home import write_private
from ynet.web.prometheus import MetricsSettings
from ynet.web.public_address import OuterName, TrustedProxy
from ynet_client.proxy import ProxySettings

FILE = "client.yaml"
SiteName = Annotated[str, Field(min_length=1, max_length=32)]
KnownSite = Annotated[
    str, Field(min_length=3, max_length=120, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31} *[=] *[0-9a-fA-F: -]+$")
]
ColumnName = Annotated[str, Field(min_length=1, max_length=64)]


@dataclass(frozen=True, config=STRICT)
class PrivacySettings:
    """What training may spend of the patients' privacy, over all runs."""

    max_epsilon: Annotated[float, Field(ge=0, le=100)] = 10.0  # at the delta of the plan that asks
    data: Annotated[str, Field(min_length=1, max_length=64)] = "default"  # the same patients, the same name


@dataclass(frozen=True, config=STRICT)
class Policy:
    """Which plans the site takes part in. Each that is allowed waits for a yes as well, unless `new_plans` is one."""

    new_plans: Literal["ask", "accept"] = "ask"
    recipes: tuple[Recipe, ...] = ()  # empty: any
    privacy: Literal["any", "required"] = "any"  # required: private plans only; how private: privacy.max_epsilon
    aggregation: Literal["any", "secure"] = "any"
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 1  # in each round
    max_epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000  # rounds x local epochs


@dataclass(frozen=True, config=STRICT)
class Disclosure:
    """What other sites may learn from this site's gallery. Its own queries are not limited by it.

    `minimum_group` keeps a filter from singling out few patients, and one left out from being found by subtraction.
    It does not prevent: subtracting two larger groups that differ by few patients (an asker who knows enough to choose
    them; the quotas make it slow), comparing answers of two days between which a patient came, or learning of one hit
    what a hit says. A hit is one case: without a filter no number of hits is too small, or the rare case, which the
    query is asked for, would be the one never found. `labels`, `distance_step` and `max_k` say what a hit tells.

    Distances to many chosen codes pin a case's code down; `distance_step` and the quotas make that slower and coarser.
    The number of users is the asking site's word: what binds a site that lies is `queries_per_day_and_site`.
    """

    answers: bool = True  # false: no other site is told anything
    allow: tuple[SiteName, ...] = ()  # empty: all sites that are not denied
    deny: tuple[SiteName, ...] = ()
    minimum_group: Annotated[int, Field(ge=0, le=10_000)] = 5  # patients; smaller groups are suppressed; 0: none
    queries_per_day_and_site: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000  # UTC days; each code counts
    queries_per_day_and_user: Annotated[int, Field(ge=0, le=10_000_000)] = 1_000
    distance_step: Annotated[int, Field(ge=1, le=64)] = 1  # distances are rounded up to its multiples, then ranked
    labels: bool = True  # false: hits have none, others filter by none, scores have no counts by class
    attributes: tuple[ColumnName, ...] = ()  # of the manifest, by which others may filter; `date` for since and until
    detail: bool = False  # whether detail codes are compared for others, and sent with this site's own queries
    max_k: Annotated[int, Field(ge=1, le=100)] = 100
    consults: bool = True  # whether requests for a consult are taken


@dataclass(frozen=True, config=STRICT)
class WorkbenchSettings:
    """The radiologists' page, served while the site is joined."""

    enabled: bool = False
    host: Annotated[str, AfterValidator(address.host)] = "127.0.0.1"  # the address to listen on
    port: Annotated[int, Field(ge=0, le=65_535)] = 8450  # 0: any free one
    certificate: str = ""  # PEM, with `key`: the intranet's own; without, one is made
    key: str = ""
    outer_name: OuterName = ""  # HOST or HOST:PORT by which browsers reach a reverse proxy before it
    trusted_proxies: tuple[TrustedProxy, ...] = ()  # addresses of reverse proxies whose X-Forwarded-For counts


@dataclass(frozen=True, config=STRICT)
class ClientSettings:
    """configs/client.yaml."""

    data: str = ""  # the manifest; set by `join --data`
    trains: bool = True  # false: the site only asks others; it takes no task of a run, and needs no data
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # for training on the CPU; 0: all cores
    cache_mb: Annotated[int, Field(ge=0, le=1 << 20)] = 2048  # decoded images kept in memory
    max_score_drop: Annotated[float, Field(ge=0, le=1)] = 1.0  # of a new model on own test cases; 1: any is taken up
    sites: tuple[KnownSite, ...] = ()  # NAME=FINGERPRINT: other sites that are asked and answered, by no other key
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    policy: Policy = field(default_factory=Policy)
    disclosure: Disclosure = field(default_factory=Disclosure)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    workbench: WorkbenchSettings = field(default_factory=WorkbenchSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)

    @property
    def known_sites(self) -> dict[str, str]:
        """The fingerprints in `sites`, by name."""
        pairs = (one.partition("=")[::2] for one in self.sites)
        return {name.strip(): fingerprint.strip() for name, fingerprint in pairs}

    @property
    def manifest(self) -> Path:
        """The manifest. Raises UserError when none was ever given."""
        if not self.data:
            do = "join with --data MANIFEST.csv; a site that only asks others joins with --asks-only"
            raise UserError("the site has no data", "no manifest was named", do)
        return Path(self.data)

    @property
    def archive(self) -> Path | None:
        """The manifest of what is searched here; None of a site that only asks, and has none. Raises UserError."""
        return self.manifest if self.trains or self.data else None


def read(home: Path, config: Path | None = None) -> ClientSettings:
    """The settings in the file that `sources.source_of` finds, or else the defaults. Raises UserError."""
    file, _ = setting_sources.source_of(home, FILE, config)
    return parse(ClientSettings, read_yaml(file, "settings"), f"settings {file}") if file else ClientSettings()


class Given(NamedTuple):
    """Settings, and where each of them came from, by key."""

    settings: ClientSettings
    known: dict[str, str]


def given(home: Path, config: Path | None, *, is_workbench_enabled: bool | None = None, **flags: Any) -> Given:
    """What `read` finds, with the flags of `join` laid over it. Raises UserError."""
    settings = read(home, config)
    known = setting_sources.sources(settings, setting_sources.source_of(home, FILE, config))
    flags = {key: value for key, value in flags.items() if value is not None}
    by_flag = {key: f"--{key}" for key in flags}
    if not flags.get("trains", True):
        by_flag["trains"] = "--asks-only"
    settings = parse(ClientSettings, {**asdict(settings), **flags}, "the flags of join")
    if is_workbench_enabled is not None:
        settings = replace(settings, workbench=replace(settings.workbench, enabled=is_workbench_enabled))
        by_flag["workbench.enabled"] = "--workbench" if is_workbench_enabled else "--no-workbench"
    return Given(settings, {**known, **by_flag})


def remember(home: Path, found: Given) -> None:
    """Keep settings for the next `join`; to be called once they were found to be fit."""
    write_private(home / FILE, setting_sources.remembered(found.settings, found.known))


def load(home: Path, config: Path | None, **flags: Any) -> ClientSettings:
    """As `given`, and remembered. Raises UserError."""
    found = given(home, config, **flags)
    remember(home, found)
    return found.settings
