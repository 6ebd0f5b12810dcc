from __future__ import annotations

import pytest
from PIL import Image

from diffstyler.images import resize
from diffstyler.settings import (
    SAMPLE_PRESETS,
    TRAIN_PRESETS,
    LayerSettings,
    make_sample_settings,
    make_train_settings,
)
from osasis.errors import ImageError
from osasis.images.geometry import working_size
from osasis.validation import InvalidInputError


def test_presets() -> None:
    for preset in TRAIN_PRESETS:
        make_train_settings(preset)
    for preset in SAMPLE_PRESETS:
        make_sample_settings(preset)
    reference = make_train_settings("reference")
    assert (reference.steps, reference.lr, reference.rank) == (200, 2e-4, 16)


def test_an_unknown_preset() -> None:
    with pytest.raises(InvalidInputError, match=r"'referenc' \(nearest: reference\)"):
        make_sample_settings("referenc")


def test_windows_count_steps_or_shares() -> None:
    published = make_sample_settings("reference", decode_steps=20, encode_steps=20)
    assert [published.window(w) for w in (25.0, 12.0)] == [20, 12]
    shares = make_sample_settings(decode_steps=20, encode_steps=20)
    assert [shares.window(w) for w in (0.5, 0.6, 1.0, 2.0)] == [10, 12, 20, 20]


def test_resolutions_are_multiples_of_8() -> None:
    with pytest.raises(InvalidInputError, match="resolution is 100: a multiple of 8 is needed"):
        make_train_settings(resolution=100)


def test_multiples_are_1_or_of_8() -> None:
    for make in (make_train_settings, make_sample_settings):
        assert make(multiple=16).multiple == 16
        with pytest.raises(InvalidInputError, match="multiple is 12: a multiple of 8 is needed"):
            make(multiple=12)


def test_cut_sides_need_the_base_outside() -> None:
    assert make_sample_settings("reference").multiple == 1
    with pytest.raises(InvalidInputError) as error:
        make_sample_settings("reference", outside="photo")
    assert "multiple is 1, but with outside photo the photo and its picture" in str(error.value)
    assert "it must be 8 or a multiple of it, unless outside is base" in str(error.value)


def test_inversion_visits_the_timesteps_of_denoising() -> None:
    make_sample_settings(encode_steps=100, decode_steps=50)
    with pytest.raises(InvalidInputError) as error:
        make_sample_settings(encode_steps=20, decode_steps=50, attention_window=25.0)
    message = str(error.value)
    assert "encode_steps is 20, but inversion must visit all timesteps of 50 decode_step" in message
    assert "it must be 50 or 999" in message
    assert "attention_window is 25 with window_unit share; it must be a number in [0, 1]" in message


def test_a_layer_ends_after_its_start() -> None:
    with pytest.raises(InvalidInputError, match=r"end is 0\.2; it must be a number above 0\.5"):
        LayerSettings.parse({"start": 0.5, "end": 0.2})


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [
        ((160, 200), 1, (128, 160)),
        ((303, 200), 1, (193, 128)),
        ((303, 200), 8, (192, 128)),
        ((200, 309), 8, (128, 200)),
        ((10, 10), 8, (128, 128)),
    ],
)
def test_working_sizes(size: tuple[int, int], multiple: int, expected: tuple[int, int]) -> None:
    assert working_size(size, 128, multiple) == expected
    assert resize(Image.new("L", size), 128, multiple).size == expected


def test_a_strip_is_refused() -> None:
    with pytest.raises(ImageError, match=r"a\.png: it has 1x4000 pixels; the longer side may"):
        resize(Image.new("RGB", (1, 4000)), 512, 8, "a.png")
