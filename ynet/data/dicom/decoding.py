"""Decoding of compressed frames in a separate process with bounds on memory and time, since decoders may crash."""

import atexit
import json
import math
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from ynet.data.dicom.faults import damaged

TWELVE_BIT = "gdcm, 12 bit"
"""The decoder of lossy 12-bit grey JPEG: GDCM called directly, since pydicom does not support it."""
WITHIN_S = 60.0
"""Maximal time to decode one frame."""
_TYPES = ("|u1", "|i1", "<u2", "<i2", ">u2", ">i2", "<u4", "<i4", ">u4", ">i4")
_HEAD_BYTES = 4096


class _Decoder:
    """The decoder process, started on first use and restarted after a crash. Thread-safe; one frame at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, asked: Mapping[str, object], frame: bytes) -> np.ndarray:
        with self._lock:
            try:
                return self._decode(json.dumps({**asked, "size": len(frame)}).encode() + b"\n" + frame)
            except (OSError, ValueError, KeyError, EOFError):
                self._end()
                raise damaged() from None

    def close(self) -> None:
        with self._lock:
            self._end()

    def _decode(self, message: bytes) -> np.ndarray:
        talk = self._process
        if talk is None or talk.poll() is not None:
            self._end()
            command = [sys.executable, "-P", "-m", "ynet.data.dicom.decoding_process"]
            talk = self._process = subprocess.Popen(  # noqa: S603 (a module of this package)
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
            )
        if talk.stdin is None or talk.stdout is None:
            raise OSError
        until = time.monotonic() + WITHIN_S
        _write(talk.stdin.fileno(), message, until)
        head, _, body = _read(talk.stdout.fileno(), lambda got: b"\n" in got[:_HEAD_BYTES], until).partition(b"\n")
        head_fields = json.loads(head)
        if not head_fields:
            raise damaged()
        if head_fields["dtype"] not in _TYPES:
            raise ValueError
        kind, shape = np.dtype(head_fields["dtype"]), tuple(map(int, head_fields["shape"]))
        left = math.prod(shape) * kind.itemsize - len(body)
        rest = _read(talk.stdout.fileno(), lambda got: len(got) >= left, until) if left > 0 else b""
        return np.frombuffer(body + rest, kind).reshape(shape)

    def _end(self) -> None:
        talk, self._process = self._process, None
        if talk is None:
            return
        talk.kill()
        for pipe in (talk.stdin, talk.stdout):
            if pipe:
                pipe.close()
        talk.wait()


def _write(pipe: int, message: bytes, until: float) -> None:
    """Write a whole message. Raises TimeoutError if the other end stops reading."""
    os.set_blocking(pipe, False)
    left = memoryview(message)
    while left:
        _wait(pipe, selectors.EVENT_WRITE, until)
        left = left[os.write(pipe, left) :]


def _read(pipe: int, is_all: Callable[[bytearray], bool], until: float) -> bytes:
    """Read until `is_all` accepts the bytes so far."""
    got = bytearray()
    while not is_all(got):
        _wait(pipe, selectors.EVENT_READ, until)
        part = os.read(pipe, 1 << 20)
        if not part:
            raise EOFError
        got += part
    return bytes(got)


def _wait(pipe: int, event: int, until: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, event)
        if not selector.select(max(0.0, until - time.monotonic())):
            raise TimeoutError


_DECODER = _Decoder()
atexit.register(_DECODER.close)


def decode(syntax: str, plugin: str, elements: Mapping[str, object], frame: bytes, *, is_raw: bool) -> np.ndarray:
    """Decode a compressed frame to pydicom's pixels: stored values if `is_raw`, else RGB for colours.

    `elements` are the file's elements of the image pixel module, by keyword. Raises UnfitError when the decoder finds
    the frame damaged, crashes, or exceeds its memory or WITHIN_S.
    """
    return _DECODER.decode({"syntax": syntax, "plugin": plugin, "elements": elements, "raw": is_raw}, frame)
