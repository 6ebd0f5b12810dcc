"""Training photos: reading, epochs, mirroring, and deterministic batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from osasis.errors import UserError
from osasis.images.photo_set import PhotoSet, read_photo_set


def numbered(count: int) -> PhotoSet:
    """Photos whose pixels are their index, 100 more in the left column."""
    photos = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()
    photos[:, :, :, 0] += 100
    return PhotoSet(photos)


def numbers(batch: torch.Tensor) -> list[int]:
    pixels = ((batch + 1) * 127.5).round()
    return [int(min(p[0, 0, 0], p[0, 0, -1])) for p in pixels]


def test_an_epoch_contains_every_photo_once() -> None:
    photos = numbered(10)
    seen = [n for i in range(5) for n in numbers(photos.batch(3, i, 4))]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_batches_are_deterministic_by_seed_and_iteration() -> None:
    photos = numbered(10)
    assert torch.equal(photos.batch(0, 7, 4), photos.batch(0, 7, 4))
    assert not torch.equal(photos.batch(0, 7, 4), photos.batch(1, 7, 4))
    assert not torch.equal(photos.batch(0, 7, 4), photos.batch(0, 8, 4))


def test_about_half_are_mirrored() -> None:
    photos = numbered(20)
    marks = torch.cat([photos.batch(0, i, 20)[:, 0, 0, 0] for i in range(20)])
    share = float((marks > -0.5).float().mean())
    assert 0.4 < share < 0.6


def test_unreadable_files_are_skipped_and_reported(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), (200, 0, 0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"not a picture")
    lines: list[str] = []
    photos = read_photo_set(tmp_path, 16, lines.append)
    assert tuple(photos.photos.shape) == (1, 3, 16, 16)
    assert photos.photos[0, :, 0, 0].tolist() == [200, 0, 0]
    assert len(photos.errors) == 1 and "b.png" in photos.errors[0] and "b.png" in lines[0]
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="no image can be read"):
        read_photo_set(tmp_path, 16)


def test_the_fingerprint_depends_on_photos_and_order() -> None:
    photos = numbered(4)
    assert photos.fingerprint() == numbered(4).fingerprint()
    assert photos.fingerprint() != PhotoSet(photos.photos.flip(0)).fingerprint()
