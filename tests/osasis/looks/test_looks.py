"""Procedural looks: every look at several sizes and seeds, look datasets, command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from osasis.errors import UserError
from osasis.images.tensors import from_uint8, load_square, tensor_to_image, to_uint8
from osasis.looks import LOOKS, paint
from osasis.looks.__main__ import main
from osasis.looks.dataset import make_look_dataset

Images = Callable[..., Tensor]


def test_number_of_looks() -> None:
    assert len(LOOKS) >= 14


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_changes_the_photo_and_depends_on_the_seed(look: str, images: Images) -> None:
    photo = images(1, size=64)[0]
    before = photo.clone()
    picture = paint(photo, look, seed=3)
    assert torch.equal(photo, before)
    assert picture.shape == photo.shape and picture.dtype == torch.float32
    assert picture.isfinite().all() and picture.min() >= -1 and picture.max() <= 1
    assert torch.equal(picture, paint(photo, look, seed=3))
    assert (picture - photo).abs().mean() > 0.03, "the photo is unchanged"
    assert picture.std() > 0.05, "the picture is flat"
    assert (picture - paint(photo, look, seed=4)).abs().mean() > 0.01, "the seed has no effect"


@pytest.mark.parametrize("size", [(16, 16), (48, 80), (160, 130)])
def test_any_size(size: tuple[int, int]) -> None:
    photo = torch.rand(3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for look in LOOKS:
        assert paint(photo, look, 1).shape == (3, *size), look


def test_flat_photos_give_finite_pictures() -> None:
    for value in (-1.0, 0.0, 1.0):
        for look in LOOKS:
            assert paint(torch.full((3, 32, 32), value), look, 1).isfinite().all(), look


def test_looks_do_not_depend_on_the_image_size(images: Images) -> None:
    """A large painting, scaled down, is close to the painting of the scaled photo."""
    large = torch.nn.functional.interpolate(images(1, size=64), (256, 256), mode="bicubic")
    large = large.clamp(-1, 1)
    small = torch.nn.functional.interpolate(large, (128, 128), mode="area")[0]
    for look in ("ink", "sepia", "posterised", "engraving"):
        a = torch.nn.functional.interpolate(
            paint(large[0], look, 2)[None], (128, 128), mode="area"
        )[0]
        b, other = paint(small, look, 2), paint(small, look, 9)
        assert (a - b).abs().mean() < 0.2 and (a - b).abs().mean() < (other - b).abs().mean() + 0.1


def test_ink_is_black_and_white_and_cyanotype_blue(images: Images) -> None:
    photo = images(1, size=128)[0]
    ink = paint(photo, "ink", 0)
    assert (ink.mean(0).abs() > 0.6).float().mean() > 0.7
    blue = paint(photo, "cyanotype", 0).mean(dim=(1, 2))
    assert blue[2] > blue[0] + 0.1


def test_unknown_looks_name_the_nearest(images: Images) -> None:
    with pytest.raises(UserError, match=r"unknown look 'watercolor' \(nearest: watercolour"):
        paint(images(1)[0], "watercolor", 0)
    with pytest.raises(ValueError, match="sides of 16 or more"):
        paint(torch.zeros(3, 8, 8), "ink", 0)


def test_a_dataset_has_each_look_on_several_photos(images: Images) -> None:
    photos = to_uint8(images(5, size=32))
    pool = make_look_dataset(photos, 4, 3, 16, seed=1)
    assert pool.pictures.shape == (4, 3, 3, 16, 16) and pool.photos.shape == (5, 3, 16, 16)
    assert all(len(set(row)) == 3 for row in pool.photo_index.tolist())
    again = make_look_dataset(photos, 4, 3, 16, seed=1)
    assert torch.equal(pool.pictures, again.pictures) and pool.looks == again.looks
    assert not torch.equal(pool.pictures, make_look_dataset(photos, 4, 3, 16, seed=2).pictures)
    assert from_uint8(pool.pictures).abs().max() <= 1


def test_the_command(images: Images, tmp_path: Path) -> None:
    for i, x in enumerate(images(2)):
        tensor_to_image(x).save(tmp_path / f"{i}.png")
    out = tmp_path / "sheet.png"
    photos = [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    code = main(
        [*photos, "--look", "ink,sepia,neon", "--seed", "1", "--size", "32", "--out", str(out)]
    )
    assert code == 0
    with Image.open(out) as sheet:
        assert sheet.size == (96, 64)
    one = tmp_path / "one.png"
    assert main([photos[0], "--look", "sepia", "--size", "32", "--out", str(one)]) == 0
    expected = paint(load_square(photos[0], 32), "sepia", 0)
    assert (load_square(one, 32) - expected).abs().max() < 0.01


def test_the_command_refuses_invalid_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "absent.png"), "--out", str(tmp_path / "x.png")]) == 2
    assert "no such file" in capsys.readouterr().err
