"""Fitting images to squares, and conversion to tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osasis.errors import UserError
from osasis.images.geometry import fit_square
from osasis.images.tensors import image_to_tensor, load_square, tensor_to_image
from tests.osasis.images.odd_pictures import (
    NOISE,
    encode,
)


def test_crop_takes_the_middle_unblurred() -> None:
    image = Image.fromarray(NOISE)
    np.testing.assert_array_equal(np.asarray(fit_square(image, 24)), NOISE[:, 8:32])
    odd = np.asarray(fit_square(Image.fromarray(NOISE[:, :39]), 24))
    np.testing.assert_array_equal(odd, NOISE[:, 7:31])
    tall = np.asarray(fit_square(Image.fromarray(NOISE.transpose(1, 0, 2).copy()), 24, "crop"))
    np.testing.assert_array_equal(tall, NOISE.transpose(1, 0, 2)[8:32])


def test_downsampling_averages() -> None:
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    got = np.asarray(fit_square(Image.fromarray(np.stack([checks] * 3, -1)), 32))
    assert np.abs(got.astype(int) - 127).max() <= 2


def test_pad_repeats_the_edge() -> None:
    got = np.asarray(fit_square(Image.fromarray(NOISE), 40, "pad"))
    np.testing.assert_array_equal(got[8:32], NOISE)
    np.testing.assert_array_equal(got[:8], np.broadcast_to(NOISE[0], (8, 40, 3)))
    np.testing.assert_array_equal(got[32:], np.broadcast_to(NOISE[-1], (8, 40, 3)))


def test_resize_keeps_the_whole_picture() -> None:
    halves = np.zeros((32, 64, 3), np.uint8)
    halves[:, 32:] = 255
    got = np.asarray(fit_square(Image.fromarray(halves), 16, "resize"))
    assert got.shape == (16, 16, 3)
    assert got[:, :6].max() < 30
    assert got[:, 10:].min() > 225


def test_masks_stay_grey_and_other_modes_become_rgb() -> None:
    mask = Image.new("L", (30, 20), 90)
    for fit in ("crop", "pad", "resize"):
        got = fit_square(mask, 10, fit)
        assert (got.mode, got.size, got.getextrema()) == ("L", (10, 10), (90, 90))
    assert fit_square(Image.new("RGBA", (30, 20)), 10, "pad").mode == "RGB"


def test_unknown_fit_and_size() -> None:
    image = Image.fromarray(NOISE)
    with pytest.raises(UserError) as caught:
        fit_square(image, 8, "cropp")
    assert "fit is 'cropp' (nearest: crop)" in str(caught.value)
    with pytest.raises(UserError) as caught:
        fit_square(image, 8, "zzz")
    assert "nearest" not in str(caught.value) and "crop, pad, resize" in str(caught.value)
    with pytest.raises(UserError, match=r"^size is 0; "):
        fit_square(image, 0)


def test_all_values_round_trip_through_a_tensor() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T.reshape(8, 32)], -1))
    tensor = image_to_tensor(image)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 8, 32))
    assert (tensor.min().item(), tensor.max().item()) == (-1.0, 1.0)
    assert tensor[0, 0, 1].item() == pytest.approx(1 / 127.5 - 1)
    np.testing.assert_array_equal(np.asarray(tensor_to_image(tensor)), np.asarray(image))


def test_tensor_to_image_clamps_and_rounds_to_nearest() -> None:
    values = torch.tensor([-9.0, -1.0, 0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 1.0, float("inf")])
    got = tensor_to_image(values.expand(3, 1, 6).requires_grad_())
    assert np.asarray(got)[0, :, 0].tolist() == [0, 0, 1, 0, 255, 255]
    half = torch.full((3, 8, 8), 1.0, dtype=torch.bfloat16)
    assert np.asarray(tensor_to_image(half)).min() == 255


def test_tensor_to_image_refuses_other_shapes_and_nan() -> None:
    with pytest.raises(ValueError, match=r"is \(3, H, W\), not \(1, 3, 8, 8\)"):
        tensor_to_image(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="NaN"):
        tensor_to_image(torch.full((3, 8, 8), float("nan")))


def test_load_square(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(NOISE, "PNG"))
    got = load_square(path, 24)
    want = torch.from_numpy(NOISE[:, 8:32].transpose(2, 0, 1) / np.float32(127.5) - 1)
    torch.testing.assert_close(got, want)
