"""The process in which compressed frames are decoded: `python -m ynet.data.decoding_process`, for `decoding` alone.

It reads a line of JSON and a frame, writes a line of JSON and pixels, until its input ends. Decoders are C and C++,
and one of them ends its process at some broken files: so it is not the site's.
"""

import contextlib
import json
import resource
import sys
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

MAX_MEMORY_BYTES = 3 << 30
"""Of this process, in addresses: a frame of 50 million pixels in colour fits."""


def main() -> None:
    """Decode what comes until nothing more comes."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    given, taken = sys.stdin.buffer, sys.stdout.buffer
    while line := given.readline():
        asked = json.loads(line)
        frame = given.read(asked["size"])
        try:
            pixels = np.ascontiguousarray(_decoded(asked, frame))
            head = {"dtype": pixels.dtype.newbyteorder("=").str, "shape": pixels.shape}
            body = pixels.tobytes()
        except Exception:  # noqa: BLE001 (whatever is wrong with the frame, the next one may be good)
            head, body = {}, b""
        taken.write(json.dumps(head).encode() + b"\n" + body)
        taken.flush()


def _decoded(asked: dict[str, Any], frame: bytes) -> np.ndarray:
    dataset = Dataset()
    for keyword, value in asked["elements"].items():
        setattr(dataset, keyword, value)
    dataset.PixelData = encapsulate([frame])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = asked["syntax"]
    decoder = get_decoder(asked["syntax"])
    options = {"raw": asked["raw"], "correct_unused_bits": not asked["raw"], "decoding_plugin": asked["plugin"]}
    pixels, _ = decoder.as_array(dataset, index=0, **options)
    return pixels


if __name__ == "__main__":
    main()
