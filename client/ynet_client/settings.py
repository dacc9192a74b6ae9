"""A site's settings, kept in its home folder: where its data lie, and what training may use."""

from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from ynet.config import STRICT, parse, read_yaml
from ynet.errors import UserError
from ynet.home import write_private

FILE = "client.yaml"


@dataclass(frozen=True, config=STRICT)
class PrivacySettings:
    """What training may spend of the patients' privacy, over all runs."""

    max_epsilon: Annotated[float, Field(ge=0, le=100)] = 10.0  # at the delta of the plan that asks
    data: Annotated[str, Field(min_length=1, max_length=64)] = "default"  # the same patients, the same name


@dataclass(frozen=True, config=STRICT)
class Policy:
    """Which plans the site takes part in. Each that is allowed waits for a yes as well, unless `new_plans` is one."""

    new_plans: Literal["ask", "accept"] = "ask"
    recipes: tuple[Literal["default", "paper", "circle", "csq", "dpsh", "plain"], ...] = ()  # empty: any
    privacy: Literal["any", "required"] = "any"  # required: private plans only; how private: privacy.max_epsilon
    aggregation: Literal["any", "secure"] = "any"
    min_sites: Annotated[int, Field(ge=1, le=10_000)] = 1  # in each round
    max_epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000  # rounds x local epochs


@dataclass(frozen=True, config=STRICT)
class ClientSettings:
    """configs/client.yaml."""

    data: str = ""  # the manifest; set by `join --data`
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    threads: Annotated[int, Field(ge=0, le=1024)] = 0  # for training on the CPU; 0: all cores
    cache_mb: Annotated[int, Field(ge=0, le=1 << 20)] = 2048  # decoded images kept in memory
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    policy: Policy = field(default_factory=Policy)

    @property
    def manifest(self) -> Path:
        """The manifest. Raises UserError when none was ever given."""
        if not self.data:
            raise UserError("the site has no data", "no manifest was named", "join with --data MANIFEST.csv")
        return Path(self.data)


def read(home: Path, config: Path | None = None) -> ClientSettings:
    """The settings in `config`, or those remembered in `home`. Raises UserError."""
    source = config or home / FILE
    if not config and not source.exists():
        return ClientSettings()
    return parse(ClientSettings, read_yaml(source, "settings"), f"settings {source}")


def load(home: Path, config: Path | None, **given: Any) -> ClientSettings:
    """The settings in `config`, or those remembered in `home`, with the flags given laid over them; remembered."""
    settings = read(home, config)
    settings = replace(settings, **{key: value for key, value in given.items() if value is not None})
    write_private(home / FILE, yaml.safe_dump(asdict(settings)).encode())
    return settings
