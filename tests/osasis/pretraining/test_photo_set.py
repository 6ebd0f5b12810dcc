"""Training photos: what a batch holds depends on the seed and the iteration alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from osasis.errors import UserError
from osasis.pretraining.photo_set import PhotoSet, read_photo_set


def numbered(count: int) -> PhotoSet:
    """Photos whose pixels are their number, with a mark on the left."""
    photos = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()
    photos[:, :, :, 0] += 100
    return PhotoSet(photos)


def numbers(batch: torch.Tensor) -> list[int]:
    pixels = ((batch + 1) * 127.5).round()
    return [int(min(p[0, 0, 0], p[0, 0, -1])) for p in pixels]


def test_an_epoch_holds_every_photo_once() -> None:
    photos = numbered(10)
    seen = [n for i in range(5) for n in numbers(photos.batch(3, i, 4))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_batches_repeat_and_differ_by_seed_and_iteration() -> None:
    photos = numbered(10)
    assert torch.equal(photos.batch(0, 7, 4), photos.batch(0, 7, 4))
    assert not torch.equal(photos.batch(0, 7, 4), photos.batch(1, 7, 4))
    assert not torch.equal(photos.batch(0, 7, 4), photos.batch(0, 8, 4))


def test_about_half_are_mirrored() -> None:
    photos = numbered(20)
    marks = torch.cat([photos.batch(0, i, 20)[:, 0, 0, 0] for i in range(20)])
    share = float((marks > -0.5).float().mean())
    assert 0.4 < share < 0.6


def test_broken_files_are_left_out_and_named(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    said: list[str] = []
    photos = read_photo_set(tmp_path, 16, said.append)
    assert tuple(photos.photos.shape) == (1, 3, 16, 16)
    assert photos.photos[0, :, 0, 0].tolist() == [200, 0, 0]
    assert len(photos.errors) == 1 and "b.png" in photos.errors[0] and "b.png" in said[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="none of its pictures can be read"):
        read_photo_set(tmp_path, 16)


def test_the_stamp_tells_photos_apart() -> None:
    photos = numbered(4)
    assert photos.fingerprint() == numbered(4).fingerprint()
    assert photos.fingerprint() != PhotoSet(photos.photos.flip(0)).fingerprint()
