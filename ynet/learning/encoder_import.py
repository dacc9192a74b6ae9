"""The importer of pretrained encoders: `python -m ynet.learning.encoder_import NAME FILE OUT`.

It reads weights in timm's or torchvision's format, checks them, writes safetensors, and prints a line of JSON. Old
files are pickles; torch reads them with `weights_only=True`, in this process, which ends afterwards.
"""

import argparse
import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ynet import weights
from ynet.encoders import EncoderName
from ynet.errors import EXIT_YOURS, UserError
from ynet.learning.timm_encoder import TimmEncoder

WRAPPERS = ("state_dict", "model")
"""Keys under which training programs store the state in a file."""
COUNTER = "num_batches_tracked"
SAME = {"layer_scale": "gamma"}
"""torchvision's last part of an array's name, and timm's."""
MOST_HEAD = 8
"""Most arrays of a classification head, when arrays are matched by their order."""


def main() -> int:
    """Import a file. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    try:
        state, is_ordered = read(given.file)
        arrays = encoder_arrays(given.name, state, is_ordered=is_ordered)
        weights.save(given.out, arrays, {"encoder": given.name})  # one key: the file's digest depends on its order
    except UserError as error:
        print(json.dumps({"what": error.what, "why": error.why, "do": error.do}))  # noqa: T201
        return EXIT_YOURS
    print(json.dumps({"arrays": len(arrays), "values": sum(array.size for array in arrays.values())}))  # noqa: T201
    return 0


def read(path: Path) -> tuple[dict[str, Tensor], bool]:
    """Read the arrays of a `.safetensors` file or of torch's own format, and say whether their order is the network's.

    Raises:
        UserError: The file cannot be read, or holds something else.
    """
    what, do = f"the weights in {path.name} cannot be read", "give a .safetensors file, or a .pth of a state_dict"
    try:
        if path.suffix == ".safetensors":
            return load_file(path), False
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(what, str(error), do) from None
    except OSError as error:
        raise UserError(what, error.strerror or "reading failed", do) from None
    except Exception:  # noqa: BLE001 (a foreign file: torch has many errors for it)
        raise UserError(what, "it is damaged, or holds more than arrays", do) from None
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not all(isinstance(array, Tensor) for array in loaded.values()):
        raise UserError(what, "it holds something other than named arrays", do)
    return {str(name): array for name, array in loaded.items()}, True


def encoder_arrays(
    name: EncoderName, given: Mapping[str, Tensor], *, is_ordered: bool
) -> dict[str, npt.NDArray[np.float32]]:
    """Return the arrays of a pretrained encoder by timm's names, without the classification head.

    The arrays are matched by timm's names, or else, where their order is the network's, by order: then the last part of
    each name and each shape must agree.

    Raises:
        UserError: The arrays are not those of the encoder.
    """
    with torch.device("meta"):
        own = TimmEncoder(name, is_pretrained=True).net.state_dict()
    state = {one: array for one, array in given.items() if not one.endswith(COUNTER)}
    if is_ordered and sum(one in state for one in own) < len(own) / 2:
        matched = _by_order(name, own, state)
    else:
        matched = _by_name(name, own, state)
    return {one: _values(name, one, matched[one], tuple(array.shape)) for one, array in own.items()}


def _by_name(encoder: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for name, array in own.items():
        if name not in state:
            near = difflib.get_close_matches(name, state, n=1)
            raise _unfit(encoder, f"there is no {name!r}" + (f" (there is {near[0]!r})" if near else ""))
        if state[name].shape != array.shape:
            raise _unfit(encoder, f"{name!r} has the shape {tuple(state[name].shape)}, not {tuple(array.shape)}")
    inner = {name.partition(".")[0] for name in own}
    if odd := [name for name in state if name not in own and name.partition(".")[0] in inner]:
        raise _unfit(encoder, f"the encoder has no {odd[0]!r}")
    return state


def _by_order(encoder: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if not len(own) <= len(state) <= len(own) + MOST_HEAD:
        raise _unfit(encoder, f"there are {len(state)} arrays, the encoder has {len(own)}, and names differ")
    matched = dict(zip(own, state.items(), strict=False))
    for name, (theirs, array) in matched.items():
        leaf = theirs.rpartition(".")[2]
        if SAME.get(leaf, leaf) != name.rpartition(".")[2] or _sides(array) != _sides(own[name]):
            why = f"{theirs!r} {tuple(array.shape)} stands where {name!r} {tuple(own[name].shape)} is needed"
            raise _unfit(encoder, why)
    return {name: array for name, (_, array) in matched.items()}


def _sides(array: Tensor) -> list[int]:
    return [side for side in array.shape if side != 1]


def _values(encoder: str, name: str, array: Tensor, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if not array.is_floating_point():
        raise _unfit(encoder, f"{name!r} is {array.dtype}")
    values = array.detach().to(torch.float32).reshape(shape).numpy()
    if not np.isfinite(values).all() or (name.endswith("running_var") and float(values.min(initial=math.inf)) < 0):
        raise _unfit(encoder, f"{name!r} holds a value that cannot be")
    return cast(npt.NDArray[np.float32], values)


def _unfit(encoder: str, why: str) -> UserError:
    do = "name the encoder that the file was trained as, or export its state_dict from timm or torchvision"
    return UserError(f"the weights are not those of {encoder}", why, do)


if __name__ == "__main__":
    raise SystemExit(main())
