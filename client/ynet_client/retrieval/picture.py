"""Draw a query and its answers as one picture: own cases as thumbnails, other sites' cases as cards."""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ynet.search.hit import Hit
from ynet_client.retrieval.overlay import GROUND, LESION, REGION_COLOURS, Colour, Mask, Pixels, outlined

PANEL, EDGE = (27, 32, 39), (52, 60, 71)
BRIGHT, PLAIN, DIM = (240, 243, 247), (197, 204, 214), (137, 147, 161)
OWN, WARNING = (84, 190, 178), (255, 150, 92)
SITE_COLOURS: tuple[Colour, ...] = (
    (110, 168, 254),
    (199, 146, 234),
    (240, 128, 158),
    (146, 204, 110),
    (228, 168, 92),
    (104, 204, 232),
)

MARGIN, GAP, GUTTER = 32, 14, 30
QUERY_SIDE = 400
TILE_SIDE, COLUMNS = 150, 5
CAPTION_HEIGHT = 64
CARD_HEIGHT = 132
TITLE_HEIGHT, HEADING_HEIGHT, LINE = 74, 34, 22
GRID_WIDTH = COLUMNS * TILE_SIDE + (COLUMNS - 1) * GAP
WIDTH = MARGIN + QUERY_SIDE + GUTTER + GRID_WIDTH + MARGIN


@dataclass(frozen=True)
class QueryImage:
    """The image of the query."""

    pixels: Pixels  # (1 or 3, height, width), 0 to 1
    mask: Mask  # (height, width), 1 where the network predicts the lesion; bit k: the region k
    name: str = ""
    regions: Sequence[str] = ()  # names, where there are several


@dataclass(frozen=True)
class Tile:
    """A hit among the asking site's own cases, with its image."""

    pixels: Pixels  # (1 or 3, height, width), 0 to 1
    hit: Hit
    mask: Mask | None = None  # (height, width), as annotated; bit k: the region k


@dataclass(frozen=True)
class PictureHits:
    """The hits and remarks that are drawn next to the query's image."""

    own: Sequence[Tile]
    others: Sequence[Hit]
    no_answer: Mapping[str, str] = field(default_factory=dict)  # site: why, or empty
    remarks: Sequence[str] = ()  # lines below the hits


def draw(site: str, query: QueryImage, drawing: PictureHits, code_bits: int) -> Image.Image:
    """Draw the picture: RGB, 1300 pixels wide, as high as the hits need."""
    own_height = _section_height(len(drawing.own), TILE_SIDE + CAPTION_HEIGHT)
    others_height = _section_height(len(drawing.others), CARD_HEIGHT)
    lines = [*drawing.remarks, *([_no_answer(drawing.no_answer)] if drawing.no_answer else [])]
    footer = GAP + len(lines) * LINE if lines else 0
    right = own_height + GAP + others_height
    left = HEADING_HEIGHT + QUERY_SIDE + (2 + max(1, len(query.regions))) * LINE + GAP
    canvas = _Canvas(WIDTH, TITLE_HEIGHT + max(left, right) + footer + MARGIN)
    _draw_title(canvas, site, drawing, code_bits)
    _draw_query(canvas, MARGIN, TITLE_HEIGHT, query)
    x = MARGIN + QUERY_SIDE + GUTTER
    _draw_own(canvas, x, TITLE_HEIGHT, site, drawing.own)
    _draw_others(canvas, x, TITLE_HEIGHT + own_height + GAP, drawing)
    for number, line in enumerate(reversed(lines), start=1):
        canvas.text(MARGIN, canvas.height - MARGIN - number * LINE, line, 15, WARNING, WIDTH - 2 * MARGIN)
    return canvas.image


def _draw_title(canvas: "_Canvas", site: str, drawing: PictureHits, code_bits: int) -> None:
    sites = len({hit.site for hit in drawing.others})
    own, others = len(drawing.own), len(drawing.others)
    canvas.text(MARGIN, 18, "Cases like this one", 24, BRIGHT, bold=True)
    where = f"{own} here, {others} at {sites} other {'site' if sites == 1 else 'sites'}"
    scale = f"distance in bits of {code_bits}, 0 is nearest"
    hits = [*(tile.hit for tile in drawing.own), *drawing.others]
    ranks = "  ·  small numbers: rank over all sites" if any(hit.rank for hit in hits) else ""
    canvas.text(MARGIN, 48, f"Asked by site {site}  ·  {where}  ·  {scale}{ranks}", 14, DIM, WIDTH - 2 * MARGIN)


