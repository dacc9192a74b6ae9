"""Codes from chosen queries: found exactly, with about one query a bit, from the site's own answering code."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ynet_client.gallery.case_rows import GalleryCase
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.stored_codes import CaseCode
from ynet_client.retrieval import disclosure
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.wire import CodedQuery
from ynet_client.settings import Disclosure
from ynet_lab.attacks.answering import site_of
from ynet_lab.attacks.chosen_codes import Answer, Ask, Bits, determine, sweep

BITS, CASES, MODEL = 32, 60, "a" * 64


def coarse(codes: Bits, step: int, k: int) -> Ask:
    """A site of these codes: the k nearest by the coarse distance; tokens are the cases' numbers."""

    def ask(asked: Sequence[bytes]) -> list[Answer]:
        answers = []
        for code in asked:
            bits = np.unpackbits(np.frombuffer(code, np.uint8))
            distances = -(-(codes != bits).sum(1) // step) * step
            nearest = np.argsort(distances, kind="stable")[:k]
            answers.append({bytes([case]): int(distances[case]) for case in nearest})
        return answers

    return ask


def some_codes(seed: int) -> Bits:
    return np.random.default_rng(seed).integers(0, 2, (CASES, BITS), np.uint8)


@pytest.mark.parametrize(("step", "k"), [(1, CASES), (1, 20), (2, 20), (4, CASES), (4, 20), (8, CASES)])
def test_determined_code_is_the_cases_own(step: int, k: int) -> None:
    codes, start, random = some_codes(1), some_codes(2)[0], np.random.default_rng(1)
    ask = coarse(codes, step, k)
    (first,) = ask([np.packbits(start).tobytes()])
    found = [determine(ask, start, token, step, k, random) for token in first]
    told = {token: one.code for token, one in zip(first, found, strict=True) if one.code is not None}
    assert all(np.array_equal(code, codes[token[0]]) for token, code in told.items())
    assert len(told) > 0.9 * len(first)
    assert max(one.queries for one in found) <= 2 * BITS + 4 * step


@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_sweep_finds_only_right_codes_and_with_step_1_all_of_an_answer(step: int) -> None:
    codes, start = some_codes(1), some_codes(2)[0]
    found = sweep(coarse(codes, step, CASES), start, step, CASES)
    assert all(np.array_equal(code, codes[token[0]]) for token, code in found.items())
    distances = (codes != start).sum(1)
    readable = np.isin(distances % step, [0, 1 % step])
    assert len(found) == readable.sum()


@pytest.mark.parametrize("step", [1, 4, 8])
def test_computed_answers_equal_those_of_a_gallery_and_determine_a_code(tmp_path: Path, step: int) -> None:
    codes, start, k = some_codes(1), some_codes(2)[0], 10
    gallery = Gallery.open(tmp_path / "gallery.sqlite", b"secret")
    gallery.sync_cases(
        GalleryCase(f"{number}.png", hashlib.sha256(bytes([number])).hexdigest(), "x", f"P{number}", "train", {})
        for number in range(CASES)
    )
    code_of = {f"{number}.png": np.packbits(bits).tobytes() for number, bits in enumerate(codes)}
    gallery.add_codes(MODEL, [CaseCode(case.id, code_of[case.image]) for case in gallery.missing(MODEL)])
    gallery.activate(MODEL)

    def ask(asked: Sequence[bytes]) -> list[Answer]:
        hits = disclosure.hits(Disclosure(distance_step=step), gallery, CodedQuery(MODEL, tuple(asked), Query(k)))
        return [{hit.token: hit.distance for hit in each} for each in hits]

    tokens = [hit.token for hit in gallery.search(MODEL, [bytes(BITS // 8)], CASES)[0]]
    held = np.array([np.frombuffer(code_of[gallery.case_of(token).image], np.uint8) for token in tokens])
    computed = site_of(held, np.array([np.frombuffer(token, np.uint8) for token in tokens]), step, k)
    asked = [np.packbits(code).tobytes() for code in some_codes(3)]
    assert [list(answer.items()) for answer in computed(asked)] == [list(answer.items()) for answer in ask(asked)]
    token = next(iter(ask([np.packbits(start).tobytes()])[0]))
    found = determine(ask, start, token, step, k, np.random.default_rng(1))
    assert found.code is None or np.packbits(found.code).tobytes() == code_of[gallery.case_of(token).image]
    assert found.code is not None or step == 8
    gallery.close()
