"""What the attacks on codes are given: each case's small picture, feature and trained code, from one pass.

The code from moments is a map of the feature. So one pass serves every width and every number of class bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ynet import code_map
from ynet.code_map import CodeMap
from ynet.data.batch import CaseSource
from ynet.learning.hashing import pack
from ynet.learning.model import YNet
from ynet.learning.moment_code import code_values
from ynet.network_size import code_sizes
from ynet.plan import Plan

BATCH = 64
SIDE = 32
"""The side of the pictures, in pixels: a code of 256 bits cannot hold finer ones."""
CHUNK = 512

Bits = npt.NDArray[np.uint8]


class CodedCases(NamedTuple):
    """Some cases; one row or number for each."""

    picture: npt.NDArray[np.float32]  # (cases, channels * SIDE * SIDE)
    feature: npt.NDArray[np.float32]  # (cases, features)
    trained: Bits  # (cases, bits / 8), packed: the code of the hash layer; no columns without one
    label: npt.NDArray[np.int64]
    patient: npt.NDArray[np.int64]  # a number from 0 for each patient
    is_member: npt.NDArray[np.bool_]  # whether the network and the map are made from the case

    def part(self, chosen: npt.NDArray[np.bool_]) -> "CodedCases":
        """Return the chosen cases, in order."""
        return CodedCases._make(column[chosen] for column in self)


@dataclass
class MapTensors:
    """The arrays of a `CodeMap`, as tensors, by which `code_values` computes a code."""

    mean: torch.Tensor
    to_classes: torch.Tensor
    class_means: torch.Tensor
    known: torch.Tensor
    class_rotation: torch.Tensor
    to_case: torch.Tensor


def see(
    moments_net: YNet, trained_net: YNet | None, cases: CaseSource, device: torch.device
) -> Sequence[npt.NDArray[Any]]:
    """Return pictures, features and trained codes, the first three columns of `CodedCases`.

    Args:
        moments_net: the network whose code is made from moments.
        trained_net: the same weights, with the code of the hash layer; None where the network has none.
        cases: the cases.
        device: where the networks are.
    """
    columns = []
    for positions in torch.split(torch.arange(len(cases)), BATCH):
        image = cases.batch(positions).image.to(device)
        with torch.inference_mode():
            maps = moments_net.eval().maps(image)
            flipped = moments_net.maps(image.flip(-1)) if moments_net.is_mirrored else None
            picture = functional.adaptive_avg_pool2d(image, SIDE).flatten(1)
        seen = moments_net.read_maps(maps, flipped, image.shape[-1])
        hashed = trained_net.read_maps(maps, flipped, image.shape[-1]).code if trained_net else seen.code[:, :0]
        columns.append((picture.cpu().numpy(), seen.feature.float().cpu().numpy(), pack(hashed.float())))
    return [np.concatenate(column) for column in zip(*columns, strict=True)]


def fitted(cases: CodedCases, plan: Plan, bits: int) -> CodeMap:
    """Return the map of case bits alone that follows from the members' sums, as the server computes it."""
    members, sizes = cases.part(cases.is_member), code_sizes(plan)
    moments = code_map.moments_of(members.feature.astype(np.float64), members.label, members.patient, sizes)
    return code_map.code_map(moments, bits, 0, plan.network.codebook_seed)


def narrowed(wide: CodeMap, bits: int, class_bits: int, seed: int) -> CodeMap:
    """Return the map of `bits` bits that the sums of a wider one, of case bits alone, give.

    The two differ only in the number of principal directions and in the rotations, which come from the seed. So one
    decomposition of the scatters serves all widths and dials.
    """
    classes, widest = len(wide.known), wide.to_case.shape[1]
    drawn = np.random.default_rng(seed)
    code_map.apart(drawn, classes, 0)
    back = code_map.rotation(drawn, widest, widest).T
    drawn = np.random.default_rng(seed)
    class_rotation, case_bits = code_map.apart(drawn, classes, class_bits), bits - class_bits
    onward = back[:, :case_bits] @ code_map.rotation(drawn, case_bits, case_bits)
    at_means = code_map.at_means(wide.class_means) @ class_rotation
    class_codes = np.concatenate([at_means, wide.class_codes @ onward], 1)
    return wide._replace(class_rotation=class_rotation, to_case=wide.to_case @ onward, class_codes=class_codes)


def values(cases: CodedCases, found: CodeMap) -> npt.NDArray[np.float32]:
    """Return the code's values before their signs are taken, shape (cases, bits)."""
    by = MapTensors(*(torch.from_numpy(getattr(found, field.name)).float() for field in fields(MapTensors)))
    parts = torch.split(torch.from_numpy(cases.feature), CHUNK)
    return torch.cat([code_values(part, by) for part in parts]).numpy()


def save(path: Path, cases: CodedCases) -> None:
    """Keep the cases in a file. It has pictures of the data: protect it as you protect them."""
    np.savez(path, **cases._asdict())


def load(path: Path) -> CodedCases:
    """Return the kept cases."""
    with np.load(path, allow_pickle=False) as kept:
        return CodedCases(**{name: kept[name] for name in CodedCases._fields})
