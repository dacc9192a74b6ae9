"""A gallery on a real file: content, answers, refusals, and the state after a kill."""

import contextlib
import datetime as dt
import hashlib
import random
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ynet.errors import RefusedError, UserError
from ynet.search.ranking import Hit
from ynet_client.gallery.case_rows import GalleryCase, SyncCounts
from ynet_client.gallery.filters import Filters
from ynet_client.gallery.gallery import Gallery
from ynet_client.gallery.gallery_results import MissingCase
from ynet_client.gallery.stored_codes import CaseCode

SECRET = b"of this site"
NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)
OLD, NEW = "a" * 64, "b" * 64


def case(number: int, **changes: object) -> GalleryCase:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    label, split = ("frontal", "temporal")[number % 2], ("train", "train", "test")[number % 3]
    made = GalleryCase(f"images/{number}.png", digest, label, f"TCGA-{number // 2}", split, {"grade": "G2"})
    return replace(made, **changes)


CASES = [case(number) for number in range(12)]


def fill(gallery: Gallery, model_id: str, cases: list[GalleryCase] = CASES) -> None:
    """Encode each case by its number and activate the model."""
    gallery.sync_cases(cases)
    gallery.add_codes(model_id, coded(gallery.missing(model_id)))
    gallery.activate(model_id)


def coded(missing: list[MissingCase]) -> list[CaseCode]:
    return [CaseCode(case_id, code_of(image)) for case_id, image in missing]


