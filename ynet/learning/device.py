"""The device that the network runs on, and errors of its memory."""

import logging

import torch

from ynet.errors import UserError

log = logging.getLogger("ynet.learning.device")


def choose(name: str) -> torch.device:
    """Return the named device (`cpu`, `cuda`, `mps`) after a test computation; for `auto` the best that passes it.

    Raises:
        UserError: The named device cannot be used.
    """
    if name != "auto":
        if why := _unusable(name):
            raise UserError(
                f"the device {name!r} cannot be used", why, "set `device: auto` (or join with --device auto)"
            )
        return torch.device(name)
    return torch.device(next(one for one in ("cuda", "mps", "cpu") if _works(one)))


def _works(name: str) -> bool:
    why = _unusable(name)
    if why and _is_there(name):
        log.warning("the device %s is not used: %s", name, why)
    return not why


def _is_there(name: str) -> bool:
    if name == "cuda":
        return torch.cuda.is_available()
    return name != "mps" or torch.backends.mps.is_available()


def _unusable(name: str) -> str:
    """Return why a device cannot be used; empty where a test computation succeeds."""
    if not _is_there(name):
        if name == "cuda" and torch.version.cuda is None:
            return f"the torch that is installed here ({torch.__version__}) is built without CUDA"
        missing = {"cuda": "no GPU with a driver that it can use", "mps": "no Apple GPU"}[name]
        return f"torch {torch.__version__} finds {missing} on this machine"
    try:
        (torch.ones(2, device=name) + 1).sum().item()
    except (RuntimeError, AssertionError) as error:  # the driver is too old, the GPU too new, or another has it
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return ""


def ran_out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed: Python's, numpy's or torch's, which on a CPU has no error class for it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
