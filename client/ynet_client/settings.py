"""A site's settings, kept in its home folder: where its data lie, and what training may use."""

from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from ynet.config import STRICT, parse, read_yaml
from ynet.errors import UserError
from ynet.plan_sections import Recipe
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
    """How much of the patients' privacy training may spend, over all runs."""

    max_epsilon: Annotated[float, Field(ge=0, le=100)] = 10.0
    """The largest total epsilon, at the delta of the plan that asks; plans that need more are refused."""
    data: Annotated[str, Field(min_length=1, max_length=64)] = "default"
    """The data set's name in the ledger; give the same patients the same name."""


@dataclass(frozen=True, config=STRICT)
class Policy:
    """The plans that the site takes part in.

    A plan that the policy allows still waits for the admin's decision, unless `policy.new_plans` is `accept`.
    """

    new_plans: Literal["ask", "accept"] = "ask"
    """`ask` waits for `ynet-client plan accept`; `accept` takes part in every plan that the policy allows."""
    recipes: tuple[Recipe, ...] = ()
    """The recipes that are allowed; empty allows all."""
    privacy: Literal["any", "required"] = "any"
    """`required` allows only plans with differential privacy; `privacy.max_epsilon` limits the epsilon."""
    aggregation: Literal["any", "secure"] = "any"
    """`secure` allows only plans with secure aggregation."""
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 1
    """The smallest `cohort.quorum` and `cohort.min_quorum` that a plan may have."""
    max_epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """The largest number of rounds times local epochs."""


@dataclass(frozen=True, config=STRICT)
class Disclosure:
    """What other sites may learn from this site's gallery. The site's own queries are not limited.

    `minimum_group` keeps a filter from singling out few patients, and prevents finding one left-out patient by
    subtraction. It does not prevent three attacks: subtracting two larger groups that differ by few patients (the asker
    must know enough to choose them, and the quotas slow it down), comparing the answers of two days between which a
    patient was added, and reading what a hit itself says. A hit is one case. Without a filter no number of hits is too
    small: otherwise a query could never find the rare case that it is asked for. `labels`, `distance_step` and `max_k`
    limit what a hit says.

    Distances to chosen codes determine a case's code, with about one code for each of its bits, whatever
    `distance_step` is; the quotas and `max_k` limit how many cases a day. The asking site reports its users itself, so
    `queries_per_day_and_site` is the quota that binds a site that lies.
    """

    answers: bool = True
    """`false` answers no other site."""
    allow: tuple[SiteName, ...] = ()
    """The sites that are answered; empty answers all that are not denied."""
    deny: tuple[SiteName, ...] = ()
    """Sites that are not answered."""
    minimum_group: Annotated[int, Field(ge=0, le=10_000)] = 5
    """The fewest patients that a filter must select, and must exclude if it excludes any; 0 suppresses nothing."""
    queries_per_day_and_site: Annotated[int, Field(ge=0, le=10_000_000)] = 10_000
    """Codes that one site may ask about in a UTC day; each code of a batch counts, a repeated one does not."""
    queries_per_day_and_user: Annotated[int, Field(ge=0, le=10_000_000)] = 1_000
    """Codes that one user of a site may ask about in a UTC day."""
    distance_step: Annotated[int, Field(ge=1, le=64)] = 1
    """Distances are rounded up to a multiple of this before ranking."""
    labels: bool = True
    """`false` sends hits without labels, refuses filters by label, and sends scores without counts by class.

    The site then takes part in plans with a code from moments only if they have `aggregation: secure` ([codes]).
    """
    attributes: tuple[ColumnName, ...] = ()
    """Columns of the manifest by which others may filter; `date` allows `since` and `until`."""
    max_k: Annotated[int, Field(ge=1, le=100)] = 100
    """The most hits for one code."""
    consults: bool = True
    """Whether the site accepts requests for a consult."""


@dataclass(frozen=True, config=STRICT)
class WorkbenchSettings:
    """The radiologists' [page], served while the site is joined."""

    enabled: bool = False
    """Whether the page is served; `join --workbench` sets it."""
    host: Annotated[str, AfterValidator(address.host)] = "127.0.0.1"
    """The address to listen on."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 8450
    """HTTPS; 0 takes a free port."""
    certificate: str = ""
    """PEM file of the intranet's certificate, with `workbench.key`; without one the client makes a certificate."""
    key: str = ""
    """PEM file of that certificate's key, not encrypted."""
    outer_name: OuterName = ""
    """HOST or HOST:PORT under which browsers reach a [reverse proxy]."""
    trusted_proxies: tuple[TrustedProxy, ...] = ()
    """Addresses or networks of reverse proxies whose `X-Forwarded-For` is believed.

    The header decides limits and log lines only, never access.
    """


@dataclass(frozen=True, config=STRICT)
class ClientSettings:
    """configs/client.yaml."""

    data: str = ""
    """The [manifest]; `join --data` takes precedence."""
    trains: bool = True
    """`false`: the site [only asks]; `join --asks-only` and `--trains` set it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes the best device that works; `join` tests the device with a small sum."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """CPU threads for training; 0 uses all cores."""
    cache_mb: Annotated[int, Field(ge=0, le=1 << 20)] = 2048
    """Memory for decoded images, and for what an encoder that is not trained makes of them, in MiB."""
    max_score_drop: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How much macro mAP@10 a new model may lose on the site's test cases; 1 accepts every model.

    The new model is compared with the model in use. A model that loses more is not used. Where nothing can be
    compared, the admin is asked ([the veto of a site]).
    """
    sites: tuple[KnownSite, ...] = ()
    """Other sites, each `NAME=FINGERPRINT`, that need no `ynet-client sites trust`.

    They are asked and answered under that key and no other ([who is asked]).
    """
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
    file, is_remembered = setting_sources.source_of(home, FILE, config)
    if file is None:
        return ClientSettings()
    values = read_yaml(file, "settings")
    disclosure = values.get("disclosure")
    if is_remembered and isinstance(disclosure, dict) and disclosure.get("detail") is False:
        del disclosure["detail"]  # ynet 0.1.0 wrote every key with its default into the home, also this one
    return parse(ClientSettings, values, f"settings {file}")


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
