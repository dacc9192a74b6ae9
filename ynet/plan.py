"""The plan: what all sites agree on before training. It is frozen, and its SHA-256 is its id."""

import hashlib
import json
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from ynet import network_size, schedule
from ynet.config import STRICT, parse, read_yaml
from ynet.encoders import encoder_fault
from ynet.errors import UserError
from ynet.plan_sections import (
    LEAST_SECURE,
    MOST_SECURE,
    Augmentation,
    Cohort,
    Image,
    Init,
    Name,
    Network,
    Privacy,
    Recipe,
    Regions,
    Training,
    by_names,
    coupling,
    with_heads_defaults,
)
from ynet.schedule import MOST_ROUNDS
from ynet.strategy_options import ROBUST, SUMMABLE, fault

LATER: tuple[tuple[str, str, Any], ...] = (
    ("", "regions", {"names": (), "nested": False}),
    ("training", "update_encoding", "float32"),
    ("training", "update_norm_limit", 10.0),
    ("training", "max_rounds", MOST_ROUNDS),
    ("cohort", "late_updates", "drop"),
    ("cohort", "min_quorum", None),
    ("privacy", "scores", "once"),
    ("network", "encoder", "ynet"),
    ("network", "encoder_weights", None),
    ("network", "code", "trained"),
    ("network", "class_bits", None),
    ("training", "trained", "all"),
    ("training", "without", "none"),
)
"""Keys that plans got later, with the value that a canonical plan without them has: section (empty: none), key, value.
The id omits such a value, so that an older plan keeps the id under which sites have accepted it and spent privacy."""


