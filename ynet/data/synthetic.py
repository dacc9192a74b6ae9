"""Synthetic hospitals: a lesion's texture and outline determine its class; the background is a distractor."""

import csv
import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator
from PIL import Image

from ynet.data.split import TEST_SHARE

CLASSES = ("ring", "smooth", "spiculated")
BACKGROUNDS = ("cloudy", "fibrous", "granular")
COLUMNS = ("image", "mask", "label", "patient", "split", "age", "background")

Plane = Float[np.ndarray, "size size"]


class Scanner(NamedTuple):
    """The properties in which sites' images differ."""

    gain: float
    offset: float
    gamma: float
    noise: float


class Patient(NamedTuple):
    """The properties that all images of a patient share."""

    name: str
    label: str
    background: str
    age: int
    body: tuple[float, float, float]  # half axes as a share of the side, and how square it is


class Appearance(NamedTuple):
    """What the images show: the classes, and a function that draws one image and its mask."""

    classes: tuple[str, ...]
    draw: Callable[[Patient, int, Scanner, Generator], tuple[np.ndarray, np.ndarray]]


def make_federation(
    root: Path, sites: Mapping[str, int], seed: int, size: int = 96, appearance: Appearance | None = None
) -> None:
    """Write one folder per site under `root`, with `manifest.csv`, `images/` and `masks/`.

    `sites` gives the number of images of each site. A site depends only on `seed`, its name, that number and the
    `appearance`. Classes are balanced. Backgrounds are drawn per patient, independently of the class. With the default
    appearance, lesions of all classes have the same area and the same mean and spread of grey, so neither background
    nor histogram separates the classes.
    """
    for site, images in sites.items():
        digest = hashlib.sha256(f"{seed}\0{site}".encode()).digest()
        random = np.random.default_rng(list(digest))
        _make_site(root / site, site, images, size, random, seed, appearance or TEXTURES)


