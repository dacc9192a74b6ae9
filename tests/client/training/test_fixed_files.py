"""The files of fixed arrays in a site's home: which a plan needs, how they are kept, and what is refused."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ynet import weights
from ynet.config import parse
from ynet.encoders import PREFIX
from ynet.errors import RefusedError, UserError
from ynet.plan import Plan
from ynet_client.training import fixed_files
from ynet_client.training.fixed_files import FixedFile, FixedFiles, of_plan, read_rest

PLAN = parse(
    Plan,
    {
        "name": "fixed",
        "classes": ["a", "b"],
        "image": {"channels": 1, "size": 32},
        "training": {"rounds": 1, "learning_rate": 0.1},
        "cohort": {"min_sites": 1, "quorum": 1},
        "privacy": {"mode": "off"},
    },
    "the test's plan",
)


def stored(files: FixedFiles, file: FixedFile) -> None:
    files.partial(file).write_bytes(b"x")
    files.store(file)


def saved(files: FixedFiles, what: str, arrays: dict[str, weights.Flat], tmp_path: Path) -> str:
    weights.save(tmp_path / "made", arrays, {})
    sha256 = hashlib.sha256((tmp_path / "made").read_bytes()).hexdigest()
    folder = {"encoder": fixed_files.ENCODERS_FOLDER, "fixed arrays": fixed_files.RESTS_FOLDER}[what]
    file = FixedFile(what, folder, sha256, 0)
    (tmp_path / "made").replace(files.partial(file))
    files.store(file)
    return sha256


def test_own_file_of_a_run_counts_before_the_encoders(tmp_path: Path) -> None:
    files = FixedFiles(tmp_path / "home")
    one, two = np.zeros(2, np.float32), np.ones(2, np.float32)
    encoder = saved(files, "encoder", {"a": one, "b": one}, tmp_path)
    rest = saved(files, "fixed arrays", {PREFIX + "b": two, "c": two}, tmp_path)
    network = replace(PLAN.network, encoder="resnet18", encoder_weights=encoder)
    plan = replace(PLAN, network=network)
    assert files.has_encoder(plan)
    assert not files.has_encoder(PLAN)
    found = files.arrays(plan, rest)
    assert {name: array.sum() for name, array in found.items()} == {PREFIX + "a": 0, PREFIX + "b": 2, "c": 2}
    assert [file.sha256 for file in of_plan(plan, rest)] == [encoder, rest]
    assert of_plan(PLAN, "") == []


def test_damaged_file_is_removed_so_that_it_is_fetched_again(tmp_path: Path) -> None:
    files = FixedFiles(tmp_path)
    file = FixedFile("fixed arrays", fixed_files.RESTS_FOLDER, "0" * 64, 9)
    stored(files, file)
    with pytest.raises(UserError, match="damaged"):
        files.arrays(PLAN, "0" * 64)
    assert not files.path(file).exists()


def test_file_that_was_unused_longest_makes_room(tmp_path: Path) -> None:
    files = FixedFiles(tmp_path)
    made = [FixedFile("encoder", "encoders", f"{number:064x}", 9) for number in range(fixed_files.MOST_KEPT + 2)]
    for age, file in enumerate(made):
        stored(files, file)
        os.utime(files.path(file), (age, age))
    kept = {file for file in made if files.path(file).exists()}
    assert kept == set(made[2:])


@pytest.mark.parametrize("wrong", ["../../../etc/passwd", "A" * 64, "a" * 63, 7])
def test_name_that_is_no_digest_is_refused(wrong: object) -> None:
    with pytest.raises(RefusedError, match="no SHA-256"):
        read_rest(wrong)


def test_digest_is_read() -> None:
    assert read_rest("a" * 64) == "a" * 64
    assert read_rest(None) == ""
