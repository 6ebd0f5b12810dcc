"""Face detection and alignment."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from osasis.images.faces import cut_square, find_faces
from osasis.images.geometry import SquarePlacement
from tests.conftest import SHARED

PORTRAITS = SHARED / "data" / "portraits" / "val"
needs_portraits = pytest.mark.skipif(
    not PORTRAITS.is_dir(), reason="no ../shared/data/portraits/val"
)


def test_no_face_in_a_landscape() -> None:
    coarse = np.random.RandomState(0).randint(0, 256, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC)
    assert find_faces(picture) == []


def test_cut_square_inverts_a_placement() -> None:
    """A picture drawn with a rotation and a scale is cut out upright."""
    pixels = np.random.RandomState(1).randint(0, 256, (4, 4, 3), dtype=np.uint8)
    want = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
    angle = np.deg2rad(20)
    photo = Image.new("RGB", (300, 300))
    half = 60.0
    ux, uy = np.cos(angle) / half, np.sin(angle) / half
    at = SquarePlacement(ux, uy, -150 * (ux + uy), -uy, ux, -150 * (ux - uy))
    y, x = np.mgrid[0:300, 0:300] + 0.5
    u = at.ux * x + at.uy * y + at.u0
    v = at.vx * x + at.vy * y + at.v0
    inside = (abs(u) < 1) & (abs(v) < 1)
    canvas = np.array(photo)
    columns = ((u + 1) / 2 * 64).astype(int).clip(0, 63)
    rows = ((v + 1) / 2 * 64).astype(int).clip(0, 63)
    canvas[inside] = np.asarray(want)[rows[inside], columns[inside]]
    got = np.asarray(cut_square(Image.fromarray(canvas), at, 64), int)[4:-4, 4:-4]
    assert np.abs(got - np.asarray(want, int)[4:-4, 4:-4]).mean() < 6


@needs_portraits
@pytest.mark.parametrize("angle", [-35, 30])
def test_a_turned_face_is_found_where_no_face_is_upright(angle: int) -> None:
    found = 0
    for file in sorted(PORTRAITS.glob("*.jpg"))[:6]:
        portrait = Image.open(file).convert("RGBA").resize((240, 240), Image.Resampling.LANCZOS)
        turned = portrait.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        wall = portrait.convert("RGB").resize((1, 1)).getpixel((0, 0))
        scene = Image.new("RGB", (480, 400), wall)
        scene.paste(turned, (240 - turned.width // 2, 200 - turned.height // 2), turned)
        places = find_faces(scene)
        assert len(places) <= 1
        for place in places:
            inverse = np.linalg.inv([[place.ux, place.uy], [place.vx, place.vy]])
            away = np.hypot(*(inverse @ np.array([-place.u0, -place.v0]) - [240, 200]))
            turn = np.degrees(np.arctan2(place.uy, place.ux))
            # Now and then the detector takes a part of a turned face for an upright one.
            found += bool(away < 0.1 * 240 and abs(turn + angle) < 10)
    assert found >= 4


@needs_portraits
def test_faces_of_a_group_have_the_squares_of_their_portraits() -> None:
    """Portraits are scaled and pasted into a scene."""
    files = sorted(PORTRAITS.glob("*.jpg"))[:4]
    portraits = [Image.open(f).convert("RGB") for f in files]
    scene = Image.new("RGB", (1500, 600), (120, 130, 110))
    spots = [(40, 100, 400), (500, 160, 300), (900, 60, 480)]
    for portrait, (x, y, side) in zip(portraits, spots, strict=False):
        scene.paste(portrait.resize((side, side), Image.Resampling.LANCZOS), (x, y))
    places = find_faces(scene)
    assert len(places) == 3
    for place, (x, y, side) in zip(places, spots, strict=True):
        left, top, right, bottom = place.bounds(*scene.size)
        assert abs((left + right) / 2 - (x + side / 2)) < 0.06 * side
        assert abs((top + bottom) / 2 - (y + side / 2)) < 0.06 * side
        assert 0.85 < (right - left) / side < 1.2
