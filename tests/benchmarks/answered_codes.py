"""The attack by chosen codes on a real gallery, through the code by which a site answers: for code_attacks.py."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ynet_client.gallery.case_rows import GalleryCase
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.stored_codes import CaseCode
from ynet_client.retrieval import disclosure
from ynet_client.retrieval.query import MAX_K, Query
from ynet_client.retrieval.wire import CodedQuery
from ynet_client.settings import Disclosure
from ynet_lab.attacks.chosen_codes import Answer, Ask, Bits, determine, sweep

MODEL = "a" * 64
STEPS = (1, 4, 8)
TARGETS, SWEEPS = 20, 10
DAY = Disclosure().queries_per_day_and_site


def chosen_codes(held: Bits, own: Bits, patients: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Attack an archive of the `held` codes, rows of bits, from the attacker's `own`; figures by step."""
    return {str(step): _by_step(held, own, patients, step) for step in STEPS}


def _by_step(held: Bits, own: Bits, patients: npt.NDArray[np.int64], step: int) -> dict[str, Any]:
    random = np.random.default_rng(1)
    starts = own[random.permutation(len(own))]
    with gallery_of(held, patients) as (gallery, code_of):
        ask = asking(gallery, step)
        tried = []
        for start in starts[:TARGETS]:
            token = next(iter(ask([np.packbits(start).tobytes()])[0]))
            found = determine(ask, start, token, step, MAX_K, random)
            is_right = found.code is not None and np.packbits(found.code).tobytes() == code_of(token)
            tried.append((is_right, found.queries))
        codes: dict[bytes, bool] = {}
        for start in starts[:SWEEPS]:
            together = sweep(ask, start, step, MAX_K)
            codes |= {token: np.packbits(code).tobytes() == code_of(token) for token, code in together.items()}
    right, queries = np.array(tried).T
    return {
        "targets": len(tried),
        "determined": float(right.mean()),
        "queries_median": float(np.median(queries)),
        "queries_most": int(queries.max()),
        "sweep_queries": SWEEPS * (held.shape[1] + 1),
        "sweep_determined": sum(codes.values()),
        "sweep_wrong": len(codes) - sum(codes.values()),
        "held": len(held),
        "sweeps_in_a_day": DAY // (held.shape[1] + 1),
    }


@contextmanager
def gallery_of(held: Bits, patients: npt.NDArray[np.int64]) -> Iterator[tuple[Gallery, Any]]:
    """Open a gallery of these codes; yield it, and what returns the code behind a token."""
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery.open(Path(folder) / "gallery.sqlite", b"secret")
        cases = [
            GalleryCase(f"{n}.png", hashlib.sha256(str(n).encode()).hexdigest(), "x", f"P{patient}", "train", {})
            for n, patient in enumerate(patients)
        ]
        gallery.sync_cases(cases)
        rows = {f"{n}.png": np.packbits(bits).tobytes() for n, bits in enumerate(held)}
        gallery.add_codes(MODEL, [CaseCode(case.id, rows[case.image]) for case in gallery.missing(MODEL)])
        gallery.activate(MODEL)
        yield gallery, lambda token: rows[gallery.case_of(token).image]
        gallery.close()


def asking(gallery: Gallery, step: int) -> Ask:
    """Return what a site answers that has all other settings of disclosure at their defaults."""
    policy = Disclosure(distance_step=step)

    def ask(codes: Sequence[bytes]) -> list[Answer]:
        hits = disclosure.hits(policy, gallery, CodedQuery(MODEL, tuple(codes), Query(MAX_K)))
        return [{hit.token: hit.distance for hit in each} for each in hits]

    return ask
