"""A gallery on a real file: what it holds, what it answers, what it refuses, and what a kill leaves."""

import hashlib
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ynet.errors import RefusedError, UserError
from ynet_client.gallery import Gallery, GalleryCase, SyncCounts

SECRET = b"of this site"
OLD, NEW = "a" * 64, "b" * 64


def case(number: int, **changes: object) -> GalleryCase:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    label, split = ("frontal", "temporal")[number % 2], ("train", "train", "test")[number % 3]
    made = GalleryCase(f"images/{number}.png", digest, label, f"TCGA-{number // 2}", split, {"grade": "G2"})
    return replace(made, **changes)


CASES = [case(number) for number in range(12)]


def fill(gallery: Gallery, model_id: str, cases: list[GalleryCase] = CASES) -> None:
    """Each case coded by its number, under a model that is then in use."""
    gallery.sync_cases(cases)
    gallery.add_codes(model_id, [(case_id, code_of(image)) for case_id, image in gallery.missing(model_id)])
    gallery.activate(model_id)


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


def images(gallery: Gallery, hits: list) -> set[str]:
    return {gallery.case_of(hit.token).image for hit in hits}


def test_what_was_put_in_is_found_again_after_the_file_was_closed(path: Path) -> None:
    first = Gallery.open(path, SECRET)
    fill(first, OLD)
    found = first.search(OLD, bytes([5] * 8), 3)
    first.close()
    again = Gallery.open(path, SECRET)
    assert again.active_model == OLD
    assert again.search(OLD, bytes([5] * 8), 3) == found
    row = again.case_of(found[0].token)
    assert (row.image, row.label, row.split, row.sha256) == ("images/5.png", "temporal", "test", CASES[5].sha256)
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
    (first,) = gallery.search(OLD, bytes([4] * 8), 1)
    gallery.sync_cases([replace(CASES[4], label="other"), *CASES[5:]])
    assert gallery.search(OLD, bytes([4] * 8), 1) == [first._replace(label="other")]
    gallery.sync_cases(CASES[5:])
    assert "images/4.png" not in images(gallery, gallery.search(OLD, bytes([4] * 8), 12))
    with pytest.raises(UserError, match="no case here has this token"):
        gallery.case_of(first.token)


def test_a_changed_image_file_is_encoded_anew_under_another_token(gallery: Gallery) -> None:
    fill(gallery, OLD)
    (before,) = gallery.search(OLD, bytes([4] * 8), 1)
    cases = [case(4, sha256="00" * 32) if made is CASES[4] else made for made in CASES]
    assert gallery.sync_cases(cases).changed == 1
    assert [image for _, image in gallery.missing(OLD)] == ["images/4.png"]
    assert before.token not in {hit.token for hit in gallery.search(OLD, bytes([4] * 8), 12)}
    fill(gallery, OLD, cases)
    (after,) = gallery.search(OLD, bytes([4] * 8), 1)
    assert after.distance == 0
    assert after.token != before.token


def test_a_row_that_stands_twice_counts_once_unless_it_contradicts_itself(gallery: Gallery) -> None:
    assert gallery.sync_cases([*CASES, CASES[0]]).added == 12
    with pytest.raises(UserError, match="stands in it twice"):
        gallery.sync_cases([*CASES, replace(CASES[0], label="other")])
    assert gallery.stats()["cases"] == 12


def test_two_images_with_the_same_content_are_two_cases(gallery: Gallery) -> None:
    fill(gallery, OLD, [CASES[1], case(1, image="copies/1.png")])
    assert images(gallery, gallery.search(OLD, bytes([1] * 8), 5)) == {"images/1.png", "copies/1.png"}
    assert gallery.search(OLD, bytes([1] * 8), 5, exclude_sha256=CASES[1].sha256) == []


