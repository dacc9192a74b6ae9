"""The workbench's parts: image view, recent answers, history, answer view, names of downloads."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ynet.data.mask_files import read_regions
from ynet.data.regions import packed, unpacked, with_inner
from ynet.errors import UserError
from ynet.search.hit import Hit
from ynet.web.accounts import Accounts
from ynet_client import settings
from ynet_client.control_routes import query_of
from ynet_client.gallery.filters import Filters
from ynet_client.retrieval.merging import Result
from ynet_client.retrieval.overlay import REGION_COLOURS
from ynet_client.retrieval.own_search import OwnSearch
from ynet_client.retrieval.query import Query
from ynet_client.retrieval.wire import SiteOutcome
from ynet_client.workbench import answer_view
from ynet_client.workbench import history as histories
from ynet_client.workbench.history import History
from ynet_client.workbench.image_view import MOST_SIDE, ImageView, drawn, show, thumbnail
from ynet_client.workbench.recent_answers import MOST, MOST_OF_ONE, RecentAnswers
from ynet_client.workbench.routes import attachment

PASSWORD = "a lamp, a river and 7 stones"


def pixels(channels: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).random((channels, height, width), np.float32)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(40, 60), (3000, 1500), (1, 7)])
def test_shown_mask_fits_image_and_file_mask_is_full_size(channels: int, height: int, width: int) -> None:
    mask = np.zeros((height, width), np.uint8)
    mask[: max(1, height // 2)] = 1
    shown = show(pixels(channels, height, width), mask)
    assert max(shown.width, shown.height) <= MOST_SIDE
    assert len(shown.mask) == shown.width * shown.height
    assert len(shown.pixels) == shown.width * shown.height * (2 if channels == 1 else 3)
    with Image.open(io.BytesIO(shown.mask_png)) as file:
        assert np.array_equal(np.asarray(file), 255 * mask)
    assert 0 <= shown.low < shown.high <= 1
    assert shown.share == pytest.approx(mask.mean())
    assert max(drawn(shown, 0, 1, 100).size) == 100
    with Image.open(io.BytesIO(thumbnail(shown))) as small:
        assert max(small.size) <= 96


def test_sixteen_bits_are_kept() -> None:
    grey = np.array([[[0, 1 / 65535, 2 / 65535, 1]]], np.float32)
    shown = show(grey, np.zeros((1, 4), np.uint8))
    assert np.frombuffer(shown.pixels, "<u2").tolist() == [0, 1, 2, 65535]


def test_image_without_contrast_or_lesion_is_shown() -> None:
    shown = show(np.full((1, 8, 8), 0.5, np.float32), np.zeros((8, 8), np.uint8))
    assert (shown.low, shown.high, shown.share) == (0.0, 1.0, 0.0)


def nothing() -> ImageView:
    return show(pixels(1, 4, 4), np.zeros((4, 4), np.uint8))


def test_recent_answers_are_bounded_and_per_account() -> None:
    answers, shown = RecentAnswers(), nothing()
    kept = [answers.keep("anna", "a.png", 0.0, shown, {}) for _ in range(MOST_OF_ONE + 1)]
    with pytest.raises(UserError):
        answers.find(kept[0].id, "anna")
    assert answers.find(kept[-1].id, "anna") is kept[-1]
    with pytest.raises(UserError):
        answers.find(kept[-1].id, "bert")
    for number in range(MOST):
        answers.keep(f"user {number}", "a.png", 0.0, shown, {})
    with pytest.raises(UserError):
        answers.find(kept[-1].id, "anna")


def test_history_is_bounded_and_per_account(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("anna", 0.0, "old.png", "", b"jpeg", {})
    for number in range(histories.MOST_OF_ONE + 5):
        history.add("anna", histories.LONGEST_S + 1 + number, f"{number}.png", "", b"jpeg", {"k": 1})
    history.add("bert", histories.LONGEST_S + 1, "b.png", "images/b.png", b"jpeg", {})
    listed = history.listed("anna")
    assert len(listed) == histories.MOST_OF_ONE
    assert listed[0]["name"] == f"{histories.MOST_OF_ONE + 4}.png"
    assert history.delete("bert", listed[0]["id"]) == 0
    assert history.thumbnail("bert", listed[0]["id"]) == b""
    assert history.thumbnail("anna", listed[0]["id"]) == b"jpeg"
    assert history.delete("anna") == histories.MOST_OF_ONE
    assert len(history.listed("bert")) == 1
    history.close()


def test_history_keeps_no_thumbnail_of_own_case(tmp_path: Path) -> None:
    history = History(tmp_path)
    history.add("anna", 1.0, "a.png", "images/a.png", b"jpeg", {})
    (entry,) = history.listed("anna")
    assert (entry["has_thumbnail"], history.thumbnail("anna", entry["id"])) == (False, b"")
    history.close()


def test_history_forgets_patients_and_removed_accounts(tmp_path: Path) -> None:
    history = History(tmp_path)
    accounts = Accounts(tmp_path)
    for name in ("anna", "bert"):
        accounts.add(name, "radiologist", PASSWORD, 5.0)
        history.add(name, 10.0, "a.png", "images/a.png", b"", {})
        history.add(name, 10.0, "b.png", "", b"jpeg", {})
    history.forget([])
    history.forget(["images/a.png", "images/c.png"])
    assert [[one["name"] for one in history.listed(name)] for name in ("anna", "bert")] == [["b.png"], ["b.png"]]
    accounts.set_password("anna", PASSWORD + "!")
    accounts.remove("bert")
    accounts.add("bert", "radiologist", PASSWORD, 20.0)
    history.tidy(accounts.all())
    assert [len(history.listed(name)) for name in ("anna", "bert")] == [1, 0]
    accounts.remove("anna")
    history.tidy(accounts.all())
    assert history.listed("anna") == []
    history.close()


def test_recent_answers_forget_patient() -> None:
    answers, shown = RecentAnswers(), nothing()
    hits = [{"image": "a.png"}, {"image": "b.png"}]
    gone = answers.keep("anna", "a.png", 0.0, shown, {"own": hits}, case="a.png")
    left = answers.keep("anna", "x.png", 0.0, shown, {"own": hits})
    answers.forget(["a.png"])
    with pytest.raises(UserError):
        answers.find(gone.id, "anna")
    assert answers.find(left.id, "anna").answer["own"] == [{"image": "b.png"}]


OWN = OwnSearch("a" * 64, None, [], bytes(8))  # type: ignore[arg-type]  # of no image
KINDS = ("found", "empty", "suppressed", "refused", "other_model", "late", "missing", "busy", "unreadable")


def test_each_outcome_has_its_own_words() -> None:
    outcomes = {kind: SiteOutcome(kind, "the quota of today is spent") for kind in KINDS}
    result = Result("A", OWN, [], {"A": []}, outcomes)
    words = {one["kind"]: one["words"] for one in answer_view.outcomes(result)}
    assert set(words) == set(KINDS)
    assert len(set(words.values())) == len(KINDS)


def test_spread_counts_labels_by_site_own_first() -> None:
    hits = [Hit(0, bytes([n] * 16), label, 1) for n, label in enumerate(["x", "y", "x", None, ""])]
    spread = answer_view.spread(Result("B", OWN, [], {"A": hits[:1], "B": hits}, {}))
    assert [(one["site"], one["is_own"], one["total"]) for one in spread] == [("B", True, 5), ("A", False, 1)]
    assert dict(spread[0]["labels"]) == {"x": 2, "y": 1, None: 1, "": 1}


def test_report_names_every_filter() -> None:
    filters = Filters(("G2",), "test", (("grade", "high"),), "2020-01-01", "2021-01-01")
    said = " ".join(answer_view.asked(Query(7, filters, 3, True, ("B",))))
    for word in ("7", "G2", "test", "grade is high", "2020-01-01", "2021-01-01", "3 bits", "patient once", "B only"):
        assert word in said


@pytest.mark.parametrize(
    "asked", ['{"epsilon": 0}', '{"epsilon": "0.0"}', '{"epsilon": "x"}', '{"k": "x"}', "", '{"radius": "x"}', "[]"]
)
def test_query_with_invalid_noise_or_bounds_is_refused(asked: str) -> None:
    with pytest.raises(UserError):
        query_of({"query": asked})
    assert query_of({"query": '{"k": "5", "epsilon": null, "radius": null}'}) == Query(5)


@pytest.mark.parametrize(
    "name", ['a"; x=".html', "a\r\nset-cookie: b", "../../etc/passwd", "ü<script>", "x" * 5000, ""]
)
def test_download_name_cannot_break_header(name: str) -> None:
    header = attachment(name)
    assert header.isascii()
    assert header.isprintable()
    assert header.count('"') == 2
    assert len(header) < 600
    assert "/" not in header


def test_workbench_setting_is_off_by_default_and_remembered(tmp_path: Path) -> None:
    assert not settings.load(tmp_path, None).workbench.enabled
    assert settings.load(tmp_path, None, is_workbench_enabled=True).workbench.enabled
    assert settings.load(tmp_path, None).workbench.enabled
    assert not settings.load(tmp_path, None, is_workbench_enabled=False).workbench.enabled


def test_regions_are_shown_as_bits_with_shares_and_saved_as_numbers(tmp_path: Path) -> None:
    disc, cup = np.zeros((3000, 30), np.uint8), np.zeros((3000, 30), np.uint8)
    disc[:1500], cup[:600] = 1, 1
    shown = show(pixels(1, 3000, 30), packed(np.stack([disc, cup])), ("disc", "cup"))
    assert shown.share == pytest.approx(0.5)
    assert [(one.name, one.share) for one in shown.regions] == [("disc", 0.5), ("cup", 0.2)]
    small = unpacked(np.frombuffer(shown.mask, np.uint8).reshape(shown.height, shown.width), 2)
    assert small.mean((1, 2)) == pytest.approx([0.5, 0.2], abs=0.01)
    (tmp_path / "mask.png").write_bytes(shown.mask_png)
    read = read_regions(tmp_path / "mask.png", ("disc", "cup"), lambda: None)
    np.testing.assert_array_equal(with_inner(np.stack(read)), [disc, cup])


def test_each_region_is_drawn_in_its_colour() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[4:36, 4:36], mask[14:26, 14:26] = 1, 3
    picture = np.asarray(drawn(show(np.zeros((1, 40, 40), np.float32), mask, ("disc", "cup")), 0, 1, 400), int)
    for place, row in ((0, 40), (1, 140)):
        edge = np.abs(picture[row - 12 : row + 12, 200] - REGION_COLOURS[place]).sum(-1)
        assert edge.min() < 40
