"""Trainings of DiffStyler in the factory, and their bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.settings import make_settings
from diffstyler.style import Style
from factory.methods import load_style
from factory.methods.diffstyler.base import DiffStylerBase
from factory.methods.diffstyler.method import DiffStylerMethod
from factory.training.style_worker import CHECKPOINT, StyleTask, StyleWorker
from osasis.errors import UserError
from osasis.images.tensors import from_uint8
from osasis.storage import save_tensors
from tests.diffstyler.tiny_base import FEW
from tests.tiny import picture

SETTINGS = make_settings("default", **FEW)


def task(place: Path, name: str, **changes: Any) -> StyleTask:
    picture(100, (48, 40)).save(place / "oil.png")
    settings = SETTINGS.replace(checkpoint_every=2, **changes)
    return StyleTask("oil", place / "oil.png", None, "print", settings, place / name, tags=("x",))


@pytest.fixture
def worker(folder: Path, base: DiffStylerBase, tmp_path: Path) -> StyleWorker:
    assert base.held_out is not None
    save_tensors(tmp_path / "previews.safetensors", {"photos": from_uint8(base.held_out)})
    return StyleWorker(base, from_uint8(base.held_out))


def test_an_interrupted_training_resumes_bit_for_bit(worker: StyleWorker, tmp_path: Path) -> None:
    seen: list[int] = []

    def note(iteration: int, of: int, losses: dict[str, float]) -> None:
        seen.append(iteration)

    def interrupt(iteration: int, of: int, losses: dict[str, float]) -> None:
        if iteration == 3:
            raise KeyboardInterrupt

    changes = {"crop": True, "flip": True}
    worker.train(task(tmp_path, "whole", **changes), note)
    killed = task(tmp_path, "killed", **changes)
    with pytest.raises(KeyboardInterrupt):
        worker.train(killed, interrupt)
    assert {p.name for p in killed.folder.iterdir()} == {CHECKPOINT}
    worker.train(killed, note)
    assert seen == [1, 2, 3, 4, 3, 4]
    for name in ("style/style.safetensors", "style/style.png", "previews/00.png"):
        whole = (tmp_path / "whole" / name).read_bytes()
        assert (killed.folder / name).read_bytes() == whole, name
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("whole", "killed")]
    assert results[0]["history"] == results[1]["history"]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert set(results[0]["metrics"]) == set(DiffStylerMethod.metrics)


def test_a_bundle_names_its_method_and_keeps_the_image(
    worker: StyleWorker, base: DiffStylerBase, tmp_path: Path
) -> None:
    trained = task(tmp_path, "work", content="a deer")
    worker.train(trained, lambda *now: None)
    bundle = trained.folder / "style"
    style = load_style(bundle, base)
    assert isinstance(style, Style)
    assert (style.prompt, style.id) == ("painting of <sss>, a deer", "oil")
    assert style.info["method"] == "diffstyler"
    assert style.info["base"] == base.fingerprint
    # The longer side keeps its proportion: 48 x 40 pixels with a shorter side of 32.
    assert Image.open(bundle / "style.png").size == (40, 32)
    assert not (bundle / "counterpart.png").exists()
    assert all(t.dtype == torch.float16 for t in style.tensors())
    # Without the base, for checks of a bundle whose base is elsewhere.
    for a, b in zip(style.tensors(), load_style(bundle).tensors(), strict=True):
        assert torch.equal(a, b)
    (bundle / "style.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"its SHA-256 differs from style\.json"):
        load_style(bundle, base)