def test_a_query_can_be_kept_to_one_split_and_from_its_own_file(gallery: Gallery) -> None:
    fill(gallery, OLD)
    of_test = gallery.search(OLD, bytes([5] * 8), 12, split="test")
    assert images(gallery, of_test) == {made.image for made in CASES if made.split == "test"}
    without = gallery.search(OLD, bytes([5] * 8), 12, split="test", exclude_sha256=CASES[5].sha256)
    assert images(gallery, of_test) - images(gallery, without) == {"images/5.png"}
    assert gallery.search(OLD, bytes([5] * 8), 12, split="validation") == []


def test_a_query_before_there_is_a_model_is_refused(gallery: Gallery) -> None:
    gallery.sync_cases(CASES)
    with pytest.raises(RefusedError, match="it has no model"):
        gallery.search(OLD, bytes(8), 3)


def test_the_old_model_answers_until_the_switch_and_is_refused_after_it(gallery: Gallery) -> None:
    fill(gallery, OLD)
    (before,) = gallery.search(OLD, bytes([5] * 8), 1)
    gallery.add_codes(NEW, [(case_id, bytes(16)) for case_id, _ in gallery.missing(NEW)])
    assert gallery.search(OLD, bytes([5] * 8), 1) == [before]
    with pytest.raises(RefusedError, match="the query is of model bbbb"):
        gallery.search(NEW, bytes(16), 1)
    gallery.activate(NEW)
    assert gallery.active_model == NEW
    assert gallery.search(NEW, bytes(16), 1)[0].ties == 12
    with pytest.raises(RefusedError, match="the query is of model aaaa"):
        gallery.search(OLD, bytes([5] * 8), 1)


def test_a_half_encoded_model_cannot_be_switched_to(gallery: Gallery) -> None:
    fill(gallery, OLD)
    gallery.add_codes(NEW, [(case_id, bytes(8)) for case_id, _ in gallery.missing(NEW)[:7]])
    with pytest.raises(RefusedError, match="5 cases have no code under it"):
        gallery.activate(NEW)
    assert gallery.active_model == OLD


def test_tokens_rotate_with_the_model_and_the_last_ones_still_name_their_cases(gallery: Gallery) -> None:
    tokens = {}
    for model_id in (OLD, NEW, "c" * 64):
        fill(gallery, model_id)
        tokens[model_id] = {
            gallery.case_of(hit.token).image: hit.token for hit in gallery.search(model_id, bytes(8), 12)
        }
    assert len({token for of_model in tokens.values() for token in of_model.values()}) == 36
    assert gallery.case_of(tokens[NEW]["images/5.png"]).image == "images/5.png"
    with pytest.raises(UserError, match="of an older model"):
        gallery.case_of(tokens[OLD]["images/5.png"])


def test_a_gallery_built_anew_gives_each_case_its_old_token(path: Path, gallery: Gallery) -> None:
    fill(gallery, OLD)
    anew = Gallery.open(path.with_name("anew.sqlite"), SECRET)
    fill(anew, OLD, CASES[::-1])
    assert anew.search(OLD, bytes(8), 12) == gallery.search(OLD, bytes(8), 12)
    for hit in gallery.search(OLD, bytes(8), 12):
        assert anew.case_of(hit.token) == gallery.case_of(hit.token)
    anew.close()


def test_a_model_can_come_back(gallery: Gallery) -> None:
    for model_id in (OLD, NEW, OLD, OLD):
        fill(gallery, model_id)
        assert gallery.active_model == model_id


def test_no_patient_stands_in_the_file(path: Path, gallery: Gallery) -> None:
    fill(gallery, OLD)
    gallery.close()
    assert not any(b"TCGA-" in file.read_bytes() for file in path.parent.iterdir())


def test_two_sites_give_one_patient_two_pseudonyms(path: Path) -> None:
    pseudonyms = []
    for secret in (SECRET, b"of another site"):
        gallery = Gallery.open(path.with_name(secret.hex()), secret)
        fill(gallery, OLD)
        pseudonyms.append({gallery.case_of(hit.token).patient for hit in gallery.search(OLD, bytes(8), 12)})
        gallery.close()
    assert [len(of_site) for of_site in pseudonyms] == [6, 6]
    assert not pseudonyms[0] & pseudonyms[1]


