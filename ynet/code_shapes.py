"""The sizes of a code from moments, told without numpy; code_map.py computes it."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """The sizes of a feature, and the number of classes."""

    features: int
    classes: int


def shapes(sizes: Sizes, bits: int, class_bits: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of a map, by its name."""
    features, classes = sizes
    directions = classes - 1
    return {
        "mean": (features,),
        "to_classes": (features, directions),
        "class_means": (classes, directions),
        "known": (classes,),
        "class_rotation": (classes, class_bits),
        "to_case": (features, bits - class_bits),
        "class_codes": (classes, bits),
    }


def moments_size(sizes: Sizes) -> int:
    """Return the number of values of `flatten`."""
    return sizes.classes * (1 + sizes.features) + 2 + 2 * upper_values(sizes.features)


def upper_values(side: int) -> int:
    """Return the number of values on and above the diagonal of a square matrix."""
    return side * (side + 1) // 2
