"""Start a gallery, or faiss's file of the same codes, in this process; for retrieval.py."""

import json
import sys
import time
from pathlib import Path

import numpy as np

K = 10


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return 4096 * pages


def gallery(path: Path) -> dict[str, float]:
    """Measure from the closed file to the first answer, and the memory after it."""
    from ynet_client.gallery.gallery import Gallery

    secret = (path.parent / "gallery.secret").read_bytes()
    before, begun = resident_bytes(), time.perf_counter()
    opened = Gallery.open(path, secret)
    (hits,) = opened.search(opened.active_model or "", [bytes(8)], K)
    seconds = time.perf_counter() - begun
    assert len(hits) == K
    assert not opened.stats()["damaged"]
    resident = resident_bytes() - before
    base, facts = opened._loaded.live_index.base, opened._cases.facts  # type: ignore[union-attr]
    array_bytes = base.nbytes + sum(part.nbytes for part in facts)
    return {"seconds": seconds, "array_bytes": array_bytes, "resident_bytes": resident}


def flat(path: Path) -> dict[str, float]:
    import faiss

    begun = time.perf_counter()
    faiss.read_index_binary(str(path)).search(np.zeros((1, 8), np.uint8), K)
    return {"seconds": time.perf_counter() - begun}


if __name__ == "__main__":
    given = Path(sys.argv[1])
    print(json.dumps(flat(given) if given.suffix == ".faiss" else gallery(given)))
