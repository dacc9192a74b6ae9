"""The picture of a query, for images, names and numbers of hits of any size."""

import io

import numpy as np
import pytest
from PIL import Image

from ynet.search.hit import Hit
from ynet_client.retrieval import picture
from ynet_client.retrieval.overlay import REGION_COLOURS
from ynet_client.retrieval.picture import PictureHits, QueryImage, Tile, draw

SIZES = [(96, 96), (300, 40), (40, 300), (1, 1), (1, 700), (1500, 1100)]
LONG = "hospital-of-saint-someone-in-the-fields-beyond-the-river-and-wood"


def grey(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((1, height, width), np.float32)


def disc(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return (np.hypot(x, y) < 0.5).astype(np.uint8)


def own(rank: int, label: str | None = "frontal") -> Tile:
    hit = Hit(rank // 2, bytes([rank] * 16), label, 3, site="A", rank=rank)
    return Tile(grey(50, 60, rank), hit, disc(50, 60))


def other(rank: int, site: str = "B", label: str | None = "frontal") -> Hit:
    return Hit(rank // 2, bytes([rank] * 16), label, 131, site=site, rank=rank)


QUERY = QueryImage(np.full((1, 64, 64), 0.4, np.float32), disc(64, 64), "case.png")
SOME = PictureHits([own(1), own(3)], [other(2), other(4, "C")])


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def coloured(image: Image.Image, colour: tuple[int, int, int]) -> np.ndarray:
    return (np.abs(pixels(image) - colour) < 40).all(axis=-1)


def query_part(image: Image.Image) -> Image.Image:
    left, top = picture.MARGIN, picture.TITLE_HEIGHT + picture.HEADING_HEIGHT
    return image.crop((left, top, left + picture.QUERY_SIDE, top + picture.QUERY_SIDE))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_any_size_and_colour_are_drawn(height: int, width: int, channels: int) -> None:
    image = np.repeat(grey(height, width), channels, axis=0)
    mask = np.ones((height, width), np.uint8)
    drawn = draw(
        "A", QueryImage(image, mask), PictureHits([Tile(image, Hit(0, bytes(16), "frontal", 1, rank=1), mask)], []), 64
    )
    assert (drawn.mode, drawn.width) == ("RGB", picture.WIDTH)


@pytest.mark.parametrize("hits", [0, 1, 5, 6, 20, 100])
def test_picture_has_room_for_every_hit(hits: int) -> None:
    drawn = draw(
        "A", QUERY, PictureHits([own(i % 250) for i in range(hits)], [other(i % 250) for i in range(hits)]), 64
    )
    rows = -(-hits // picture.COLUMNS)
    assert drawn.height >= rows * (picture.TILE_SIDE + picture.CAPTION_HEIGHT + picture.CARD_HEIGHT)
    assert_margins_are_empty(drawn)


def assert_margins_are_empty(drawn: Image.Image) -> None:
    inner = picture.MARGIN - 2
    for box in ((0, 0, inner, drawn.height), (drawn.width - inner, 0, drawn.width, drawn.height)):
        assert drawn.crop(box).getcolors() == [(inner * drawn.height, picture.GROUND)]
    last = drawn.crop((0, drawn.height - 8, drawn.width, drawn.height))
    assert last.getcolors() == [(8 * drawn.width, picture.GROUND)]


def test_long_names_are_cut_to_their_cells() -> None:
    drawing = PictureHits(
        [own(rank, LONG) for rank in range(1, 6)],
        [other(rank, LONG + str(rank), LONG) for rank in range(96, 106)],
        {LONG + str(number): LONG for number in range(9)},
    )
    drawn = draw(LONG, QueryImage(QUERY.pixels, QUERY.mask, LONG * 3), drawing, 256)
    assert_margins_are_empty(drawn)
    left = picture.MARGIN + picture.QUERY_SIDE + picture.GUTTER
    below = picture.TITLE_HEIGHT + picture.HEADING_HEIGHT - 2, drawn.height - picture.MARGIN - picture.LINE - 4
    for column in range(picture.COLUMNS - 1):
        start = left + (column + 1) * picture.TILE_SIDE + column * picture.GAP + 3
        gutter = drawn.crop((start, below[0], start + picture.GAP - 6, below[1]))
        heading = picture.TITLE_HEIGHT + 2 * picture.HEADING_HEIGHT
        lit = (pixels(gutter) != picture.GROUND).any(axis=(1, 2)).sum()
        assert lit <= heading  # nothing but the second heading crosses a gutter


def test_predicted_mask_is_outlined() -> None:
    drawn = query_part(draw("A", QUERY, SOME, 64))
    y, x = np.nonzero(coloured(drawn, picture.LESION))
    from_centre = np.hypot(x - picture.QUERY_SIDE / 2, y - picture.QUERY_SIDE / 2)
    assert len(x) > 300
    assert np.abs(from_centre - picture.QUERY_SIDE / 4).max() < 8
    centre = pixels(drawn)[picture.QUERY_SIDE // 2, picture.QUERY_SIDE // 2]
    assert centre[0] > centre[2] + 10  # the lesion's inside is tinted


def test_an_image_without_a_predicted_lesion_has_no_outline() -> None:
    drawn = query_part(draw("A", QueryImage(QUERY.pixels, 0 * QUERY.mask), SOME, 64))
    assert not coloured(drawn, picture.LESION).any()


def test_lesion_of_one_pixel_is_visible() -> None:
    mask = np.zeros((3000, 3000), np.uint8)
    mask[1500, 700] = 1
    drawn = query_part(draw("A", QueryImage(np.zeros((1, 3000, 3000), np.float32), mask), SOME, 64))
    y, x = np.nonzero(coloured(drawn, picture.LESION))
    assert len(x)
    assert abs(x.mean() - 700 / 7.5) < 4
    assert abs(y.mean() - 1500 / 7.5) < 4


def test_dark_grey_image_is_windowed_to_its_range() -> None:
    dark = QueryImage(QUERY.pixels * 0 + grey(64, 64) * 0.02 + 0.01, QUERY.mask)
    bright = QueryImage(grey(64, 64), QUERY.mask)
    shown = [pixels(query_part(draw("A", query, SOME, 64))) for query in (dark, bright)]
    assert np.abs(shown[0] - shown[1]).max() <= 2


def test_colours_are_unchanged() -> None:
    red = np.zeros((3, 30, 30), np.float32)
    red[0] = 0.6
    drawn = query_part(draw("A", QueryImage(red, np.zeros((30, 30), np.uint8)), SOME, 64))
    assert drawn.getpixel((200, 200)) == (153, 0, 0)


def test_silent_sites_are_named_at_the_bottom() -> None:
    without = draw("A", QUERY, SOME, 64)
    drawing = PictureHits(SOME.own, SOME.others, {"D": "not connected", "E": ""})
    named = draw("A", QUERY, drawing, 64)
    unchanged = without.height - picture.MARGIN
    above = (0, 0, named.width, unchanged)
    assert named.crop(above).tobytes() == without.crop(above).tobytes()
    footer = named.crop((0, unchanged, named.width, named.height))
    assert coloured(footer, picture.WARNING).any()
    assert_margins_are_empty(named)


def test_card_of_other_site_depends_on_its_hit_only() -> None:
    first, second = (draw("A", QUERY, PictureHits([], [other(2)]), 64) for _ in range(2))
    assert first.tobytes() == second.tobytes()
    for change in (other(2, "C"), other(2, "B", None), other(4), Hit(1, bytes(16), "frontal", 131, site="B", rank=2)):
        assert draw("A", QUERY, PictureHits([], [change]), 64).tobytes() != first.tobytes()


def test_characters_missing_in_font_are_replaced() -> None:
    assert picture._drawable("Médiathèque · Ω…") == "Mediatheque · ?…"


def test_saved_picture_is_unchanged() -> None:
    drawn, buffer = draw("A", QUERY, SOME, 64), io.BytesIO()
    drawn.save(buffer, "PNG")
    assert Image.open(buffer).tobytes() == drawn.tobytes()


def test_pixels_of_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="no image"):
        draw("A", QueryImage(np.zeros((64, 64, 3), np.float32), QUERY.mask), SOME, 64)


def test_each_remark_has_its_own_line() -> None:
    remarks = ["Suppressed, the group is too small: B", "Refused: C (the quota of today is spent)", "x" * 500]
    plain, remarked = draw("A", QUERY, SOME, 64), draw("A", QUERY, PictureHits(SOME.own, SOME.others, {}, remarks), 64)
    assert remarked.height == plain.height + picture.GAP + len(remarks) * picture.LINE
    rows = coloured(remarked, picture.WARNING).any(axis=1)[plain.height - picture.MARGIN :]
    assert np.count_nonzero(np.diff(rows.astype(int)) == 1) >= len(remarks)


def test_legend_names_each_region_and_its_colour_is_in_the_picture() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[8:56, 8:56], mask[24:40, 24:40] = 1, 3
    one, several = (
        draw("A", QueryImage(QUERY.pixels, mask, "x.png", names), SOME, 64) for names in ((), ("disc", "cup"))
    )
    assert coloured(query_part(several), REGION_COLOURS[1]).any()
    assert_margins_are_empty(several)
    assert several.height >= one.height
