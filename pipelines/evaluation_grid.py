"""The picture of an evaluation: photos, style images and results side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from osasis.images.decoding import png_bytes

# Least side of a shown picture, and most photos per style.
SIDE, MAX_PHOTOS = 128, 4
GAP, TEXT = 4, 14


def chosen_photos(count: int) -> list[int]:
    """Indices of the photos that are shown, spread over all."""
    shown = min(count, MAX_PHOTOS)
    return [i * count // shown for i in range(shown)]


def grid_of(
    columns: Sequence[str],
    rows: Sequence[Sequence[Image.Image | None]],
    captions: Mapping[int, str],
) -> bytes:
    """A PNG of rows of pictures with the columns' names above. captions: above rows, by index.

    A missing picture is an empty place.
    """
    first = next(p for row in rows for p in row if p is not None)
    side = first.width * max(1, -(-SIDE // first.width))
    font = ImageFont.load_default(TEXT)
    line = TEXT + 2 * GAP
    # NAME=VALUE takes two lines, so that neighbours do not overlap.
    titles = [name.replace("=", "=\n") for name in columns]
    header = line + TEXT * any("\n" in title for title in titles)
    height = header + sum(side + GAP + (line if i in captions else 0) for i in range(len(rows)))
    sheet = Image.new("RGB", (len(columns) * (side + GAP) + GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    for k, title in enumerate(titles):
        draw.text((GAP + k * (side + GAP), GAP), title, "black", font, spacing=0)
    y = header
    for i, row in enumerate(rows):
        if i in captions:
            draw.text((GAP, y + GAP), captions[i], "black", font)
            y += line
        for k, picture in enumerate(row):
            if picture is not None:
                scaled = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
                sheet.paste(scaled, (GAP + k * (side + GAP), y))
        y += side + GAP
    return png_bytes(sheet)
