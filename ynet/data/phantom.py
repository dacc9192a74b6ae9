"""Head phantoms: axial slices that look like T1 MRI with contrast, with three kinds of tumour, and no patient."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator
from scipy import ndimage

from ynet.data.synthetic import Appearance, Patient, Scanner, field

CLASSES = ("glioma", "meningioma", "metastasis")

CSF, GREY, WHITE, FAT, BONE, MARROW, DURA = 0.12, 0.36, 0.55, 0.74, 0.05, 0.24, 0.34
"""Grey values of the tissues in T1: cerebrospinal fluid, grey and white matter, and the head's layers."""
LAYERS = ((0.005, 0.34), (0.021, FAT), (0.030, BONE), (0.040, MARROW), (0.050, BONE), (0.055, DURA))
"""From the skin inwards: how deep each layer ends, as a share of the image's side, and its grey value."""
BRAIN_DEPTH = 0.063
CORTEX = 0.017  # thickness of grey matter, as a share of the side
DEEP = (  # half axes and centres of one side's deep grey matter (rows, columns), and its turn in radians
    ((0.050, 0.020), (-0.070, 0.072), 0.35),  # caudate
    ((0.062, 0.022), (0.000, 0.125), -0.30),  # putamen
    ((0.048, 0.030), (0.062, 0.046), 0.25),  # thalamus
)
VENTRICLE = (((0.055, 0.013), (-0.085, 0.034), 0.50), ((0.052, 0.011), (0.122, 0.060), -0.42))
"""Front and back horns of one lateral ventricle, as DEEP."""

Plane = Float[np.ndarray, "size size"]
Region = Bool[np.ndarray, "size size"]


class _Grid(NamedTuple):
    """Coordinates of the pixels, in sides from the centre; rows go from front to back."""

    y: Plane
    x: Plane

    @property
    def size(self) -> int:
        return len(self.y)


class _Lesion(NamedTuple):
    """A tumour: where it is, what it looks like, and what swells around it."""

    region: Region
    grey: Plane
    oedema: Plane  # 0 to 1


