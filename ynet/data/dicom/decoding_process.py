"""The decoder process of `decoding`: `python -m ynet.data.dicom.decoding_process`.

It reads a line of JSON and a frame, then writes a line of JSON and the pixels, until its input ends. The decoders are
C and C++ libraries, and some damaged files crash them; a separate process protects the site's.
"""

import contextlib
import json
import resource
import sys
from typing import Any

import gdcm
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder

from ynet.data.dicom.decoding import TWELVE_BIT

MAX_MEMORY_BYTES = 3 << 30
"""Address space of this process; enough for a colour frame of 50 million pixels."""


def main() -> None:
    """Decode frames from standard input until it ends."""
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
        except Exception:  # noqa: BLE001 (the next frame may be decodable)
            head, body = {}, b""
        taken.write(json.dumps(head).encode() + b"\n" + body)
        taken.flush()


def _decoded(asked: dict[str, Any], frame: bytes) -> np.ndarray:
    if asked["plugin"] == TWELVE_BIT:
        return _twelve_bit(asked["elements"], frame)
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


def _twelve_bit(elements: dict[str, Any], frame: bytes) -> np.ndarray:
    """Decode lossy 12-bit grey JPEG to 16-bit values. Raises ValueError where GDCM does not decode all of it."""
    fragment, fragments = gdcm.Fragment(), gdcm.SequenceOfFragments.New()
    fragment.SetByteStringValue(frame)
    fragments.AddFragment(fragment)
    pixel_data = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    pixel_data.SetValue(fragments.__ref__())
    rows, columns = elements["Rows"], elements["Columns"]
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(pixel_data)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, elements["PixelRepresentation"]))
    buffer = image.GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(buffer, "<i2" if elements["PixelRepresentation"] else "<u2").reshape(rows, columns)


if __name__ == "__main__":
    main()