def test_all_codes_can_be_read_for_evaluation(gallery: Gallery) -> None:
    fill(gallery, OLD)
    codes, labels = gallery.codes(OLD, "test")
    assert [(bytes(code), label) for code, label in zip(codes, labels, strict=True)] == [
        (code_of(made.image), made.label) for made in CASES if made.split == "test"
    ]
    assert len(gallery.codes(OLD).codes) == 12
    assert len(gallery.codes(NEW).codes) == 0


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
    }


def test_a_code_for_a_case_that_went_meanwhile_is_passed_over(gallery: Gallery) -> None:
    gallery.sync_cases(CASES)
    missing = gallery.missing(OLD)
    gallery.sync_cases(CASES[1:])
    assert gallery.add_codes(OLD, [(case_id, code_of(image)) for case_id, image in missing]) == 11


def test_codes_of_two_widths_under_one_model_are_not_kept(gallery: Gallery) -> None:
    gallery.sync_cases(CASES)
    (first, _), (second, _), *_ = gallery.missing(OLD)
    gallery.add_codes(OLD, [(first, bytes(8))])
    with pytest.raises(ValueError, match="codes of"):
        gallery.add_codes(OLD, [(second, bytes(16))])
    with pytest.raises(ValueError, match="codes of"):
        gallery.add_codes(NEW, [(first, bytes(5))])
    assert len(gallery.missing(OLD)) == 11


def test_a_query_of_another_width_is_refused(gallery: Gallery) -> None:
    fill(gallery, OLD)
    with pytest.raises(UserError, match="the gallery's have 64"):
        gallery.search(OLD, bytes(16), 3)


def test_a_gallery_without_cases_answers_with_no_hit(gallery: Gallery) -> None:
    fill(gallery, OLD, [])
    assert gallery.search(OLD, bytes(8), 3) == []


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
    spoil(path, "PRAGMA user_version = 2")
    with pytest.raises(UserError, match="its format has the number 2"):
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
        Gallery.open(path, b"lost and made anew")


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
    assert gallery.search(OLD, bytes([5] * 8), 1)[0].distance == 0
    gallery.close()


def test_threads_may_search_while_another_writes(gallery: Gallery) -> None:
    fill(gallery, OLD)
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(60):
                hits = gallery.search(OLD, bytes([5] * 8), 12)
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


WRITER = """
import sys
from pathlib import Path
from ynet_client.gallery import Gallery, GalleryCase
gallery = Gallery.open(Path(sys.argv[1]), b"of this site")
cases = []
for turn in range(100000):
    cases += [GalleryCase(f"{turn}-{i}.png", "00" * 32, "frontal", "p", "train") for i in range(5)]
    gallery.sync_cases(cases)
    missing = gallery.missing("a" * 64)
    gallery.add_codes("a" * 64, [(case_id, bytes(8)) for case_id, _ in missing])
    print(len(cases), flush=True)
"""


@pytest.mark.parametrize("lines", [1, 12, 40])
def test_a_kill_while_writing_loses_nothing_acknowledged(path: Path, lines: int) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    seen = [int(writer.stdout.readline()) for _ in range(lines)]
    writer.send_signal(signal.SIGKILL)
    acknowledged = [*seen, *(int(line) for line in writer.stdout.read().split())][-1]
    writer.wait()
    writer.stdout.close()
    gallery = Gallery.open(path, SECRET)
    held, coded = gallery.stats()["cases"], len(gallery.codes(OLD).codes)
    assert (held, coded) in {  # the turn that was cut off: not begun, cases in, or codes in too
        (acknowledged, acknowledged),
        (acknowledged + 5, acknowledged),
        (acknowledged + 5, acknowledged + 5),
    }
    gallery.close()


def test_neither_gallery_nor_index_loads_torch() -> None:
    code = "import sys, ynet_client.gallery, ynet_client.picture; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