@dataclass(frozen=True, config=STRICT)
class Plan:
    """What all sites agree on before training. Its id is computed with every default filled in."""

    name: Name
    """At most 64 letters, digits, `_`, `.`, `-`."""
    classes: Annotated[tuple[Name, ...], Field(min_length=2, max_length=256)]
    """The labels' classes, fewer than the code has bits."""
    image: Image
    training: Training
    cohort: Cohort
    privacy: Privacy
    network: Network = field(default_factory=Network)
    regions: Annotated[Regions, BeforeValidator(by_names)] = field(default_factory=Regions)
    recipe: Recipe = "default"
    """The loss of the code; all but `default` and `paper` are there for comparison ([recipes])."""
    init: Init | None = None
    """Initial weights, by a path relative to the plan's folder.

    The file may hold all of the network's weights or some of them, by name. The plan carries the file's name and
    SHA-256.
    """
    augmentation: Augmentation = field(default_factory=Augmentation)
    aggregation: Literal["plain", "secure"] = "plain"
    """`secure`: the server learns the sum of the sites' weights, and no single site's ([secure aggregation]).

    It needs a `cohort.quorum` of 3 to 64.
    """

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        return with_heads_defaults(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _fits_together(self) -> "Plan":
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is listed twice in 'classes'")
        if len(self.classes) >= self.network.code_bits:
            raise ValueError("as many classes as code bits or more: raise 'network.code_bits'")
        if self.training.class_weights and len(self.training.class_weights) != len(self.classes):
            raise ValueError("'training.class_weights' needs one weight for each class")
        if self.cohort.quorum > self.cohort.min_sites:
            raise ValueError("'cohort.quorum' is above 'cohort.min_sites'")
        if self.cohort.floor > self.cohort.quorum:
            raise ValueError("'cohort.min_quorum' is above 'cohort.quorum'")
        if 0 < self.training.update_norm_limit < 2:
            raise ValueError("'training.update_norm_limit' would refuse honest sites: 0 (off), or 2 and more")
        if wrong := fault(self.training.strategy, self.training.strategy_options, self.cohort.floor):
            raise ValueError(wrong)
        if self.cohort.late_updates == "use" and self.training.strategy in ROBUST:
            raise ValueError(
                f"strategy {self.training.strategy!r} counts all updates of a round alike, and one that is late must"
                " count for less: 'cohort.late_updates: drop', or another strategy"
            )
        self._can_be_built()
        self._can_be_secure()
        self._can_be_private()
        return self

    def _can_be_built(self) -> None:
        own, given = Network(), self.network
        is_own_size = (given.width, given.depth, given.block) != (own.width, own.depth, own.block)
        if given.class_bits is not None and (self.code_form != "moments" or given.class_bits >= given.code_bits):
            raise ValueError("'network.class_bits' is for 'network.code: moments', and less than 'network.code_bits'")
        if self.training.without != "none" and self.recipe != "paper":
            raise ValueError("'training.without' is for 'recipe: paper'")
        wrong = encoder_fault(given.encoder, given.encoder_weights, is_own_size=is_own_size)
        if wrong := wrong or network_size.fault(self) or schedule.fault(self.training, self.privacy.mode):
            raise ValueError(wrong)

    def _can_be_secure(self) -> None:
        if self.aggregation == "plain":
            return
        if not LEAST_SECURE <= self.cohort.quorum <= MOST_SECURE:
            raise ValueError(f"'aggregation: secure' needs a 'cohort.quorum' of {LEAST_SECURE} to {MOST_SECURE} sites")
        if self.cohort.floor < LEAST_SECURE:
            raise ValueError(f"'aggregation: secure' needs a 'cohort.min_quorum' of {LEAST_SECURE} sites or more")
        if self.training.update_encoding != "float32":
            raise ValueError(
                "'training.update_encoding' is for 'aggregation: plain': what is masked cannot be made smaller"
            )
        if self.cohort.late_updates == "use":
            raise ValueError(
                "'cohort.late_updates: use' is for 'aggregation: plain': a masked update is in its own round's sum only"
            )
        if self.training.strategy not in SUMMABLE:
            raise ValueError(
                f"strategy {self.training.strategy!r} needs each site's update, and with 'aggregation: secure' the"
                " server sees none of them: choose one of the two"
            )

    def _can_be_private(self) -> None:
        if self.privacy.mode == "off":
            if self.privacy != Privacy("off"):
                raise ValueError("'privacy' says more than 'mode: off': take it out, or say 'mode: patient'")
            return
        if self.privacy.epsilon is None or self.privacy.delta is None:
            raise ValueError("'privacy' needs 'epsilon' and 'delta' in mode 'patient'")
        if self.network.code == "moments":
            raise ValueError("'network.code: moments' cannot be private: its sums have no noise; leave it out")
        if self.training.trained != "all":
            raise ValueError("'training.trained' is not for a private plan: say it with 'privacy.trained'")
        if why := coupling(self.recipe):
            raise ValueError(f"recipe {self.recipe!r} cannot be private: {why}")
        if self.training.strategy == "fedprox":
            raise ValueError("strategy 'fedprox' cannot be private: its pull is no part of a patient's gradient")
        if self.augmentation.transplant:
            raise ValueError("'augmentation.transplant' cannot be private: it mixes the images of a batch")

    def canonical(self) -> str:
        """The plan as JSON with sorted keys and all defaults except those of LATER; the plan's id is its digest."""
        values = asdict(self)
        for part, key, absent in LATER:
            section = values[part] if part else values
            if section[key] == absent:
                del section[key]
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @property
    def code_form(self) -> Literal["moments", "trained"]:
        """What the code is made from, with the default decided."""
        if self.network.code is not None:
            return self.network.code
        return "moments" if self.recipe == "default" and self.privacy.mode == "off" else "trained"

    @property
    def trains_code(self) -> bool:
        """Whether a loss of the class trains a part of the network.

        It does not where only the heads are trained and the code is made from moments: no part of the code's feature
        would change by it but the mask, which has a loss of its own.
        """
        return self.training.trained != "heads" or self.code_form != "moments"

    @property
    def is_encoder_frozen(self) -> bool:
        """Whether no round changes the encoder."""
        return "heads" in (self.training.trained, self.privacy.trained)

    @property
    def code_loss(self) -> Recipe:
        """The recipe whose loss trains the code: the plan's, unless the plan leaves that loss out."""
        return "plain" if self.training.without == "circle" else self.recipe

    @property
    def pooling(self) -> Literal["max-mean", "rmac"]:
        """How the classification branch pools its map."""
        return "rmac" if self.recipe == "paper" and self.training.without != "rmac" else "max-mean"

    @property
    def class_bits(self) -> int:
        """The bits of a code from moments that tell the class."""
        own = self.network.class_bits
        return 8 + 3 * self.network.code_bits // 32 if own is None else own

    @property
    def id(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def read(path: Path) -> Plan:
    """Read the plan in a YAML file. Raises UserError."""
    values = read_yaml(path, "plan")
    if isinstance(values.get("init"), str):
        values = {**values, "init": _named(path.parent / values["init"])}
    return parse(Plan, values, f"plan {path}")


def init_file(plan_path: Path) -> Path | None:
    """The path of the `init` weights that the plan in a YAML file names, if any. Raises UserError."""
    named = read_yaml(plan_path, "plan").get("init")
    return plan_path.parent / named if isinstance(named, str) else None


def _named(weights: Path) -> dict[str, str]:
    try:
        with weights.open("rb") as file:
            return {"file": weights.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    except OSError as error:
        do = "give a safetensors file by its path from the plan's folder"
        raise UserError(f"the plan's init {weights} cannot be read", error.strerror or "no file", do) from None


def from_canonical(text: str) -> Plan:
    """Read a plan that `canonical` wrote. Raises UserError."""
    try:
        values: Any = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError("the plan cannot be read", "it is not a JSON object", "ask the coordinator for the plan")
    for part, key, absent in LATER:
        section = values.setdefault(part, {}) if part else values
        if isinstance(section, dict):
            section.setdefault(key, absent)
    return parse(Plan, values, "plan")
