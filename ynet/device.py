"""Where the network runs."""

import torch


def choose(name: str) -> torch.device:
    """The device of that name (`cpu`, `cuda`, `mps`); for `auto` the best there is."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
