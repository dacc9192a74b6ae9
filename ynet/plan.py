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
from ynet.encoders import OWN, EncoderName, encoder_fault
from ynet.errors import UserError
from ynet.schedule import AUTO, AUTO_DEFAULTS, MOST_ROUNDS, counted
from ynet.strategy_options import ROBUST, SUMMABLE, Strategy, fault

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Positive = Annotated[int, Field(gt=0, le=1_000_000)]
Depth = Annotated[int, Field(gt=0, le=64)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Recipe = Literal["default", "paper", "circle", "csq", "dpsh", "plain"]
"""By which loss the code is trained: ynet/learning/losses.py."""


@dataclass(frozen=True, config=STRICT)
class Image:
    """How an image is prepared for the network."""

    channels: Literal[1, 3]
    """1 for grey, 3 for colour."""
    size: Annotated[int, Field(ge=32, le=1024, multiple_of=32)]
    """Pixels of each side."""
    trim: bool = True
    """Whether an empty margin is cut away first, so that the content fills the image."""


@dataclass(frozen=True, config=STRICT)
class Network:
    """The encoder and the size of the Y-Net."""

    width: Annotated[int, Field(ge=4, le=256, multiple_of=4)] = 16
    """Channels of the stem of `ynet`."""
    depth: tuple[Depth, Depth, Depth, Depth] = (2, 2, 2, 2)
    """Blocks of the four stages of `ynet`."""
    block: Literal["basic", "bottleneck"] = "basic"
    """`bottleneck` is the paper's block."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Dropout, in training, of the features from which the code is computed."""
    code_bits: Literal[32, 64, 128, 256] = 64
    """Length of the hash code."""
    codebook_seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Seed of the target codes, the same at every site."""
    encoder: EncoderName = "ynet"
    """`ynet`: the small encoder of `width`, `depth` and `block`; else an encoder of timm ([encoders])."""
    encoder_weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of pretrained weights, as `ynet-server encoder add` prints it; null: random weights."""


@dataclass(frozen=True, config=STRICT)
class Augmentation:
    """Random changes of each training image, drawn again in every epoch."""

    flip: bool = True
    """Mirror left and right; set `false` where the side is part of the class."""
    rotate_deg: Annotated[float, Field(ge=0, le=180)] = 15.0
    """Largest rotation in degrees, in both directions."""
    scale: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest change of scale, as a share."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """Largest shift, as a share of the side."""
    contrast: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Largest change of contrast, as a share."""
    brightness: Annotated[float, Field(ge=0, le=2)] = 0.2
    """Largest change of brightness, in standard deviations of the image."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Standard deviation of added noise, in standard deviations of the image."""
    transplant: Share = 0.0
    """Share of the lesions that are copied into an image of the same site without a lesion."""


LEAST_SECURE, MOST_SECURE = 3, 64
"""Sites in a secure sum. With two, each could subtract its own values and read the other's."""

NO_AUGMENTATION = Augmentation(False, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, config=STRICT)
class Init:
    """Weights to begin with. The plan's YAML has their path; the plan itself has the file's name and digest."""

    file: Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f]+$")]  # without its folder
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # of the file