def _draw_query(canvas: "_Canvas", x: int, y: int, query: QueryImage) -> None:
    canvas.text(x, y + 6, "Query", 16, LESION, bold=True)
    y += HEADING_HEIGHT
    picture = outlined(shown(query.pixels, QUERY_SIDE), query.mask, fill=0.16, line=2.0)
    canvas.picture(x, y, QUERY_SIDE, picture)
    y += QUERY_SIDE + 10
    canvas.text(x, y, query.name, 15, PLAIN, QUERY_SIDE)
    y += LINE if query.name else 0
    share = float(np.mean(query.mask != 0))
    if query.regions:
        _draw_legend(canvas, x, y, query)
    elif share:
        canvas.panel(x, y + 3, 14, 12, LESION, radius=3)
        canvas.text(x + 22, y, f"predicted lesion, {100 * share:.2g} % of the image", 14, DIM, QUERY_SIDE - 22)
    else:
        canvas.text(x, y, "no lesion predicted", 14, DIM, QUERY_SIDE)


def _draw_legend(canvas: "_Canvas", x: int, y: int, query: QueryImage) -> None:
    """Draw each region's colour, name and share of the image."""
    for place, name in enumerate(query.regions):
        share = float(np.mean(query.mask >> place & 1))
        canvas.panel(x, y + 3, 14, 12, REGION_COLOURS[place], radius=3)
        text = f"predicted {name}, {100 * share:.2g} % of the image" if share else f"no {name} predicted"
        canvas.text(x + 22, y, text, 14, DIM, QUERY_SIDE - 22)
        y += LINE


def _draw_own(canvas: "_Canvas", x: int, y: int, site: str, tiles: Sequence[Tile]) -> None:
    is_outlined = any(tile.mask is not None for tile in tiles)
    remark = "lesions outlined as annotated  ·  images stay here" if is_outlined else "images stay here"
    canvas.heading(x, y, f"Site {site}: own cases", OWN, remark)
    if not tiles:
        canvas.note(x, y + HEADING_HEIGHT, "None of the nearest cases is here.")
    for position, tile in enumerate(tiles):
        left, top = _cell(x, y + HEADING_HEIGHT, position, TILE_SIDE + CAPTION_HEIGHT)
        picture = shown(tile.pixels, TILE_SIDE)
        canvas.picture(left, top, TILE_SIDE, picture if tile.mask is None else outlined(picture, tile.mask, 0.0, 1.4))
        if tile.hit.rank is not None:
            canvas.badge(left + 6, top + 6, str(tile.hit.rank))
        _draw_label(canvas, left, top + TILE_SIDE + 8, TILE_SIDE, tile.hit)
        canvas.text(left, top + TILE_SIDE + 30, _nearness(tile.hit), 13, PLAIN, TILE_SIDE)


def _draw_others(canvas: "_Canvas", x: int, y: int, drawing: PictureHits) -> None:
    canvas.heading(x, y, "Other sites", PLAIN, "codes only: no image leaves a hospital")
    if not drawing.others:
        canvas.note(x, y + HEADING_HEIGHT, "None of the nearest cases is at another site that answered.")
    sites = sorted({hit.site for hit in drawing.others})
    for position, hit in enumerate(drawing.others):
        left, top = _cell(x, y + HEADING_HEIGHT, position, CARD_HEIGHT)
        _draw_card(canvas, left, top, hit, SITE_COLOURS[sites.index(hit.site) % len(SITE_COLOURS)])


def _draw_card(canvas: "_Canvas", x: int, y: int, hit: Hit, colour: Colour) -> None:
    inside, height = TILE_SIDE - 24, CARD_HEIGHT - GAP
    canvas.panel(x, y, TILE_SIDE, height, colour)
    canvas.panel(x, y + 3, TILE_SIDE, height - 3, PANEL)
    rank = "" if hit.rank is None else str(hit.rank)
    room = inside - canvas.width_of(rank, 13) - 6
    name = hit.site if canvas.width_of(f"Site {hit.site}", 15) > room else f"Site {hit.site}"
    canvas.text(x + 12, y + 12, name, 15, colour, room, bold=True)
    canvas.text(x + TILE_SIDE - 12 - canvas.width_of(rank, 13), y + 14, rank, 13, DIM)
    _draw_label(canvas, x + 12, y + 37, inside, hit)
    canvas.text(x + 12, y + 62, _nearness(hit), 13, PLAIN, inside)
    canvas.text(x + 12, y + 86, f"case {hit.token.hex()[:10]}…", 12, DIM, inside)


def _draw_label(canvas: "_Canvas", x: int, y: int, width: int, hit: Hit) -> None:
    canvas.text(x, y, hit.label_words, 16, BRIGHT if hit.label else DIM, width)


def _no_answer(no_answer: Mapping[str, str]) -> str:
    return "No answer: " + ", ".join(f"{site} ({why})" if why else site for site, why in no_answer.items())


