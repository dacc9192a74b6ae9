"""Where the network runs, and whether it has room there."""

import torch


def choose(name: str) -> torch.device:
    """The device of that name (`cpu`, `cuda`, `mps`); for `auto` the best there is."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: Python's, numpy's or torch's, which on a CPU has no error of its own for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
