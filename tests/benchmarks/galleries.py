"""Galleries for benchmarks: real files, filled through the gallery's API, with codes as of a trained network."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ynet import plan as plans
from ynet import weights
from ynet.learning.model import arrays_of, build
from ynet.runtime.home import prepare
from ynet.runtime.private_files import secret_in
from ynet_client.gallery.case_rows import GalleryCase
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.stored_codes import CaseCode
from ynet_client.resources import SECRET

CLASSES = 10
FLIPPED = 0.02
PER_PATIENT = 10
LABELS = [f"class-{number}" for number in range(CLASSES)]
PIECE = 1 << 17
PLAN = plans.from_canonical(
    json.dumps(
        {
            "name": "benchmark",
            "classes": LABELS,
            "image": {"channels": 1, "size": 32},
            "training": {"rounds": 1, "learning_rate": 0.1},
            "cohort": {"min_sites": 1, "quorum": 1},
            "privacy": {"mode": "off"},
        }
    )
)


def trained_codes(random: np.random.Generator, n: int, flipped: float = FLIPPED) -> np.ndarray:
    """Draw 64-bit codes as of a trained network: one of ten classes' codes, some bits flipped. Rows of bytes."""
    centres = np.random.default_rng(7).integers(0, 2**64, CLASSES, dtype=np.uint64)  # the same at all sites
    codes = centres[random.integers(0, CLASSES, n)]
    for bit in range(64):
        codes ^= (random.random(n, np.float32) < flipped).astype(np.uint64) << np.uint64(bit)
    return codes.view(np.uint8).reshape(n, 8)


def random_codes(random: np.random.Generator, n: int) -> np.ndarray:
    return random.integers(0, 256, (n, 8), np.uint8)


CODES = {"trained": trained_codes, "random": random_codes}


def keep_model(home: Path) -> str:
    """Save a network of the plan in a site's home, and return its id."""
    arrays = arrays_of(build(PLAN))
    arrays = {name: np.zeros_like(array) for name, array in arrays.items()}
    model_id = weights.model_id(arrays, PLAN.id)
    folder = prepare(home / "models")
    weights.save(folder / f"{model_id}.safetensors", arrays, {"plan": PLAN.canonical()})
    return model_id


def cases(random: np.random.Generator, site: str, n: int) -> Iterator[GalleryCase]:
    """Make a typical manifest's rows: a path of 30 characters, a label, a patient of ten images, a split."""
    for first in range(0, n, PIECE):
        digests = random.bytes(32 * PIECE).hex()
        for number in range(first, min(first + PIECE, n)):
            at = 64 * (number - first)
            label, patient = LABELS[number % CLASSES], number // PER_PATIENT
            split = "test" if patient % 5 == 0 else "train"
            yield GalleryCase(
                f"images/{patient:010d}/{number:08d}.png", digests[at : at + 64], label, f"{site}-{patient}", split
            )


def fill(home: Path, n: int, kind: str, seed: int) -> Path:
    """Fill a site's gallery with `n` cases, all encoded and in use."""
    path, random = prepare(home) / "gallery.sqlite", np.random.default_rng(seed)
    model_id = keep_model(home)
    gallery = Gallery.open(path, secret_in(home / SECRET))
    gallery.sync_cases(cases(random, home.name, n))
    codes = CODES[kind](random, n).tobytes()
    ids = [case.id for case in gallery.missing(model_id)]
    for first in range(0, n, PIECE):
        numbered = zip(ids[first : first + PIECE], range(8 * first, 8 * n, 8), strict=False)
        gallery.add_codes(model_id, [CaseCode(case_id, codes[at : at + 8]) for case_id, at in numbered])
    gallery.activate(model_id)
    gallery.close()
    return path