def _nearness(hit: Hit) -> str:
    bits = "1 bit" if hit.distance == 1 else f"{hit.distance} bits"
    ties = str(hit.ties) if hit.ties < 10_000 else f"{hit.ties // 1000}k"
    return f"{bits}  ·  {ties} tied" if hit.ties > 1 else bits


def _section_height(hits: int, cell_height: int) -> int:
    rows = -(-hits // COLUMNS)
    return HEADING_HEIGHT + (rows * cell_height if rows else 60)


def _cell(x: int, y: int, position: int, cell_height: int) -> tuple[int, int]:
    row, column = divmod(position, COLUMNS)
    return x + column * (TILE_SIDE + GAP), y + row * cell_height


def shown(pixels: Pixels, side: int) -> Image.Image:
    """Scale an image to fit a square of `side`; grey is windowed to its own range, colour is unchanged."""
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise ValueError(f"pixels of shape {pixels.shape} are no image")
    if pixels.shape[0] == 1:
        low, high = np.percentile(pixels, (0.5, 99.5))
        pixels = (pixels - low) / (high - low) if high - low > 1e-4 else pixels
    values = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    image = Image.fromarray(values[0]) if len(values) == 1 else Image.fromarray(values.transpose(1, 2, 0).copy())
    scale = side / max(image.size)
    size = tuple(max(1, round(length * scale)) for length in image.size)
    return image.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)


class _Canvas:
    """The image that is drawn, and its shapes."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), GROUND)
        self.height = height
        self._draw = ImageDraw.Draw(self.image)

    def text(
        self, x: int, y: int, text: str, size: int, colour: Colour, width: int | None = None, bold: bool = False
    ) -> None:
        """Draw one line, cut with an ellipsis at `width` pixels. The font has no bold: bold is a thicker stroke."""
        shown = _drawable(text) if width is None else _cut(_drawable(text), size, width)
        self._draw.text((x, y), shown, colour, _font(size), stroke_width=0.35 if bold else 0)

    def width_of(self, text: str, size: int) -> int:
        """Return the width of one line, in pixels."""
        return round(_font(size).getlength(_drawable(text)))

    def heading(self, x: int, y: int, text: str, colour: Colour, remark: str) -> None:
        """Draw the head of a section, with a remark at its right end."""
        end = x + GRID_WIDTH - self.width_of(remark, 13)
        self.text(x, y + 6, text, 16, colour, end - x - GAP, bold=True)
        self.text(end, y + 9, remark, 13, DIM)

    def note(self, x: int, y: int, text: str) -> None:
        """Draw a sentence in place of hits."""
        self.panel(x, y, GRID_WIDTH, 46, PANEL)
        self.text(x + 16, y + 14, text, 14, DIM)

    def panel(self, x: int, y: int, width: int, height: int, colour: Colour, radius: int = 6) -> None:
        """Draw a filled rectangle with round corners."""
        self.image.paste(colour, (x, y), _rounded(width, height, radius))

    def badge(self, x: int, y: int, text: str) -> None:
        """Draw a short text on a dark patch."""
        width = self.width_of(text, 13) + 12
        self.panel(x, y, width, 20, GROUND)
        self.text(x + 6, y + 3, text, 13, BRIGHT)

    def picture(self, x: int, y: int, side: int, picture: Image.Image) -> None:
        """Draw an image in the middle of a square with an edge."""
        square = Image.new("RGB", (side, side), (0, 0, 0))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        self.panel(x - 1, y - 1, side + 2, side + 2, EDGE, radius=7)
        self.image.paste(square, (x, y), _rounded(side, side, 6))


def _cut(text: str, size: int, width: int) -> str:
    """Return `text`, or its beginning with an ellipsis, within `width` pixels."""
    if _font(size).getlength(text) <= width:
        return text
    kept = len(text) - 1
    while kept and _font(size).getlength(text[:kept].rstrip() + "…") > width:
        kept -= 1
    return text[:kept].rstrip() + "…"


def _drawable(text: str) -> str:
    """Return `text` in the characters of Pillow's own font: without accents, other characters as question marks."""
    plain = "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))
    return "".join(char if " " <= char <= "~" or char in "·…" else "?" for char in plain)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # noqa: S101 (Pillow's wheels have FreeType)
    return font


@cache
def _rounded(width: int, height: int, radius: int) -> Image.Image:
    """Return the opacity of a rectangle with smooth round corners."""
    large = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(large).rounded_rectangle((0, 0, 4 * width - 1, 4 * height - 1), 4 * radius, fill=255)
    return large.resize((width, height), Image.Resampling.BOX)
