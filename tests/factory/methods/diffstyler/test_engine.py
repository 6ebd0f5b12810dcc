"""One engine for styles of DiffStyler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.style import Style, save_style
from factory.methods import load_style
from factory.methods.diffstyler.base import DiffStylerBase
from factory.registry import StyleVersion
from osasis.images.decoding import png_bytes
from osasis.images.tensors import tensor_to_image
from osasis.mix import Mix
from osasis.validation import InvalidInputError
from serving.engine import Engine, ImageTask
from tests.diffstyler.tiny_sd import SIZE, half_mask
from tests.diffstyler.tiny_sd import picture as smooth


@pytest.fixture
def bundle(base: DiffStylerBase, styles: dict[str, Style], tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        save_style(tmp_path / name, styles[name], smooth(3))
        return tmp_path / name

    return write


def version(name: str, folder: Path) -> StyleVersion:
    return StyleVersion(name, 1, name, "", "", str(folder), (), 0, {}, "", Path())


def test_an_engine_holds_100_adapters_in_bounded_memory(
    base: DiffStylerBase, bundle: Callable[[str], Path]
) -> None:
    budget = 10 * load_style(bundle("a"), base).nbytes
    engine = Engine(base, styles_host=budget)
    photo = png_bytes(tensor_to_image(smooth(1)))
    folder = bundle("a")
    results = [
        engine.submit(
            ImageTask(photo, Mix.of(f"s{i}", decode_steps=1), {f"s{i}": version(f"s{i}", folder)})
        ).result(60)
        for i in range(100)
    ]
    assert (engine.styles.loads, len(engine.styles.host)) == (100, 10)
    assert engine.styles.host.bytes <= budget
    # One photo was encoded once, and its pictures in equal adapters are equal.
    assert engine.encoded == 1
    assert all((r.image == results[0].image).all() for r in results)


def test_an_engine_mixes_two_styles_with_masks(
    base: DiffStylerBase, bundle: Callable[[str], Path]
) -> None:
    engine = Engine(base)
    photo = smooth(1)
    mix = Mix.parse({"styles": [{"style": "a", "mask": "left"}, {"style": "b", "mask": "left"}]})
    task = ImageTask(
        png_bytes(tensor_to_image(photo)),
        mix,
        {name: version(name, bundle(name)) for name in "ab"},
        {"left": png_bytes(Image.fromarray(half_mask("left").numpy()))},
    )
    done = engine.submit(task).result(60)
    original = torch.from_numpy(done.image).permute(2, 0, 1)[..., SIZE // 2 :]
    # Outside of the mask lies the photo.
    expected = ((photo + 1) * 127.5).round().to(torch.uint8)[..., SIZE // 2 :]
    assert torch.equal(original, expected)
    refused = engine.submit(replace(task, mix=mix.replace(encode_steps=5)))
    with pytest.raises(InvalidInputError, match="encode_steps is 5"):
        refused.result(60)


def test_photos_of_any_shape_share_an_engine(
    base: DiffStylerBase, bundle: Callable[[str], Path]
) -> None:
    shapes = [(SIZE, SIZE), (SIZE, SIZE + 24), (SIZE + 24, SIZE)]
    tasks = [
        ImageTask(
            png_bytes(tensor_to_image(smooth(seed, height, width))),
            Mix.of("a"),
            {"a": version("a", bundle("a"))},
        )
        for seed, (height, width) in enumerate(shapes)
    ]
    alone = [Engine(base).submit(task).result(60).image for task in tasks]
    assert [image.shape[:2] for image in alone] == shapes
    engine = Engine(base, batch=3, batch_wait=5, pass_size=4)
    together = [future.result(60) for future in [engine.submit(task) for task in tasks]]
    for image, result in zip(alone, together, strict=True):
        assert abs(image.astype(int) - result.image).max() <= 1
    assert engine.batches == 3
