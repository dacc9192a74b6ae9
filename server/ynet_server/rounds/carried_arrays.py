"""What the messages of a run carry, and the files by which sites get the arrays that no message carries."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from flwr.app import ConfigRecord
from flwr.serverapp import Grid

from ynet import weights
from ynet.federation.records import FIXED
from ynet.fixed_arrays import fixed_arrays, uncarried
from ynet.plan import Plan
from ynet.weights import Arrays, Flat, Layout
from ynet_server.rounds.run_folder import RunFolder, State

FILE = "fixed.safetensors"
"""In a run's folder: the fixed arrays that no encoder file has."""


class GivenFile(NamedTuple):
    """A file of arrays that the sites fetch once."""

    path: Path
    sha256: str


@runtime_checkable
class OffersFiles(Protocol):
    """A Grid whose sites fetch files. On other Grids, messages carry all arrays."""

    def offer(self, files: Sequence[GivenFile]) -> None:
        """Offer files to the sites with each message from now on, in place of those offered before."""


class CarriedArrays:
    """Which arrays the messages of one run carry.

    A message of training carries what is trained, one of evaluation also the arrays of the code. The sites have the
    rest from the plan's encoder file, and from the run's own file, which holds the fixed arrays that differ from it.
    """

    def __init__(self, grid: Grid, plan: Plan, folder: RunFolder) -> None:
        """Offer the plan's encoder to the sites."""
        self._grid = grid if isinstance(grid, OffersFiles) else None
        self._plan, self._folder, self._rest = plan, folder, ""
        self._fixed, self._untrained, self._unshown = (frozenset[str](),) * 3
        self._layout: Layout = ()
        if self._grid is not None:
            self._grid.offer(self._encoder())

    def begin(self, state: State) -> None:
        """Decide what the messages carry, and offer the files that hold the rest."""
        names = [entry.name for entry in state.layout]
        self._layout, self._fixed = state.layout, fixed_arrays(self._plan, names)
        if self._grid is None:
            return
        self._untrained, self._unshown = self._fixed, uncarried(self._plan, names)
        files, rest = self._encoder(), self._differing(weights.unflatten(state.flat, state.layout))
        if rest:
            path = self._folder.path / FILE
            weights.save(path, rest, {})
            with path.open("rb") as file:
                self._rest = hashlib.file_digest(file, "sha256").hexdigest()
            files.append(GivenFile(path, self._rest))
        self._grid.offer(files)

    def close(self) -> None:
        """Offer the files no longer."""
        if self._grid is not None:
            self._grid.offer(())

    # --- a round

    def trained(self, state: State) -> State:
        """The state with the arrays that a round carries alone."""
        layout = weights.layout_without(state.layout, self._untrained)
        return state._replace(flat=weights.without(state.flat, state.layout, self._untrained), layout=layout)

    def whole(self, flat: Flat, begun: State) -> Flat:
        """The network's weights from those that a round made; fixed arrays stay as at its beginning."""
        made = weights.completed(flat, begun.flat, begun.layout, self._untrained)
        return self.kept(made, begun.flat)

    def kept(self, flat: Flat, begun: Flat) -> Flat:
        """The weights with the fixed arrays as they are in `begun`, whatever the sites or an average say."""
        return weights.put_back(flat, begun, self._layout, self._fixed)

    def evaluated(self, flat: Flat) -> tuple[Flat, Layout]:
        """What an evaluation of the weights carries."""
        layout = weights.layout_without(self._layout, self._unshown)
        return weights.without(flat, self._layout, self._unshown), layout

    def config(self) -> ConfigRecord:
        """What a round's config says of the arrays that its message leaves out."""
        return ConfigRecord({FIXED: self._rest} if self._rest else {})

    @property
    def rest(self) -> str:
        """The SHA-256 of the run's own file of fixed arrays; empty where it has none."""
        return self._rest

    # --- the strategy's state

    def spread(self, held: Mapping[str, Flat]) -> dict[str, Flat]:
        """The strategy's state in the network's layout, as it is stored: 0 in arrays that no round carries."""
        nothing = np.zeros(sum(entry.size for entry in self._layout), np.float32)
        return {name: weights.completed(flat, nothing, self._layout, self._untrained) for name, flat in held.items()}

    def gathered(self, held: Mapping[str, Flat]) -> dict[str, Flat]:
        """Invert `spread`."""
        return {name: weights.without(flat, self._layout, self._untrained) for name, flat in held.items()}

    # --- within

    def _encoder(self) -> list[GivenFile]:
        """The file of the plan's encoder, where it names one that the server has."""
        path, sha256 = self._folder.encoder_file(), self._plan.network.encoder_weights
        return [GivenFile(path, sha256)] if path is not None and sha256 is not None else []

    def _differing(self, arrays: Arrays) -> Arrays:
        """The fixed arrays that a site cannot take from the encoder's file."""
        given = self._folder.encoder_arrays() if self._folder.encoder_file() else {}
        return {
            name: array
            for name, array in arrays.items()
            if name in self._unshown and not (name in given and np.array_equal(given[name], array))
        }
