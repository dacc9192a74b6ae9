"""Named float32 arrays of a network: their layout, their flat form, their safetensors file, their digest."""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ynet.errors import UserError
from ynet.runtime import private_files

Arrays = Mapping[str, npt.NDArray[np.float32]]
Flat = npt.NDArray[np.float32]

BLOCK_VALUES = 1 << 20
"""Values per block of the flat form (4 MiB). Few large arrays: Flower's transport has a cost per array."""

FORMER = "detail."
"""The prefix of arrays that a network had before ynet 0.2.0: its detail code."""


class LayoutEntry(NamedTuple):
    """One array of a layout."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


Layout = tuple[LayoutEntry, ...]
"""The names and shapes of a network's arrays, in the order in which the flat form holds them."""


def layout_of(arrays: Arrays) -> Layout:
    """Return the layout of `arrays`, in their order."""
    return tuple(LayoutEntry(name, tuple(array.shape)) for name, array in arrays.items())


def layout_to_json(layout: Layout) -> str:
    """Serialise a layout for the wire."""
    return json.dumps([[entry.name, list(entry.shape)] for entry in layout], separators=(",", ":"))


def layout_from_json(text: str) -> Layout:
    """Parse the layout that `layout_to_json` wrote.

    Raises:
        UserError: The text is not a layout.
    """
    try:
        layout = tuple(LayoutEntry(str(name), tuple(int(side) for side in shape)) for name, shape in json.loads(text))
        names = {entry.name for entry in layout}
        if all(side >= 0 for entry in layout for side in entry.shape) and len(names) == len(layout):
            return layout
    except (ValueError, TypeError, OverflowError, RecursionError):
        pass
    raise UserError("the weights' layout cannot be read", "it is not a list of names and shapes", "update ynet")


def flatten(arrays: Arrays) -> Flat:
    """Concatenate all values, shape (total,)."""
    return np.concatenate([np.ravel(array).astype(np.float32, copy=False) for array in arrays.values()])


def unflatten(flat: Flat, layout: Layout) -> dict[str, npt.NDArray[np.float32]]:
    """Return the named arrays in `flat`, as views.

    Raises:
        UserError: The number of values is not the layout's.
    """
    expected = sum(entry.size for entry in layout)
    if flat.size != expected:
        raise UserError(
            "the weights do not fit the network",
            f"{flat.size} values came, {expected} are needed",
            "use the same plan and the same ynet version everywhere",
        )
    arrays, start = {}, 0
    for entry in layout:
        arrays[entry.name] = flat[start : start + entry.size].reshape(entry.shape)
        start += entry.size
    return arrays


def blocks(flat: Flat) -> list[Flat]:
    """Split `flat` into blocks of at most BLOCK_VALUES values, as views."""
    return [flat[start : start + BLOCK_VALUES] for start in range(0, max(flat.size, 1), BLOCK_VALUES)]


def join(parts: Sequence[Flat]) -> Flat:
    """Invert `blocks`. Returns a copy."""
    return np.concatenate(list(parts))


def put_back(flat: Flat, sent: Flat, layout: Layout, names: Collection[str]) -> Flat:
    """Return `flat` with the arrays of some names as they are in `sent`; `flat` itself where there are none."""
    if not names:
        return flat
    return replaced(flat, layout, {name: array for name, array in unflatten(sent, layout).items() if name in names})


def replaced(flat: Flat, layout: Layout, arrays: Arrays) -> Flat:
    """Return `flat` with some of its arrays replaced, by their names."""
    made, start = flat.copy(), 0
    for entry in layout:
        part = slice(start, start := start + entry.size)
        if entry.name in arrays:
            made[part] = arrays[entry.name].ravel()
    return made


def layout_without(layout: Layout, names: Collection[str]) -> Layout:
    """Return the layout of the arrays that are not in `names`."""
    return tuple(entry for entry in layout if entry.name not in names)


def without(flat: Flat, layout: Layout, names: Collection[str]) -> Flat:
    """Return the values of the arrays that are not in `names`; `flat` itself where all stay."""
    arrays = unflatten(flat, layout)
    left = {name: array for name, array in arrays.items() if name not in names}
    return flat if len(left) == len(arrays) else flatten(left) if left else flat[:0]


def completed(carried: Flat, flat: Flat, layout: Layout, names: Collection[str]) -> Flat:
    """Invert `without`: return `flat` with the arrays that are not in `names` replaced by those of `carried`.

    Raises:
        UserError: The number of values in `carried` is not that of these arrays.
    """
    own = layout_without(layout, names)
    if len(own) == len(layout):
        return carried
    return flatten({**unflatten(flat, layout), **unflatten(carried, own)})


def begun_with(own: Arrays, given: Arrays) -> dict[str, npt.NDArray[np.float32]]:
    """Return the network's weights `own` with some of them replaced by `given`; FORMER arrays are left out.

    Raises:
        UserError: A name is not the network's, its shape differs, or a value is not finite.
    """
    given = {name: array for name, array in given.items() if not name.startswith(FORMER)}
    do = "export the weights with the network's names and shapes, or leave 'init' out of the plan"
    if not given:
        raise UserError("the plan's init cannot be used", "the file holds no array", do)
    for name, array in given.items():
        if name not in own:
            near = difflib.get_close_matches(name, own, n=1)
            why = f"the network has no array {name[:80]!r}" + (f" (it has {near[0]!r})" if near else "")
            raise UserError("the plan's init does not fit the network", why, do)
        if array.shape != own[name].shape:
            why = f"{name!r} has the shape {array.shape}, the network {own[name].shape}"
            raise UserError("the plan's init does not fit the network", why, do)
        if not np.isfinite(array).all():
            raise UserError("the plan's init cannot be used", f"{name!r} holds a value that is not finite", do)
    return {**own, **given}


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 of names, shapes and little-endian values, independent of order; 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], dtype="<f4", order="C")
        sha.update(f"{name}\0{array.shape}\0".encode())
        sha.update(array.data)
    return sha.hexdigest()


def model_id(arrays: Arrays, plan_id: str) -> str:
    """Return a model's id, the SHA-256 of its weights and its plan. Each of its codes carries it."""
    return hashlib.sha256(f"{digest(arrays)}:{plan_id}".encode()).hexdigest()


def save(path: Path, arrays: Arrays, metadata: Mapping[str, str]) -> None:
    """Write `arrays` as safetensors, atomically.

    Raises:
        OSError: The disk is full or broken.
    """
    partial = path.with_name(path.name + ".partial")
    private_files.begin(partial)
    try:
        save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, partial, dict(metadata))
    except SafetensorError as error:  # its text contains the system's error
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(partial)) from None
        raise
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file. Raises UserError where it cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a dtype that numpy does not have
        raise UserError(f"the weights in {path.name} cannot be read", str(error), "fetch the file again") from None


def metadata_of(path: Path) -> dict[str, str]:
    """Read the metadata of a safetensors file, and none of its arrays.

    Raises:
        UserError: It is not a safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def load(path: Path) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, str]]:
    """Read the arrays and the metadata of a safetensors file.

    Raises:
        UserError: It is not a safetensors file, or not float32.
    """
    with _opened(path) as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        metadata = dict(file.metadata() or {})
    for name, array in arrays.items():
        if array.dtype != np.float32:
            raise UserError(f"the weights in {path.name} are not float32", f"{name!r} is {array.dtype}", "convert them")
    return arrays, metadata