@dataclass(frozen=True, config=STRICT)
class Training:
    """Rounds, optimiser and aggregation."""

    rounds: Annotated[Annotated[int, Field(gt=0, le=10_000)] | Literal["auto"], BeforeValidator(counted)]
    """Rounds of the run; `auto` ends it when the sites' scores no longer rise ([long runs])."""
    learning_rate: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)]
    """AdamW's learning rate."""
    local_epochs: Annotated[int, Field(gt=0, le=100)] = 1
    """Epochs that a site trains in one round."""
    batch_size: Annotated[int, Field(gt=0, le=4096)] = 32
    """Images in a batch."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.05
    """AdamW's weight decay."""
    max_rounds: Annotated[int, Field(gt=0, le=10_000)] = MOST_ROUNDS
    """Most rounds with `rounds: auto`, cool-down included."""
    schedule: Literal["constant", "cosine", "trapezoid"] = "cosine"
    """The learning rate over the rounds; all but `constant` begin with a warm-up.

    `trapezoid` stays constant until the cool-down, in which it falls; it is the default with `rounds: auto`.
    """
    cooldown: Share = 0.0
    """Share of the rounds, at the end, without dropout and with mirroring as the only augmentation.

    The codes of the gallery become purer in these rounds: a code is shared by fewer classes. With `rounds: auto` it is
    a share of the rounds before the cool-down, which has at least 5 rounds, and the default is 0.2.
    """
    strategy: Strategy = "fedavg"
    """Flower's strategy that combines the updates ([which, and how many sites each needs])."""
    strategy_options: dict[str, float] = field(default_factory=dict)
    """Options of the strategy, listed [below](#options-of-the-strategies)."""
    update_norm_limit: Annotated[float, Field(ge=0, le=1000)] = 10.0
    """Largest distance of an update from the weights that were sent; 0 accepts any distance.

    The distance is measured in medians of the round's updates. Values between 0 and 2 are refused, since they would
    drop honest sites. The limit does not apply to secure sums, because nobody sees a single update.
    """
    segmentation_weight: Annotated[float, Field(ge=0, le=100)] = 4.0
    """Weight of the mask's loss relative to the code's loss; recipe `paper` does not use it."""
    class_weights: tuple[Annotated[float, Field(gt=0, le=1000)], ...] = ()
    """One weight for each class; empty means 1 for each."""
    moving_average: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights over the rounds.

    Above 0, the average is evaluated and published in place of the last round's weights.
    """
    update_encoding: Literal["float32", "float16", "int8"] = "float32"
    """How a site's update is encoded for the network; needs `aggregation: plain`.

    `float32` sends the weights. `float16` and `int8` send the difference to the weights that the site received
    ([slow lines]).
    """
    evaluate_every: Positive = 5
    """Rounds between two evaluations; the last round is always evaluated."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1
    """Seed of the initial weights, the order of the cases and the split."""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: Any) -> Any:
        return {**AUTO_DEFAULTS, **values} if isinstance(values, dict) and values.get("rounds") == AUTO else values

    @property
    def most_rounds(self) -> int:
        """The most rounds that the run can have: all of them, where their number is known."""
        return self.max_rounds if isinstance(self.rounds, str) else self.rounds


@dataclass(frozen=True, config=STRICT)
class Cohort:
    """How many sites must take part, and how long a round waits for them."""

    min_sites: Annotated[int, Field(ge=1, le=10_000)]
    """Sites needed to start the run."""
    quorum: Annotated[int, Field(ge=1, le=10_000)]
    """Updates needed to close a round, at most `cohort.min_sites`; with fewer, the round is repeated."""
    round_deadline_s: Annotated[float, Field(gt=0, le=7 * 86_400)] = 1800.0
    """Seconds that a round waits for its sites."""
    late_updates: Literal["drop", "use"] = "drop"
    """Whether an update that misses its round's deadline is used in the next round, with a lower weight.

    `use` needs `aggregation: plain` and a strategy that is not one of those against hostile sites ([late updates]).
    """
    min_quorum: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Lowest quorum that the coordinator may set in a running run; null: the quorum itself.

    The coordinator lowers the quorum with `ynet-server quorum` when a site is gone for good. A site compares this
    value with its `policy.min_sites`. With `aggregation: secure` it must be at least 3.
    """

    @property
    def floor(self) -> int:
        """The fewest updates of a round that the plan allows; sites accept this number."""
        return self.quorum if self.min_quorum is None else self.min_quorum


def _yaml_off(value: object) -> object:
    return "off" if value is False else value  # an unquoted `off` is a boolean in YAML 1.1


@dataclass(frozen=True, config=STRICT)
class Privacy:
    """Differential privacy of the weights. Each site's patients have (epsilon, delta) over the whole run.

    Neither the noise nor a seed of it can be set.
    """

    mode: Annotated[Literal["off", "patient"], BeforeValidator(_yaml_off)]
    """`patient` trains with differential privacy, with all images of a patient as one unit."""
    epsilon: Annotated[float, Field(gt=0, le=100)] | None = None
    """Privacy budget of each site's patients over the whole run."""
    delta: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """Delta over the whole run; a site refuses a delta above 1 / its patients."""
    max_grad_norm: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """Norm to which one patient's gradient is clipped."""
    views: Annotated[int, Field(gt=0, le=64)] = 1
    """Images of a patient in a step, each drawn and augmented independently."""
    trained: Literal["all", "heads", "biases"] = "all"
    """Which weights are trained; the others keep their initial values.

    `heads` trains the hash layer, the location head and the last layer of the mask. `biases` trains the biases and the
    scales of the norms.
    """
    scores: Literal["once", "none"] = "once"
    """Whether a site sends scores of a private plan's evaluations; they are [not private].

    With `once` a site scores one set of weights for each round that is evaluated. With `none` no score leaves the site.
    """

    @property
    def bound(self) -> tuple[float, float]:
        """Epsilon and delta. Raises ValueError when the plan is not private."""
        if self.epsilon is None or self.delta is None:
            raise ValueError("the plan is not private")
        return self.epsilon, self.delta


