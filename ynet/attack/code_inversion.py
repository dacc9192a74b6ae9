"""Code inversion: how much of an image, and of its class, a decoder reads out of its code.

The decoder has learnt from other patients' codes and images. Beside the code stands the code with detail bits, which a
site may allow to tell equal codes apart: the signs of an ITQ rotation (Gong and Lazebnik, CVPR 2011) of the feature
minus its code's mean. Nothing in ynet sends them so far.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from ynet import metrics
from ynet.attack import kernel
from ynet.data.batch import CaseSource
from ynet.hashing import hamming, pack
from ynet.model import YNet

Floats = npt.NDArray[np.float64]
BATCH = 64
DETAIL_BITS = 32
ITQ_STEPS = 50


class Revealed(NamedTuple):
    """What a network makes of some images, and the images; one row for each."""

    image: Floats  # (n, pixels)
    label: npt.NDArray[np.int64]  # (n,)
    code: npt.NDArray[np.uint8]  # (n, bits / 8), packed
    feature: Floats  # (n, features): what the hash layer reads. It never leaves a site


class Inversion(NamedTuple):
    """What was read out of the other patients' codes."""

    pixel_r2: float  # share of the pixels' variance about the mean image that is explained
    accuracy: float  # of the label
    balanced_accuracy: float
    image: Floats  # (n, pixels), as decoded


class Detail(NamedTuple):
    """What makes detail bits of features."""

    codes: npt.NDArray[np.uint8]  # distinct ones, packed
    means: Floats  # of the features with each code
    projection: Floats  # (features, bits)


def reveal(net: YNet, cases: CaseSource, device: torch.device) -> Revealed:
    """Codes as queries carry them, and the features behind them."""
    images, codes, features = [], [], []
    seen: list[Tensor] = []
    hook = net.hash.register_forward_pre_hook(lambda _, given: seen.append(given[0].double().cpu()))
    try:
        for positions in torch.split(torch.arange(len(cases)), BATCH):
            batch = cases.batch(positions)
            seen.clear()
            codes.append(pack(net.read(batch.image.to(device)).code.float()))
            features.append(torch.stack(seen).mean(0).numpy())  # of the image and its mirror image, where both are read
            images.append(batch.image.flatten(1).double().numpy())
    finally:
        hook.remove()
    label = cases.label.numpy()
    return Revealed(np.concatenate(images), label, np.concatenate(codes), np.concatenate(features))


def invert_codes(
    public: Revealed, secret: Revealed, patient: Int64[np.ndarray, " public"], random: np.random.Generator
) -> dict[str, Inversion]:
    """Decoders fitted on `public` and scored on `secret`, by what they are given.

    `label`: the class alone, a floor: what is known of an image whose class is known. `feature`: what no site sends, a
    ceiling. `patient` keeps a patient's public images together where the decoder is chosen.
    """
    order = random.permutation(len(public.label))
    image, label, code, feature = public
    public, patient = Revealed(image[order], label[order], code[order], feature[order]), patient[order]
    detail, scale = fit_detail(public, random), public.feature.std(0) + 1e-6
    classes = int(max(public.label.max(), secret.label.max())) + 1

    def given(part: Revealed) -> dict[str, Floats]:
        code = np.unpackbits(part.code, axis=1).astype(np.float64)
        bits = np.unpackbits(detail_bits(detail, part), axis=1).astype(np.float64)
        return {
            "label": np.eye(classes)[part.label],
            "code": code,
            "code and detail bits": np.concatenate([code, bits], 1),
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
    """Images and labels, each by a decoder of its own."""
    images = kernel.predict(kernel.fit(inputs, public.image, patient), asked)
    named = kernel.predict(kernel.fit(inputs, np.eye(classes)[public.label], patient), asked)
    return images, named.argmax(1)


def _score(public: Revealed, secret: Revealed, decoded: tuple[Floats, npt.NDArray[np.int64]]) -> Inversion:
    images, named = decoded
    left = ((images - secret.image) ** 2).sum()
    whole = ((public.image.mean(0) - secret.image) ** 2).sum()
    accuracy = float((named == secret.label).mean())
    return Inversion(float(1 - left / whole), accuracy, metrics.balanced_accuracy(named, secret.label), images)


def fit_detail(public: Revealed, random: np.random.Generator) -> Detail:
    """The rotation that takes the public features' differences from their code's mean closest to signs."""
    codes, bucket = np.unique(public.code, axis=0, return_inverse=True)
    bucket = bucket.reshape(-1)
    counts = np.bincount(bucket)
    means = np.stack([np.bincount(bucket, column) / counts for column in public.feature.T], 1)
    rest = public.feature - means[bucket]
    directions: Floats = np.linalg.svd(rest, full_matrices=False)[2][:DETAIL_BITS].T
    rotation = np.linalg.qr(random.standard_normal((directions.shape[1], directions.shape[1])))[0]
    projected = rest @ directions
    for _ in range(ITQ_STEPS):
        left, _, right = np.linalg.svd(np.sign(projected @ rotation).T @ projected)
        rotation = (left @ right).T
    return Detail(codes, means, directions @ rotation)


def detail_bits(detail: Detail, part: Revealed) -> UInt8[np.ndarray, "n bytes"]:
    """A feature's bits, packed. A code that the public part has not goes with the nearest one that it has."""
    nearest = hamming(part.code, detail.codes).argmin(1)
    is_set: Bool[np.ndarray, "n bits"] = (part.feature - detail.means[nearest]) @ detail.projection > 0
    packed: npt.NDArray[np.uint8] = np.packbits(is_set, axis=1)
    return packed
