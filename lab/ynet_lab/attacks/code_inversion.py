"""Code inversion: how much of an image and of its class a decoder recovers from the code.

The decoder is trained on other patients' codes and images.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64

from ynet.data.batch import CaseSource
from ynet.learning import metrics
from ynet.learning.hashing import pack
from ynet.learning.model import YNet
from ynet_lab.attacks import kernel

Floats = npt.NDArray[np.float64]
BATCH = 64


class Revealed(NamedTuple):
    """A network's outputs on some images, and the images; one row per image."""

    image: Floats  # (n, pixels)
    label: npt.NDArray[np.int64]  # (n,)
    code: npt.NDArray[np.uint8]  # (n, bits / 8), packed
    feature: Floats  # (n, features): what the code is made from; it never leaves a site


class Inversion(NamedTuple):
    """The decoder's scores on the secret images."""

    pixel_r2: float  # share of the pixels' variance about the mean image that is explained
    accuracy: float  # of the label
    balanced_accuracy: float | None  # None where there is no patient
    image: Floats  # (n, pixels), as decoded


def reveal(net: YNet, cases: CaseSource, device: torch.device) -> Revealed:
    """Compute the codes that queries carry, and the features behind them."""
    parts = []
    for positions in torch.split(torch.arange(len(cases)), BATCH):
        batch = cases.batch(positions)
        seen = net.read(batch.image.to(device))
        image, feature = (values.flatten(1).double().cpu().numpy() for values in (batch.image, seen.feature))
        parts.append((image, pack(seen.code.float()), feature))
    images, codes, features = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Revealed(images, cases.label.numpy(), codes, features)


def invert_codes(
    public: Revealed, secret: Revealed, patient: Int64[np.ndarray, " public"], random: np.random.Generator
) -> dict[str, Inversion]:
    """Fit decoders on `public` and score them on `secret`, by their input.

    The input `label` is a floor: only the class is known. `feature` is a ceiling: no site sends it. `patient` keeps a
    patient's public images together in the cross-validation that chooses the decoder.
    """
    order = random.permutation(len(public.label))
    public, patient = Revealed._make(part[order] for part in public), patient[order]
    scale = public.feature.std(0) + 1e-6
    classes = int(max(public.label.max(), secret.label.max())) + 1

    def given(part: Revealed) -> dict[str, Floats]:
        return {
            "label": np.eye(classes)[part.label],
            "code": np.unpackbits(part.code, axis=1).astype(np.float64),
            "feature": part.feature / scale,
        }

    from_public, from_secret = given(public), given(secret)
    return {
        what: _score(public, secret, _decoded(public, from_public[what], from_secret[what], patient, classes))
        for what in from_public
    }


def _decoded(
    public: Revealed, inputs: Floats, asked: Floats, patient: npt.NDArray[np.int64], classes: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Decode images and labels, each with its own decoder."""
    images = kernel.predict(kernel.fit(inputs, public.image, patient), asked)
    named = kernel.predict(kernel.fit(inputs, np.eye(classes)[public.label], patient), asked)
    return images, named.argmax(1)


def _score(public: Revealed, secret: Revealed, decoded: tuple[Floats, npt.NDArray[np.int64]]) -> Inversion:
    images, named = decoded
    left = ((images - secret.image) ** 2).sum()
    whole = ((public.image.mean(0) - secret.image) ** 2).sum()
    accuracy = float((named == secret.label).mean())
    return Inversion(float(1 - left / whole), accuracy, metrics.balanced_accuracy(named, secret.label), images)
