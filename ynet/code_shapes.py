"""The sizes of a code from moments, told without numpy; code_map.py computes it."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """The sizes of a feature. Its last `case` values are those from which the case bits are made."""

    features: int
    case: int
    classes: int


def shapes(sizes: Sizes, bits: int, class_bits: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array of a map, by its name."""
    features, case, classes = sizes
    directions = classes - 1
    return {
        "mean": (features,),
        "to_classes": (features, directions),
        "class_means": (classes, directions),
        "known": (classes,),
        "class_rotation": (classes, class_bits),
        "to_case": (case, bits - class_bits),
        "class_codes": (classes, bits),
    }


def moments_size(sizes: Sizes) -> int:
    """Return the number of values of `flatten`."""
    return sizes.classes * (1 + sizes.features) + upper_values(sizes.features) + 1 + upper_values(sizes.case)


def upper_values(side: int) -> int:
    """Return the number of values on and above the diagonal of a square matrix."""
    return side * (side + 1) // 2