SEPARABLE = frozenset({"default", "csq", "plain"})
"""Recipes whose loss is a sum over samples. Only these can be private, or be cut into micro-batches: clipping each
patient's gradient bounds nothing where one patient's removal changes the gradients of others."""

BATCH_COUPLED = {
    "paper": "its circle loss compares the samples of a batch",
    "circle": "it compares the samples of a batch",
    "dpsh": "it compares the samples of a batch",
}
"""Why a recipe is not SEPARABLE, by its name."""


def coupling(recipe: Recipe) -> str | None:
    """Say why a sample's loss depends on the other samples of its batch; None where it does not."""
    return None if recipe in SEPARABLE else BATCH_COUPLED.get(recipe, "its loss was not shown to be a sum over samples")


LATER = (
    ("training", "update_encoding", "float32"),
    ("training", "update_norm_limit", 10.0),
    ("training", "max_rounds", MOST_ROUNDS),
    ("cohort", "late_updates", "drop"),
    ("cohort", "min_quorum", None),
    ("privacy", "scores", "once"),
    ("network", "encoder", "ynet"),
    ("network", "encoder_weights", None),
)
"""Keys that plans got later, with the value that a plan without them has. The id omits such a value, so that an older
plan keeps the id under which sites have accepted it and spent privacy."""


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
        own, given = Network(), self.network
        is_own_size = (given.width, given.depth, given.block) != (own.width, own.depth, own.block)
        if wrong := encoder_fault(given.encoder, given.encoder_weights, is_own_size=is_own_size):
            raise ValueError(wrong)
        if wrong := network_size.fault(self) or schedule.fault(self.training, self.privacy.mode):
            raise ValueError(wrong)
        self._can_be_secure()
        self._can_be_private()
        return self

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
        if why := coupling(self.recipe):
            raise ValueError(f"recipe {self.recipe!r} cannot be private: {why}")
        if self.training.strategy == "fedprox":
            raise ValueError("strategy 'fedprox' cannot be private: its pull is no part of a patient's gradient")
        if self.network.encoder != OWN and self.privacy.trained != "heads":
            raise ValueError("a private plan trains no encoder of timm: 'privacy.trained: heads'")
        if self.augmentation.transplant:
            raise ValueError("'augmentation.transplant' cannot be private: it mixes the images of a batch")

    def canonical(self) -> str:
        """The plan as JSON with sorted keys and all defaults except those of LATER; the plan's id is its digest."""
        values = asdict(self)
        for part, key, absent in LATER:
            if values[part][key] == absent:
                del values[part][key]
        return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True)

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
    return parse(Plan, values, "plan")
