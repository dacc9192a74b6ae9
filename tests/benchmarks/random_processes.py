"""Images of random processes, which show no patient, for pretraining.

A shape filled with one process's texture lies on another's. Private training is better when it begins with weights of
such images (Tang et al., "learning priors from random processes", NeurIPS 2023). No texture is one of the synthetic
hospitals' lesions or backgrounds, and the shapes are ellipses and polygons. But naming the texture of a shape upon
another is a similar task.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image

Plane = np.ndarray


def make_processes(folder: Path, images: int, size: int, seed: int = 1) -> None:
    """Make a site `one` under `folder` with equally many images of each process; each image is a patient."""
    random, site = np.random.default_rng(seed), folder / "one"
    for kind in ("images", "masks"):
        (site / kind).mkdir(parents=True)
    with (site / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "mask", "label", "patient", "split"))
        for number in range(images):
            label = list(PROCESSES)[number % len(PROCESSES)]
            paths = f"images/{number:05d}.png", f"masks/{number:05d}.png"
            for path, plane in zip(paths, draw(label, size, random), strict=True):
                Image.fromarray(plane).save(site / path)
            rows.writerow((*paths, label, f"P{number}", "test" if number % 10 == 0 else "train"))


def draw(label: str, size: int, random: Generator) -> tuple[Plane, Plane]:
    """Draw an 8-bit image, and its mask of 0 and 255."""
    inside = shape(size, random)
    ground = str(random.choice([name for name in PROCESSES if name != label]))
    image = random.uniform(0.3, 0.6) + random.uniform(0.02, 0.08) * texture(ground, size, random)
    filled = (
        image[inside].mean() + random.uniform(-0.25, 0.25) + random.uniform(0.05, 0.15) * texture(label, size, random)
    )
    image = np.where(inside, filled, image) + random.uniform(0.01, 0.04) * random.standard_normal((size, size))
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8), inside.astype(np.uint8) * 255


def shape(size: int, random: Generator) -> Plane:
    """Draw an ellipse, or a convex polygon."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size - 0.5
    y, x = y - random.uniform(-0.25, 0.25), x - random.uniform(-0.25, 0.25)
    if random.random() < 0.5:
        angle, (long, short) = random.uniform(0, np.pi), random.uniform(0.1, 0.25, 2)
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        return np.asarray((along / long) ** 2 + (across / short) ** 2 < 1)
    sides = int(random.integers(3, 7))
    turned = random.uniform(0, 2 * np.pi) + 2 * np.pi * (np.arange(sides) + random.uniform(-0.2, 0.2, sides)) / sides
    edges = x[..., None] * np.cos(turned) + y[..., None] * np.sin(turned)
    return np.asarray((edges < random.uniform(0.08, 0.18)).all(-1))


def texture(process: str, size: int, random: Generator) -> Plane:
    """Draw a whole image of a process, of mean 0 and deviation 1."""
    plane = PROCESSES[process](size, random)
    return (plane - plane.mean()) / (plane.std() + 1e-6)


def stripes(shortest: float, longest: float) -> Callable[[int, Generator], Plane]:
    """Make a sine wave; periods in pixels."""

    def made(size: int, random: Generator) -> Plane:
        y, x = np.mgrid[:size, :size]
        angle, period = random.uniform(0, np.pi), random.uniform(shortest, longest)
        return np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period + random.uniform(0, 2 * np.pi))

    return made


def checks(shortest: float, longest: float) -> Callable[[int, Generator], Plane]:
    """Make rotated squares of two greys; periods in pixels."""

    def made(size: int, random: Generator) -> Plane:
        y, x = np.mgrid[:size, :size]
        angle, period = random.uniform(0, np.pi), random.uniform(shortest, longest)
        one, other = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        return np.sign(np.sin(2 * np.pi * one / period) * np.sin(2 * np.pi * other / period))

    return made


def leaves(smallest: float, largest: float, count: int) -> Callable[[int, Generator], Plane]:
    """Make overlapping discs, each of one grey; radii in pixels."""

    def made(size: int, random: Generator) -> Plane:
        y, x = np.mgrid[:size, :size]
        plane = np.zeros((size, size))
        for _ in range(count):
            row, column = random.uniform(0, size, 2)
            plane[(y - row) ** 2 + (x - column) ** 2 < random.uniform(smallest, largest) ** 2] = random.uniform(-1, 1)
        return plane

    return made


def cells(count: int) -> Callable[[int, Generator], Plane]:
    """Make the Voronoi cells of random points, each of one grey."""

    def made(size: int, random: Generator) -> Plane:
        y, x = np.mgrid[:size, :size]
        points = random.uniform(0, size, (count, 2))
        nearest = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(-1)
        return random.uniform(-1, 1, count)[nearest]

    return made


def strokes(size: int, random: Generator) -> Plane:
    """Make thin lines across the image."""
    y, x = np.mgrid[:size, :size]
    plane = np.zeros((size, size))
    for _ in range(size // 3):
        angle, offset = random.uniform(0, np.pi), random.uniform(-0.7, 0.7) * size
        away = (x - size / 2) * np.cos(angle) + (y - size / 2) * np.sin(angle) - offset
        plane[np.abs(away) < 0.7] = random.choice([-1.0, 1.0])
    return plane


def ramp(size: int, random: Generator) -> Plane:
    """Make a linear slope."""
    y, x = np.mgrid[:size, :size]
    angle = random.uniform(0, 2 * np.pi)
    return x * np.cos(angle) + y * np.sin(angle)


PROCESSES: dict[str, Callable[[int, Generator], Plane]] = {
    "stripes-fine": stripes(2.5, 4),
    "stripes-middle": stripes(5, 8),
    "stripes-coarse": stripes(10, 16),
    "checks-fine": checks(3, 5),
    "checks-coarse": checks(8, 12),
    "leaves-small": leaves(1, 2, 600),
    "leaves-large": leaves(3, 7, 120),
    "cells-small": cells(250),
    "cells-large": cells(25),
    "strokes": strokes,
    "ramp": ramp,
}
