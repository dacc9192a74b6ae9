"""The sections of a plan; plan.py puts them together."""

from collections.abc import Mapping
from dataclasses import asdict, field, replace
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from ynet.config import STRICT
from ynet.encoders import EncoderName
from ynet.schedule import AUTO, AUTO_DEFAULTS, MOST_ROUNDS, counted
from ynet.strategy_options import Strategy

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


MOST_REGIONS = 8


def by_names(given: Any) -> Any:
    """Read the short form of `regions`: a list of names."""
    return {"names": given} if isinstance(given, list | tuple) else given


@dataclass(frozen=True, config=STRICT)
class Regions:
    """The regions of a mask. `regions: [disc, cup]` is short for `regions: {names: [disc, cup]}`.

    A plan without this section has one region, the lesion.
    """

    names: Annotated[tuple[Name, ...], Field(max_length=MOST_REGIONS)] = ()
    """Names of 2 to 8 regions; empty: one region without a name.

    A manifest names a mask for each region in columns such as `mask.disc`, or one mask with all regions: value 1 is the
    first region, value 2 the second ([several regions]).
    """
    nested: bool = False
    """Whether each region contains the regions after it.

    The pixels of a later region are then also those of the earlier ones, in masks of all forms.
    """

    @model_validator(mode="after")
    def _fits_together(self) -> "Regions":
        if len(self.names) == 1:
            raise ValueError("one region needs no name: leave 'regions' out")
        if len({name.casefold() for name in self.names}) != len(self.names):
            raise ValueError("a region is listed twice in 'regions'")
        if self.nested and not self.names:
            raise ValueError("'regions.nested' needs 'regions.names'")
        return self

    @property
    def count(self) -> int:
        """The number of regions, at least 1."""
        return max(1, len(self.names))


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
    code: Literal["moments", "trained"] | None = None
    """What the code is made from ([codes]).

    `moments`: from sums over all sites' features, without training; it tells the class and finds the case. `trained`:
    by the hash layer; it tells the class. null: `moments`, but `trained` with another recipe than `default` and in a
    private plan.
    """
    class_bits: Annotated[int, Field(ge=0, le=255)] | None = None
    """With `moments`: the bits that tell the class; the others find the case. null: 8, and 3 in 32 bits."""


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

    @property
    def only_flips(self) -> bool:
        """Whether nothing but `flip` changes an image."""
        return replace(self, flip=False) == NO_AUGMENTATION


LEAST_SECURE, MOST_SECURE = 3, 64
"""Sites in a secure sum. With two, each could subtract its own values and read the other's."""

NO_AUGMENTATION = Augmentation(False, 0, 0, 0, 0, 0, 0, 0)


HEADS_AUGMENTATION: Mapping[str, Any] = MappingProxyType({**asdict(NO_AUGMENTATION), "flip": True})
"""Defaults of `augmentation` with `training.trained: heads`, in place of the others."""


def with_heads_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Return a plan's values, with the defaults that hold where only the heads are trained."""
    training, given = values.get("training"), values.get("augmentation", {})
    is_heads = isinstance(training, dict) and training.get("trained") == "heads"
    return (
        {**values, "augmentation": {**HEADS_AUGMENTATION, **given}} if is_heads and isinstance(given, dict) else values
    )


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
    trained: Literal["all", "last-stages", "heads"] = "all"
    """Which weights a round trains and carries: all, all but the encoder's first two stages, or all but the encoder.

    With `heads` each key of `augmentation` that is left out is 0, except `flip`: then a site computes the encoder's
    output once for each image, and a round takes a fraction of the time. Any other augmentation is applied, and the
    output is computed each time. With a code from moments the only head is the segmentation branch: the class comes
    into the code by the moments, and `class_weights` has no effect. A private plan has `privacy.trained` instead.
    """
    without: Literal["none", "segmentation", "rmac", "circle"] = "none"
    """The part of recipe `paper` that is left out, as in the paper's ablations ([paper]).

    `segmentation`: no mask loss. `rmac`: the maximum and the mean of each channel instead of R-MAC. `circle`: the
    cross-entropy of a linear classifier on the code instead of the circle loss.
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

    `heads` trains the hash layer, the location head and the last layer of the mask. If `augmentation` has nothing but
    `flip`, a site then computes the encoder's output once for each image. `biases` trains the biases and the scales of
    the norms.
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