def draw(patient: Patient, size: int, scanner: Scanner, random: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a slice of a patient: an 8-bit image and its mask of 0 and 255, each of shape (size, size)."""
    grid = _Grid(*((np.mgrid[:size, :size] + 0.5) / size - 0.5))
    head = _head(patient, grid, random)
    depth = ndimage.distance_transform_edt(head) / size
    brain = depth > BRAIN_DEPTH
    centre, radius = _location(patient.label, depth, grid, random)
    tissue, white = _brain(_pushed(grid, centre, radius), brain, random)
    image = np.where(brain, tissue, _layers(head, depth, random))
    lesion = _lesion(patient.label, grid, depth, centre, radius, random)
    image = image * (1 - lesion.oedema * white) + 0.30 * lesion.oedema * white
    edge = ndimage.gaussian_filter(lesion.region.astype(np.float64), size / 360)
    image = image * (1 - edge) + lesion.grey * edge
    mask = (lesion.region & head).astype(np.uint8) * 255
    return _scanned(image, scanner, random), mask


def _head(patient: Patient, grid: _Grid, random: Generator) -> Region:
    """The pixels inside the skin: an oval, narrower in front, and no two alike."""
    height, width = 0.455 + 0.02 * (patient.body[0] - 0.43), 0.78 * patient.body[1]
    y, x = grid.y / height, grid.x / (width * (1 + 0.16 * (grid.y + 0.05)))
    angle = np.arctan2(y, x)
    waves = sum(random.uniform(-0.008, 0.008) * np.cos(wave * angle + random.uniform(0, 6.3)) for wave in (2, 3, 5))
    return np.asarray((np.abs(y) ** 2.15 + np.abs(x) ** 2.15) ** (1 / 2.15) < 0.985 + waves)


def _layers(head: Region, depth: Plane, random: Generator) -> Plane:
    """Skin, fat, bone with its marrow, and dura; air outside."""
    size = len(depth)
    uneven = depth + 0.004 * field(size, random, 2, 6)
    layers = np.full(depth.shape, CSF)
    for ends, grey in reversed(LAYERS):
        layers[uneven < ends] = grey
    layers *= 1 + 0.10 * field(size, random, 6, 40)
    return np.where(head, layers, 0.0)


def _brain(grid: _Grid, brain: Region, random: Generator) -> tuple[Plane, Plane]:
    """Grey values of the brain, and how much of each pixel is white matter."""
    size = grid.size
    depth = ndimage.distance_transform_edt(brain) / size
    fluid = _sulci(grid, depth, random) | _midline(grid, depth, random)
    ribbon = ndimage.distance_transform_edt(brain & ~fluid) / size
    thickness = CORTEX * (1 + 0.30 * field(size, random, 4, 14))
    white = _step((ribbon - thickness) * size / 0.9)
    spread = 1 + random.uniform(-0.08, 0.25)
    deep = _mirrored(grid, DEEP, 1.0, random)
    white *= 1 - 0.85 * _step(-deep * size / 1.2)
    tissue = GREY + (WHITE - GREY) * white
    tissue += 0.012 * field(size, random, 3, 12) + 0.012 * field(size, random, 20, 60)
    wet = np.maximum(ndimage.gaussian_filter(fluid.astype(np.float64), size / 300), 0)
    wet = np.maximum(np.clip(1.15 * wet, 0, 1), _step(-_mirrored(grid, VENTRICLE, spread, random) * size / 1.0))
    third = np.hypot(grid.x / 0.006, (grid.y - 0.045) / 0.045) - 1
    wet = np.maximum(wet, _step(-third * 0.006 * size / 0.8))
    tissue = tissue * (1 - wet) + CSF * wet
    vessels = fluid & (field(size, random, 30, 60) > 2.3)
    return tissue + 0.5 * ndimage.gaussian_filter(vessels.astype(np.float64), size / 300), white * (1 - wet)


def _sulci(grid: _Grid, depth: Plane, random: Generator) -> Region:
    """Furrows of the brain's surface: they run inwards, wind, branch and end at unequal depths."""
    size = grid.size
    warp = 0.016
    y, x = grid.y + warp * field(size, random, 5, 11), grid.x + warp * field(size, random, 5, 11)
    angle = np.arctan2(y / 0.42, x / 0.34) / (2 * np.pi) % 1.0
    around = _looped(96, 24, random, 15, 24)
    furrow = ndimage.map_coordinates(
        around, [angle * around.shape[0], np.clip(66 * depth, 0, 22)], order=1, mode="grid-wrap"
    )
    reach = 0.068 + 0.026 * field(size, random, 3, 7)
    slope = ndimage.gaussian_gradient_magnitude(furrow, 1.0) + 1e-6
    half_width = (0.8 + 0.5 * field(size, random, 3, 9)) * size / 256  # pixels
    is_furrow = (np.abs(furrow) / slope < half_width) & (depth < reach)
    return np.asarray(is_furrow | (depth < 1.3 / 256))


def _looped(around: int, inwards: int, random: Generator, low: int, high: int) -> Float[np.ndarray, "around inwards"]:
    """Noise that closes after one turn, quick around the head (`low` to `high` waves) and slow inwards."""
    wave = np.abs(np.fft.fftfreq(around, 1 / around))[:, None]
    inward = np.abs(np.fft.fftfreq(inwards, 1 / inwards))[None, :]
    kept = np.exp(-((wave / high) ** 6)) * (1 - np.exp(-((wave / low) ** 6))) * np.exp(-((inward / 1.6) ** 2))
    noise = np.fft.ifft2(np.fft.fft2(random.standard_normal((around, inwards))) * kept).real
    return np.asarray(noise / noise.std())


def _midline(grid: _Grid, depth: Plane, random: Generator) -> Region:
    """The fissure between the halves, in front of and behind the corpus callosum."""
    bend = random.uniform(-0.004, 0.004) + 0.003 * np.sin(grid.y * 18 + random.uniform(0, 6.3))
    outside = (grid.y < -0.155) | (grid.y > 0.175)
    return np.asarray((np.abs(grid.x - bend) < 0.8 / 256) & outside & (depth >= 0))


def _mirrored(
    grid: _Grid,
    ovals: tuple[tuple[tuple[float, float], tuple[float, float], float], ...],
    spread: float,
    random: Generator,
) -> Plane:
    """The signed distance, in sides, from ovals that both halves have; below 0 inside."""
    nearest = np.full(grid.y.shape, np.inf)
    for half in (-1, 1):
        for (long, short), (down, aside), turn in ovals:
            scale = spread * random.uniform(0.93, 1.07)
            y, x = grid.y - down - random.normal(0, 0.002), half * grid.x - aside - random.normal(0, 0.002)
            turn += random.normal(0, 0.04)
            along, across = y * np.cos(turn) - x * np.sin(turn), y * np.sin(turn) + x * np.cos(turn)
            across = across + 4.0 * along**2  # bent, as a horn is
            oval = (np.hypot(along / (long * scale), across / (short * scale)) - 1) * short
            nearest = np.minimum(nearest, oval)
    return nearest


# --- tumours


def _location(label: str, depth: Plane, grid: _Grid, random: Generator) -> tuple[tuple[float, float], float]:
    """Where a tumour of a kind lies: a glioma deep, a meningioma at the dura, a metastasis beneath the cortex."""
    deepest, radius = {
        "glioma": ((0.14, 0.24), random.uniform(0.052, 0.110)),
        "meningioma": ((0.095, 0.115), random.uniform(0.070, 0.100)),
        "metastasis": ((0.12, 0.19), random.uniform(0.034, 0.078)),
    }[label]
    rows, columns = np.nonzero((depth > deepest[0]) & (depth < deepest[1]) & (np.abs(grid.x) > 0.06))
    chosen = int(random.integers(len(rows)))
    row, column = rows[chosen], columns[chosen]
    return (float(grid.y[row, column]), float(grid.x[row, column])), radius


def _pushed(grid: _Grid, centre: tuple[float, float], radius: float) -> _Grid:
    """The coordinates of what a growing tumour has pushed aside: the ventricles and the midline give way."""
    dy, dx = grid.y - centre[0], grid.x - centre[1]
    distance = np.hypot(dy, dx) + 1e-6
    push = 0.30 * radius * np.exp(-((distance / (2.4 * radius)) ** 2)) * np.clip(distance / radius, 0, 1)
    return _Grid(grid.y - push * dy / distance, grid.x - push * dx / distance)


def _lesion(
    label: str, grid: _Grid, depth: Plane, centre: tuple[float, float], radius: float, random: Generator
) -> _Lesion:
    inside = depth > BRAIN_DEPTH - 0.004
    if label == "meningioma":
        return _meningioma(grid, inside, depth, centre, radius, random)
    roughness = random.uniform(0.06, 0.22) if label == "glioma" else random.uniform(0.03, 0.10)
    relative = _relative(grid, centre, radius, roughness, random)
    region = (relative < 1) & inside
    rim, thick, core = (0.80, 0.20, 0.20) if label == "glioma" else (0.88, 0.24, 0.24)
    uneven = field(grid.size, random, 5, 16)
    wall = np.exp(-(((relative - 0.86) / (thick * (1 + 0.35 * uneven * (label == "glioma")))) ** 2))
    if label == "glioma":  # solid parts that bulge into the core
        wall = np.maximum(wall, _step((field(grid.size, random, 4, 10) - 1.1) * 4) * 0.8)
    elif radius < 0.046:  # too small to have lost its core
        wall = np.ones_like(wall) * 0.92
    grey = core + (rim - core) * np.clip(wall, 0, 1) + 0.035 * field(grid.size, random, 10, 40)
    return _Lesion(region, grey, _oedema(grid, relative, inside, random.uniform(1.5, 2.3), random))


def _meningioma(
    grid: _Grid, inside: Region, depth: Plane, centre: tuple[float, float], radius: float, random: Generator
) -> _Lesion:
    """A smooth, even tumour with its base on the dura, and the dura's bright tail beside it."""
    relative = _relative(grid, centre, radius, 0.05, random)
    grey = 0.76 + 0.025 * field(grid.size, random, 6, 20) + 0.02 * field(grid.size, random, 20, 50)
    tail = (np.abs(depth - BRAIN_DEPTH) < 0.005) & (relative < 1.9)
    cleft = (relative >= 1) & (relative < 1.07) & inside  # fluid between tumour and brain
    region = (relative < 1) & inside
    grey = np.where(cleft, 0.2, grey)
    oedema = 0.5 * _oedema(grid, relative, inside, 1.35, random)
    return _Lesion(region, np.where(tail & ~region, 0.7, grey), oedema)


def _relative(grid: _Grid, centre: tuple[float, float], radius: float, roughness: float, random: Generator) -> Plane:
    """The distance from a tumour's centre, 1 at its rough edge."""
    dy, dx = grid.y - centre[0], grid.x - centre[1]
    turn, ratio = random.uniform(0, np.pi), random.uniform(0.80, 1.0)
    along, across = dy * np.cos(turn) + dx * np.sin(turn), dx * np.cos(turn) - dy * np.sin(turn)
    distance = np.hypot(along * np.sqrt(ratio), across / np.sqrt(ratio)) / radius
    return np.asarray(distance * (1 + roughness * 0.6 * field(grid.size, random, 3, 9)))


def _oedema(grid: _Grid, relative: Plane, inside: Region, reach: float, random: Generator) -> Plane:
    """Swelling of the white matter around a tumour, which ends in fingers."""
    ends = reach * (1 + 0.16 * field(grid.size, random, 5, 12))
    return np.asarray(0.85 * _step((ends - relative) * 7) * inside)


def _step(value: Plane) -> Plane:
    return np.asarray(1 / (1 + np.exp(-np.clip(value, -40, 40))))


def _scanned(image: Plane, scanner: Scanner, random: Generator) -> np.ndarray:
    """What a scanner shows: its point spread, an uneven coil, Rician noise, its window; 8 bit."""
    size = len(image)
    image = ndimage.gaussian_filter(image, 0.55 * size / 256)
    coil = np.exp(0.13 * ndimage.gaussian_filter(field(size, random, 1, 2), size / 12))
    image = np.clip(image * coil, 0, None) ** scanner.gamma
    real, imaginary = (0.55 * scanner.noise * random.standard_normal(image.shape) for _ in range(2))
    image = scanner.gain * np.hypot(image + real, imaginary)
    return (np.clip(image, 0, 1) * 255).round().astype(np.uint8)


BRAIN = Appearance(CLASSES, draw)