def _make_site(
    folder: Path, site: str, images: int, size: int, random: Generator, seed: int, appearance: Appearance
) -> None:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    scanner = Scanner(
        gain=random.uniform(0.6, 1.0),
        offset=random.uniform(0.0, 0.15),
        gamma=random.uniform(0.8, 1.25),
        noise=random.uniform(0.01, 0.04),
    )
    patients = _patients(site, images, appearance.classes, random)
    held_back = _held_back(patients, seed)
    with (folder / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for number, patient in enumerate(patients, start=1):
            name = f"{site}_{number:04d}.png"
            image, mask = appearance.draw(patient, size, scanner, random)
            Image.fromarray(image).save(folder / "images" / name)
            Image.fromarray(mask).save(folder / "masks" / name)
            split = "test" if patient.name in held_back else "train"
            paths = (f"images/{name}", f"masks/{name}")
            rows.writerow((*paths, patient.label, patient.name, split, patient.age, patient.background))


def _patients(site: str, images: int, classes: Sequence[str], random: Generator) -> list[Patient]:
    """Return the patient of each image, one to four images per patient, with classes as balanced as possible."""
    of_image: list[Patient] = []
    left = dict.fromkeys(classes, 0)
    number = 0
    while len(of_image) < images:
        number += 1
        label = min(classes, key=lambda name: left[name])
        patient = Patient(
            name=f"{site}-P{number:03d}",
            label=label,
            background=str(random.choice(BACKGROUNDS)),
            age=int(random.integers(35, 85)),
            body=(random.uniform(0.40, 0.47), random.uniform(0.43, 0.49), random.uniform(2.0, 3.0)),
        )
        count = min(int(random.integers(1, 5)), images - len(of_image))
        left[label] += count
        of_image += [patient] * count
    return of_image


def _held_back(patients: Sequence[Patient], seed: int) -> frozenset[str]:
    """Choose the test patients: a quarter of each class, by rank, with at least one left for training.

    A patient's split depends on the other patients here, which balances small classes. That is safe because synthetic
    hospitals write it into their `split` column; a manifest without that column is split by `is_held_back`.
    """
    of_class: defaultdict[str, list[str]] = defaultdict(list)
    for patient in dict.fromkeys(patients):
        of_class[patient.label].append(patient.name)
    held_back: set[str] = set()
    owed = 0.0  # rounding error, carried to the next class
    for label in sorted(of_class):
        names = sorted(of_class[label], key=lambda name: hashlib.sha256(f"{seed}\0{name}".encode()).digest())
        owed += TEST_SHARE * len(names)
        count = min(max(0, int(owed + 0.5)), len(names) - 1)
        held_back.update(names[:count])
        owed -= count
    return frozenset(held_back)


def _draw(patient: Patient, size: int, scanner: Scanner, random: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an 8-bit image and its mask of 0 and 255."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    half_height, half_width, power = patient.body
    depth = 1 - (np.abs(y / half_height) ** power + np.abs(x / half_width) ** power) ** (1 / power)
    tissue = 0.38 + 0.07 * _background(patient.background, size, random)
    tissue += 0.06 * field(size, random, 1, 3)  # uneven illumination, in every background
    radius = random.uniform(0.14, 0.19)
    reach, angle = random.uniform(0, 0.20), random.uniform(0, 2 * np.pi)
    dy, dx = y - reach * np.sin(angle), x - reach * np.cos(angle)
    mask, pattern = _lesion(patient.label, dy, dx, radius, size, random)
    pattern = (pattern - pattern[mask].mean()) / pattern[mask].std()
    lesion = tissue[mask].mean() + random.uniform(0.12, 0.22) + 0.08 * pattern
    edge = _blur(mask.astype(np.float64), 0.9)
    image = tissue * (1 - edge) + lesion * edge
    image *= 1 / (1 + np.exp(-depth * 60))  # air around the body
    image += 0.18 * np.exp(-((depth - 0.03) ** 2) / 0.0008)  # its skin
    image = scanner.gain * np.clip(image, 0, 1) ** scanner.gamma + scanner.offset
    image += scanner.noise * random.standard_normal((size, size))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), mask.astype(np.uint8) * 255


def _lesion(
    label: str, dy: Plane, dx: Plane, radius: float, size: int, random: Generator
) -> tuple[Bool[np.ndarray, "size size"], Plane]:
    """Draw a lesion's mask and its grey pattern; mean and spread of the pattern are normalised later."""
    distance, angle = np.hypot(dy, dx), np.arctan2(dy, dx)
    outline = 1 + sum(
        random.uniform(0.03, 0.09) * np.cos(wave * angle + random.uniform(0, 2 * np.pi)) for wave in (2, 3)
    )
    if label == "spiculated":
        spikes = np.cos(int(random.integers(9, 14)) * angle + random.uniform(0, 2 * np.pi))
        outline = outline * (1 + 0.34 * spikes * random.uniform(0.8, 1.0))
    outline = outline * (radius / np.sqrt(np.mean(outline**2)))  # the same area in every class
    relative = distance / outline
    if label == "ring":
        rim = np.exp(-((relative - 0.78) ** 2) / 0.02)
        pattern = rim + 0.15 * field(size, random, 3, 8)
    elif label == "smooth":
        pattern = field(size, random, 2, 6)
    else:
        pattern = field(size, random, 14, 30)
    return relative < 1, pattern


def _background(kind: str, size: int, random: Generator) -> Plane:
    if kind == "cloudy":
        return field(size, random, 3, 9)
    if kind == "granular":
        return field(size, random, 9, 16)
    return field(size, random, 4, 24, direction=random.uniform(0, np.pi))


def field(size: int, random: Generator, low: int, high: int, direction: float | None = None) -> Plane:
    """Draw noise of mean 0 and deviation 1 with `low` to `high` waves per side, along `direction` if given."""
    fy, fx = np.meshgrid(np.fft.fftfreq(size, 1 / size), np.fft.rfftfreq(size, 1 / size), indexing="ij")
    frequency = np.hypot(fy, fx)
    kept = np.exp(-((frequency / high) ** 4)) * (1 - np.exp(-((frequency / low) ** 4)))
    if direction is not None:
        turned = np.arctan2(fy, fx) - direction
        kept *= np.exp(-((np.sin(turned) / 0.18) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(random.standard_normal((size, size))) * kept, s=(size, size))
    noise -= noise.mean()
    return np.asarray(noise / noise.std())


def _blur(plane: Plane, pixels: float) -> Plane:
    size = plane.shape[0]
    fy, fx = np.meshgrid(np.fft.fftfreq(size), np.fft.rfftfreq(size), indexing="ij")
    kept = np.exp(-2 * (np.pi * pixels) ** 2 * (fy**2 + fx**2))
    return np.asarray(np.fft.irfft2(np.fft.rfft2(plane) * kept, s=plane.shape))


TEXTURES = Appearance(CLASSES, _draw)
