"""Laws of a gallery: after any changes and any kill it equals a model in plain Python."""

import contextlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import faiss
import gallery_kills
import gallery_truth
import numpy as np
import pytest
from gallery_truth import KINDS, MODELS, SECRET, Change, Truth
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet_client.gallery.gallery import Gallery

KILLS, SEED = int(os.environ.get("YNET_KILLS", "25")), os.environ.get("YNET_KILLS_SEED", "20261126")


def test_after_a_kill_at_any_point_the_gallery_holds_exactly_what_was_acknowledged() -> None:
    """More kills: YNET_KILLS=1000 YNET_KILLS_SEED=2, or run the script."""
    asked = [sys.executable, gallery_kills.__file__, "--kills", str(KILLS), "--seed", SEED]
    done = subprocess.run(asked, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["kills"] == KILLS
    assert all(seen["cut_off"][kind] > 0 for kind in KINDS), seen
    assert set(seen["hows"]) == set(gallery_kills.HOWS)
    assert not seen["torch"]


def test_oracle_detects_lost_and_invented_changes(
    tmp_path: Path,
) -> None:
    gallery, truth = grown(tmp_path / "gallery.sqlite", random.Random(1), 40)
    generator = random.Random(2)
    for kind in KINDS:
        while (change := gallery_truth.draw(truth, generator, kind)).kind != kind:
            truth = done(change, gallery)
        if change.after == truth:  # a compaction
            continue
        assert gallery_truth.holds(gallery) == gallery_truth.as_held(truth)
        assert gallery_truth.holds(gallery) != gallery_truth.as_held(change.after)
        truth = done(change, gallery)
    gallery.close()


def grown(path: Path, generator: random.Random, changes: int) -> tuple[Gallery, Truth]:
    """A gallery after some changes."""
    gallery, truth = Gallery.open(path, SECRET), Truth()
    for _ in range(changes):
        truth = done(gallery_truth.draw(truth, generator), gallery)
    return gallery, truth


def done(change: Change, gallery: Gallery) -> Truth:
    change.do(gallery)
    return change.after


def assert_all(gallery: Gallery, truth: Truth, generator: random.Random) -> None:
    assert gallery_truth.holds(gallery) == gallery_truth.as_held(truth)
    gallery_truth.assert_answers(gallery, truth, generator)
    assert_distances(gallery, truth, generator)


def assert_distances(gallery: Gallery, truth: Truth, generator: random.Random) -> None:
    """Hits of all cases equal those of faiss."""
    images = sorted(truth.coded.get(truth.active or "", ()))
    if not images:
        return
    faiss.omp_set_num_threads(1)
    oracle = faiss.IndexBinaryFlat(64)
    codes = b"".join(gallery_truth.code_of(str(truth.active), truth.cases[image]).code for image in images)
    oracle.add(np.frombuffer(codes, np.uint8).reshape(-1, 8))
    code = gallery_truth.question(truth, generator)
    distances, places = oracle.search(np.frombuffer(code, np.uint8)[None], len(images))
    (hits,) = gallery.search(str(truth.active), [code], len(images))
    assert [hit.distance for hit in hits] == distances[0].tolist()
    assert {gallery.case_of(hit.token).image: hit.distance for hit in hits} == {
        images[place]: distance for place, distance in zip(places[0].tolist(), distances[0].tolist(), strict=True)
    }


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.lists(st.sampled_from([*KINDS, "again"]), min_size=1, max_size=25))
def test_search_after_any_changes_equals_brute_force_and_faiss(seed, kinds) -> None:
    generator, truth = random.Random(seed), Truth()
    gallery = gallery_in_memory()
    for kind in kinds:
        if kind == "again":
            assert gallery.verify()["damaged"] == []
        else:
            truth = done(gallery_truth.draw(truth, generator, kind), gallery)
            assert_all(gallery, truth, generator)
    gallery.close()


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """SQLite creates an empty file of that name in the working folder for a gallery in memory."""
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


def gallery_in_memory() -> Gallery:
    return Gallery.open(Path(":memory:"), SECRET)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gallery of a hundred cases has several segments, chunks of facts, and a tail that grows too long."""
    monkeypatch.setattr(gallery_kills.stored_codes, "SEGMENT_CASES", 32)
    monkeypatch.setattr(gallery_kills.case_facts, "CHUNK", 64)
    monkeypatch.setattr(gallery_kills.gallery, "MOST_TAIL", 48)


@pytest.mark.usefixtures("small_parts")
def test_reopened_gallery_of_many_segments_equals_brute_force(tmp_path: Path) -> None:
    generator = random.Random(3)
    path = tmp_path / "gallery.sqlite"
    gallery, truth = grown(path, generator, 60)
    for _ in range(12):
        for _ in range(5):
            truth = done(gallery_truth.draw(truth, generator), gallery)
            assert_all(gallery, truth, generator)
        gallery.close()
        gallery = Gallery.open(path, SECRET)
        assert_all(gallery, truth, generator)
    assert truth.active in MODELS
    gallery.close()