def code_of(image: str) -> bytes:
    return bytes([int(Path(image).stem)] * 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gallery.sqlite"


@pytest.fixture
def gallery(path: Path) -> Iterator[Gallery]:
    opened = Gallery.open(path, SECRET)
    yield opened
    opened.close()


def search(gallery: Gallery, model_id: str, code: bytes, k: int, **asked: Any) -> list[Hit]:
    (found,) = gallery.search(model_id, [code], k, **asked)
    return found


def images(gallery: Gallery, hits: list) -> set[str]:
    return {gallery.case_of(hit.token).image for hit in hits}


def test_what_was_put_in_is_found_again_after_the_file_was_closed(path: Path) -> None:
    first = Gallery.open(path, SECRET)
    fill(first, OLD)
    found = search(first, OLD, bytes([5] * 8), 3)
    first.close()
    again = Gallery.open(path, SECRET)
    assert again.active_model == OLD
    assert search(again, OLD, bytes([5] * 8), 3) == found
    row = again.case_of(found[0].token)
    assert (row.image, row.label, row.split) == ("images/5.png", "temporal", "test")
    assert row.attributes == {"grade": "G2"}
    again.close()


def test_cases_follow_the_manifest(gallery: Gallery) -> None:
    assert gallery.sync_cases(CASES) == SyncCounts(12, 0, 0, 0)
    assert gallery.sync_cases(CASES) == SyncCounts(0, 0, 0, 12)
    relabelled = replace(CASES[0], label="temporal")
    assert gallery.sync_cases([relabelled, *CASES[1:10], case(20)]) == SyncCounts(1, 1, 2, 9)
    assert gallery.stats()["cases"] == 11


def test_a_case_that_vanished_or_changed_its_label_does_so_in_the_next_answer(gallery: Gallery) -> None:
    fill(gallery, OLD)
    (first,) = search(gallery, OLD, bytes([4] * 8), 1)
    gallery.sync_cases([replace(CASES[4], label="other"), *CASES[5:]])
    assert search(gallery, OLD, bytes([4] * 8), 1) == [first._replace(label="other")]
    gallery.sync_cases(CASES[5:])
    assert "images/4.png" not in images(gallery, search(gallery, OLD, bytes([4] * 8), 12))
    with pytest.raises(UserError, match="no case here has this token"):
        gallery.case_of(first.token)


def test_a_changed_image_file_is_encoded_anew_under_another_token(gallery: Gallery) -> None:
    fill(gallery, OLD)
    (before,) = search(gallery, OLD, bytes([4] * 8), 1)
    cases = [case(4, sha256="00" * 32) if made is CASES[4] else made for made in CASES]
    assert gallery.sync_cases(cases).changed == 1
    assert [image for _, image in gallery.missing(OLD)] == ["images/4.png"]
    assert before.token not in {hit.token for hit in search(gallery, OLD, bytes([4] * 8), 12)}
    fill(gallery, OLD, cases)
    (after,) = search(gallery, OLD, bytes([4] * 8), 1)
    assert after.distance == 0
    assert after.token != before.token


def test_a_row_that_stands_twice_counts_once_unless_it_contradicts_itself(gallery: Gallery) -> None:
    assert gallery.sync_cases([*CASES, CASES[0]]).added == 12
    with pytest.raises(UserError, match="is in two rows that differ"):
        gallery.sync_cases([*CASES, replace(CASES[0], label="other")])
    assert gallery.stats()["cases"] == 12


def test_two_images_with_the_same_content_are_two_cases(gallery: Gallery) -> None:
    fill(gallery, OLD, [CASES[1], case(1, image="copies/1.png")])
    assert images(gallery, search(gallery, OLD, bytes([1] * 8), 5)) == {"images/1.png", "copies/1.png"}
    assert search(gallery, OLD, bytes([1] * 8), 5, exclude_sha256=[CASES[1].sha256]) == []


def test_a_query_can_be_kept_to_one_split_and_from_its_own_file(gallery: Gallery) -> None:
    fill(gallery, OLD)
    of_test = search(gallery, OLD, bytes([5] * 8), 12, filters=Filters(split="test"))
    assert images(gallery, of_test) == {made.image for made in CASES if made.split == "test"}
    without = search(gallery, OLD, bytes([5] * 8), 12, filters=Filters(split="test"), exclude_sha256=[CASES[5].sha256])
    assert images(gallery, of_test) - images(gallery, without) == {"images/5.png"}
    assert search(gallery, OLD, bytes([5] * 8), 12, filters=Filters(split="validation")) == []


def test_a_query_before_there_is_a_model_is_refused(gallery: Gallery) -> None:
    gallery.sync_cases(CASES)
    with pytest.raises(RefusedError, match="it has no model"):
        search(gallery, OLD, bytes(8), 3)


def test_the_old_model_answers_until_the_switch_and_is_refused_after_it(gallery: Gallery) -> None:
    fill(gallery, OLD)
    (before,) = search(gallery, OLD, bytes([5] * 8), 1)
    gallery.add_codes(NEW, [CaseCode(case_id, bytes(16)) for case_id, _ in gallery.missing(NEW)])
    assert search(gallery, OLD, bytes([5] * 8), 1) == [before]
    with pytest.raises(RefusedError, match="the query is of model bbbb"):
        search(gallery, NEW, bytes(16), 1)
    gallery.activate(NEW)
    assert gallery.active_model == NEW
    assert search(gallery, NEW, bytes(16), 1)[0].ties == 12
    with pytest.raises(RefusedError, match="the query is of model aaaa"):
        search(gallery, OLD, bytes([5] * 8), 1)


def test_a_half_encoded_model_cannot_be_switched_to(gallery: Gallery) -> None:
    fill(gallery, OLD)
    gallery.add_codes(NEW, [CaseCode(case_id, bytes(8)) for case_id, _ in gallery.missing(NEW)[:7]])
    with pytest.raises(RefusedError, match="5 cases have no code under it"):
        gallery.activate(NEW)
    assert gallery.active_model == OLD


def test_tokens_rotate_with_the_model_and_the_last_ones_still_name_their_cases(gallery: Gallery) -> None:
    tokens = {}
    for model_id in (OLD, NEW, "c" * 64):
        fill(gallery, model_id)
        tokens[model_id] = {
            gallery.case_of(hit.token).image: hit.token for hit in search(gallery, model_id, bytes(8), 12)
        }
    assert len({token for of_model in tokens.values() for token in of_model.values()}) == 36
    assert gallery.case_of(tokens[NEW]["images/5.png"]).image == "images/5.png"
    with pytest.raises(UserError, match="of an older model"):
        gallery.case_of(tokens[OLD]["images/5.png"])


def test_a_token_names_nothing_in_a_gallery_that_was_built_anew(path: Path, gallery: Gallery) -> None:
    fill(gallery, OLD)
    rebuilt = Gallery.open(path.with_name("rebuilt.sqlite"), SECRET)
    fill(rebuilt, OLD, CASES[::-1])
    for hit in search(gallery, OLD, bytes(8), 12):
        with pytest.raises(UserError, match="no case here has this token"):
            rebuilt.case_of(hit.token)
    rebuilt.close()


def test_a_model_can_come_back(gallery: Gallery) -> None:
    for model_id in (OLD, NEW, OLD, OLD):
        fill(gallery, model_id)
        assert gallery.active_model == model_id


def test_no_patient_stands_in_the_file(path: Path, gallery: Gallery) -> None:
    fill(gallery, OLD)
    gallery.close()
    assert not any(b"TCGA-" in file.read_bytes() for file in path.parent.iterdir())


def test_two_sites_give_one_patient_two_pseudonyms(path: Path) -> None:
    names = set()
    for secret in (SECRET, b"of another site"):
        gallery = Gallery.open(path.with_name(secret.hex()), secret)
        names.add(gallery.forget("TCGA-1", NOW).pseudonym)
        gallery.close()
    assert len(names) == 2


def test_stats_say_what_the_gallery_holds(gallery: Gallery) -> None:
    assert gallery.stats()["indexed"] == 0
    fill(gallery, OLD)
    assert gallery.stats() == {
        "cases": 12,
        "patients": 6,
        "indexed": 12,
        "distinct_codes": 12,
        "cases_per_label": {"frontal": 6, "temporal": 6},
        "cases_per_split": {"test": 4, "train": 8},
        "damaged": [],
    }


def test_case_without_label_is_found_and_counted_as_such(gallery: Gallery) -> None:
    fill(gallery, OLD, [case(0, label=""), *CASES[1:]])
    (found,) = gallery.search(OLD, [code_of("0.png")], 2)
    assert found[0].label == ""
    assert gallery.stats()["cases_per_label"] == {"": 1, "frontal": 5, "temporal": 6}
    assert gallery.count(OLD, Filters(labels=("frontal",))).cases == 5


def test_a_code_for_a_case_that_went_meanwhile_is_passed_over(gallery: Gallery) -> None:
    gallery.sync_cases(CASES)
    missing = gallery.missing(OLD)
    gallery.sync_cases(CASES[1:])
    assert gallery.add_codes(OLD, coded(missing)) == 11


def test_codes_of_two_widths_under_one_model_are_not_kept(gallery: Gallery) -> None:
    gallery.sync_cases(CASES)
    (first, _), (second, _), *_ = gallery.missing(OLD)
    gallery.add_codes(OLD, [CaseCode(first, bytes(8))])
    with pytest.raises(ValueError, match="codes of"):
        gallery.add_codes(OLD, [CaseCode(second, bytes(16))])
    with pytest.raises(ValueError, match="codes of"):
        gallery.add_codes(NEW, [CaseCode(first, bytes(5))])
    assert len(gallery.missing(OLD)) == 11


def test_a_query_of_another_width_is_refused(gallery: Gallery) -> None:
    fill(gallery, OLD)
    with pytest.raises(UserError, match="the gallery's have 64"):
        search(gallery, OLD, bytes(16), 3)


def test_a_gallery_without_cases_answers_with_no_hit(gallery: Gallery) -> None:
    fill(gallery, OLD, [])
    assert search(gallery, OLD, bytes(8), 3) == []


def test_a_second_process_is_told_that_the_gallery_is_in_use(path: Path, gallery: Gallery) -> None:
    with pytest.raises(UserError, match="another process has it"):
        Gallery.open(path, SECRET)


def spoil(path: Path, change: str) -> None:
    database = sqlite3.connect(path)
    database.execute(change)
    database.commit()
    database.close()


def test_a_gallery_of_a_later_version_is_refused(path: Path) -> None:
    Gallery.open(path, SECRET).close()
    spoil(path, "PRAGMA user_version = 5")
    with pytest.raises(UserError, match="its format has the number 5"):
        Gallery.open(path, SECRET)


def test_a_database_of_something_else_is_refused(path: Path) -> None:
    spoil(path, "CREATE TABLE photographs (name TEXT)")
    with pytest.raises(UserError, match="its format has the number 0"):
        Gallery.open(path, SECRET)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database " * 100)
    with pytest.raises(UserError, match="cannot be opened"):
        Gallery.open(path, SECRET)


def test_a_gallery_made_with_another_secret_is_refused(path: Path) -> None:
    Gallery.open(path, SECRET).close()
    with pytest.raises(UserError, match="another secret"):
        Gallery.open(path, b"lost and replaced")


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unable to open"):
        Gallery.open(tmp_path / "nowhere" / "gallery.sqlite", SECRET)


def test_a_full_disk_is_said_and_nothing_is_half_written(path: Path) -> None:
    gallery = Gallery.open(path, SECRET)
    fill(gallery, OLD)
    gallery._database.execute("PRAGMA max_page_count = 1")  # SQLite raises it to the size that the file has
    with pytest.raises(UserError, match="could not be written"):
        gallery.sync_cases([*CASES, *(case(number) for number in range(100, 3000))])
    assert gallery.stats()["cases"] == 12
    assert search(gallery, OLD, bytes([5] * 8), 1)[0].distance == 0
    gallery.close()


def test_threads_may_search_while_another_writes(gallery: Gallery) -> None:
    fill(gallery, OLD)
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(60):
                hits = search(gallery, OLD, bytes([5] * 8), 12)
                assert 8 <= len(hits) <= 12
                assert hits == sorted(hits, key=lambda hit: hit.distance)
        except BaseException as fault:  # noqa: BLE001 (told to the test)
            faults.append(fault)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(30):
        fill(gallery, OLD, CASES[: 8 + turn % 5])
    for thread in threads:
        thread.join()
    assert faults == []


@pytest.mark.parametrize("k", [1, 5, 12])
def test_one_hit_a_patient_is_the_best_of_each(gallery: Gallery, k: int) -> None:
    fill(gallery, OLD)
    every = search(gallery, OLD, bytes([5] * 8), 12)
    best: dict[int, object] = {}
    for hit in every:
        best.setdefault(int(Path(gallery.case_of(hit.token).image).stem) // 2, hit)
    assert search(gallery, OLD, bytes([5] * 8), k, is_one_per_patient=True) == list(best.values())[:k]


def test_a_radius_leaves_out_what_is_farther(gallery: Gallery) -> None:
    fill(gallery, OLD)
    every = search(gallery, OLD, bytes([5] * 8), 12)
    assert search(gallery, OLD, bytes([5] * 8), 12, radius=8) == [hit for hit in every if hit.distance <= 8]


def test_filters_count_the_cases_and_patients_that_they_leave(gallery: Gallery) -> None:
    fill(gallery, OLD)
    assert gallery.count(OLD, Filters()) == (12, 6)
    assert gallery.count(OLD, Filters(labels=("frontal",), split="test")) == (2, 2)
    assert gallery.count(OLD, Filters(attributes=(("grade", "G3"),))) == (0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_groups_are_counted_right_after_any_change(gallery: Gallery, seed: int) -> None:
    generator, barred = random.Random(seed), set[str]()
    fill(gallery, OLD)
    for step in range(12):
        known = [case(number, patient=f"P{generator.randrange(4)}") for number in generator.sample(range(20), 10)]
        known = [one for one in known if one.patient not in barred]
        gallery.sync_cases(known)
        if step % 4 == 3:
            gallery.forget(patient := f"P{generator.randrange(4)}", NOW)
            barred.add(patient)
            known = [one for one in known if one.patient not in barred]
        missing = {one.image for one in gallery.missing(OLD)}
        coded = [one for one in known if one.image not in missing]
        for filters in (Filters(), Filters(labels=("frontal",)), Filters(), Filters(split="test")):
            kept = [one for one in coded if filters.admits(one.label, one.split, one.attributes)]
            assert gallery.count(OLD, filters) == (len(kept), len({one.patient for one in kept}))
        gallery.add_codes(OLD, [CaseCode(one.id, code_of(one.image)) for one in gallery.missing(OLD)[: step % 5]])
        if step % 5 == 4:
            gallery.compact()


def test_a_batch_finds_what_its_queries_find_alone(gallery: Gallery) -> None:
    fill(gallery, OLD)
    codes, digests = [bytes([n] * 8) for n in (5, 1, 5, 40)], [CASES[n].sha256 for n in (5, 1, 7)] + ["0" * 64]
    together = gallery.search(OLD, codes, 4, exclude_sha256=digests)
    alone = [gallery.search(OLD, [one], 4, exclude_sha256=[of]) for one, of in zip(codes, digests, strict=True)]
    assert [[found] for found in together] == alone


def test_a_file_holds_no_free_pages_when_codes_have_left_its_tail(gallery: Gallery) -> None:
    many = [case(number) for number in range(3000)]
    gallery.sync_cases(many)
    gallery.add_codes(OLD, [CaseCode(one.id, one.id.to_bytes(8)) for one in gallery.missing(OLD)])
    gallery.activate(OLD)
    assert gallery._database.execute("PRAGMA freelist_count").fetchone() == (0,)


def test_more_descriptions_than_a_byte_can_number_are_kept_apart(path: Path) -> None:
    many = [case(number, attributes={"n": str(number)}) for number in range(300)]
    for size in (3, 300, 300):  # a byte each, two bytes each, and read from the file
        gallery = Gallery.open(path, SECRET)
        fill(gallery, OLD, [replace(one, label="x") for one in many[:size]]) if size == 3 else gallery.sync_cases(many)
        gallery.add_codes(OLD, [CaseCode(one.id, bytes(8)) for one in gallery.missing(OLD)])
        for number in (0, size - 1):
            assert gallery.count(OLD, Filters(attributes=(("n", str(number)),))) == (1, 1)
        gallery.close()


def test_a_case_that_moves_to_another_patient_is_grouped_with_that_patients_cases(gallery: Gallery) -> None:
    fill(gallery, OLD)
    gallery.sync_cases([replace(CASES[0], patient="TCGA-5"), *CASES[1:]])
    assert gallery.stats()["patients"] == 6
    assert len(search(gallery, OLD, bytes(8), 12, is_one_per_patient=True)) == 6
    gallery.sync_cases([replace(made, patient="TCGA-5") for made in CASES])
    assert len(search(gallery, OLD, bytes(8), 12, is_one_per_patient=True)) == 1


@pytest.mark.parametrize("is_tail", [False, True])
@pytest.mark.parametrize("is_damaged", [False, True])
def test_gallery_of_format_3_opens_without_its_detail_codes(path: Path, is_tail: bool, is_damaged: bool) -> None:
    gallery = Gallery.open(path, SECRET)
    gallery.sync_cases(CASES)
    codes = coded(gallery.missing(OLD))
    gallery.add_codes(OLD, codes)
    gallery.activate(OLD)
    if is_tail:
        gallery.add_codes(OLD, codes)  # newer than those in segments
    before = search(gallery, OLD, bytes(8), 12)
    gallery.close()
    to_format_3(path)
    if is_damaged:
        spoil(path, "UPDATE segments SET checksum = checksum + 1")
        spoil(path, "UPDATE tail SET checksum = checksum + 1")
    for _ in range(2):  # the second time it is of format 4
        opened = Gallery.open(path, SECRET)
        assert search(opened, OLD, bytes(8), 12) == ([] if is_damaged else before)
        assert len(opened.missing(OLD)) == (12 if is_damaged else 0)
        opened.close()


def to_format_3(path: Path) -> None:
    """Give a gallery's file detail codes of 4 bytes, as format 3 had them, and their checksums."""
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        for table, column in (("segments", "details"), ("tail", "detail")):
            database.execute(f"ALTER TABLE {table} ADD COLUMN {column} BLOB NOT NULL DEFAULT x''")
        database.execute("ALTER TABLE models ADD COLUMN detail_bytes INTEGER NOT NULL DEFAULT 4")
        for number, codes, ids in database.execute("SELECT number, codes, ids FROM segments").fetchall():
            details = bytes(range(len(ids)))
            row = (details, zlib.crc32(codes + ids + details), number)
            database.execute("UPDATE segments SET details = ?, checksum = ? WHERE number = ?", row)
        for case_id, code in database.execute("SELECT case_id, code FROM tail").fetchall():
            row = (b"\0\xff\0\1", zlib.crc32(code + b"\0\xff\0\1", case_id), case_id)
            database.execute("UPDATE tail SET detail = ?, checksum = ? WHERE case_id = ?", row)
        database.execute("PRAGMA user_version = 3")


# --- forgetting


def test_forgotten_patient_is_in_no_answer_and_no_page(path: Path) -> None:
    cases = [*CASES, case(30, image="images/unmistakable.png", patient="Wanda")]
    gallery = Gallery.open(path, SECRET)
    gallery.sync_cases(cases)
    secret_code = b"no case."
    codes = [CaseCode(one.id, secret_code if "unm" in one.image else bytes(8)) for one in gallery.missing(OLD)]
    gallery.add_codes(OLD, codes)
    gallery.activate(OLD)
    (found,) = search(gallery, OLD, secret_code, 1)
    assert gallery.forget("Wanda", NOW).images == ["images/unmistakable.png"]
    for _ in range(2):
        assert found.token not in {hit.token for hit in search(gallery, OLD, secret_code, 20)}
        assert gallery.sync_cases(cases) == SyncCounts(0, 0, 0, 12, forgotten=1)
        assert gallery.missing(OLD) == []
        assert gallery.forgotten(["Wanda", "TCGA-1"]) == {"Wanda"}
        assert gallery.forget("Wanda", NOW).images == []
        gallery.close()
        held = b"".join(file.read_bytes() for file in path.parent.iterdir())
        assert secret_code not in held
        assert b"unmistakable" not in held
        gallery = Gallery.open(path, SECRET)
    assert len(search(gallery, OLD, bytes(8), 20)) == 12
    gallery.close()


# --- damage


@pytest.mark.parametrize("column", ["codes", "ids"])
@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_a_damaged_segment_is_named_and_its_cases_are_encoded_again(path: Path, column: str, harm: str) -> None:
    gallery = Gallery.open(path, SECRET)
    fill(gallery, OLD)
    before = search(gallery, OLD, bytes([5] * 8), 12)
    gallery.close()
    change = f"substr({column}, 1, 3) || char(1) || substr({column}, 5)" if harm == "flip" else f"substr({column}, 2)"
    spoil(path, f"UPDATE segments SET {column} = CAST({change} AS BLOB)")
    gallery = Gallery.open(path, SECRET)
    assert gallery.stats()["damaged"] == ["segment 0 (12 cases)"]
    assert search(gallery, OLD, bytes([5] * 8), 12) == []
    gallery.add_codes(OLD, coded(gallery.missing(OLD)))
    assert search(gallery, OLD, bytes([5] * 8), 12) == before
    assert gallery.stats()["damaged"] == []
    gallery.close()


def test_verifying_finds_what_was_damaged_since_the_start(path: Path, gallery: Gallery) -> None:
    fill(gallery, OLD)
    assert gallery.verify() == {"cases": 12, "codes": 12, "segments": 1, "damaged": []}
    gallery._database.execute("UPDATE segments SET checksum = checksum + 1")
    gallery._database.execute("UPDATE facts SET data = zeroblob(length(data)), checksum = checksum + 1")
    found = gallery.verify()
    assert found["damaged"] == ["facts 0 (rebuilt)", "segment 0 (12 cases)"]
    assert found["codes"] == 0
    fill(gallery, OLD)
    assert gallery.verify()["damaged"] == []


@pytest.mark.parametrize("model_id", [OLD, NEW], ids=["in use", "being encoded"])
@pytest.mark.parametrize("change", ["code = zeroblob(8)", "code = x'00'", "case_id = 100"])
def test_a_damaged_code_that_is_in_no_segment_is_encoded_again_too(path: Path, change: str, model_id: str) -> None:
    gallery = Gallery.open(path, SECRET)
    fill(gallery, OLD)
    gallery.sync_cases([*CASES, case(20), case(21)])
    gallery.add_codes(OLD, coded(gallery.missing(OLD)))
    before = search(gallery, OLD, bytes([5] * 8), 14)
    gallery.add_codes(NEW, coded(gallery.missing(NEW)))
    gallery.close()
    spoil(path, f"UPDATE tail SET {change} WHERE case_id = 14 AND model = {[OLD, NEW].index(model_id) + 1}")
    gallery = Gallery.open(path, SECRET)
    assert gallery.stats()["damaged"] == (["tail (1 cases)"] if model_id == OLD else [])
    assert gallery.missing(model_id) == [MissingCase(14, "images/21.png")]
    gallery.add_codes(model_id, coded(gallery.missing(model_id)))
    assert search(gallery, OLD, bytes([5] * 8), 14) == before
    assert gallery.verify()["damaged"] == []
    gallery.activate(NEW)
    assert gallery.verify()["codes"] == 14
    gallery.close()


def flip_a_bit(folder: Path, held: bytes) -> int:
    """Count how often the gallery's files hold some bytes."""
    flipped = 0
    for file in folder.iterdir():
        with file.open("r+b") as opened:
            data, place = opened.read(), -1
            while (place := data.find(held, place + 1)) >= 0:
                opened.seek(place)
                opened.write(bytes([held[0] ^ 1]))
                flipped += 1
    return flipped


def test_verifying_reads_the_disk_and_not_what_is_in_memory_of_it(path: Path, gallery: Gallery) -> None:
    fill(gallery, OLD)
    assert flip_a_bit(path.parent, bytes([3] * 8 + [4] * 8)) > 0
    assert gallery.verify()["damaged"] == ["segment 0 (12 cases)"]


def test_damage_is_named_until_no_case_lacks_a_code(path: Path) -> None:
    gallery = Gallery.open(path, SECRET)
    fill(gallery, OLD)
    for mended_by in (lambda: gallery.sync_cases([]), lambda: fill(gallery, NEW)):
        gallery.compact()
        gallery._database.execute("UPDATE segments SET checksum = checksum + 1")
        assert len(gallery.verify()["damaged"]) == 1
        mended_by()
        assert gallery.stats()["damaged"] == []
        fill(gallery, OLD)
    gallery.close()


def test_facts_that_are_damaged_are_made_anew_from_the_rows(path: Path) -> None:
    gallery = Gallery.open(path, SECRET)
    fill(gallery, OLD)
    before = search(gallery, OLD, bytes([5] * 8), 12, is_one_per_patient=True)
    gallery.close()
    spoil(path, "UPDATE facts SET data = zeroblob(length(data))")
    for damaged in (["facts 0 (rebuilt)"], []):
        gallery = Gallery.open(path, SECRET)
        assert gallery.stats()["damaged"] == damaged
        assert search(gallery, OLD, bytes([5] * 8), 12, is_one_per_patient=True) == before
        gallery.sync_cases(CASES)
        assert gallery.stats()["damaged"] == []
        gallery.close()


def test_neither_gallery_nor_index_loads_torch() -> None:
    code = "import sys, ynet_client.gallery.gallery, ynet_client.retrieval.picture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
