"""A rehearsal at 256 px: official key layout, random weights, every command once.

The pictures mean nothing; sizes, files and the way through the commands are those of real work.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from osasis.networks.checkpoint_keys import to_official
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import load_config
from osasis.storage import save_tensors
from tests.factory.conftest import cli, sets
from tests.serving.conftest import photo_bytes, pixels, serving
from tests.tiny import make_perceptual_file, picture, random_state

pytestmark = pytest.mark.slow
SIZE = 256
# A few network calls for each part.
QUICK = {
    "iterations": 1, "batch_size": 1, "encode_steps": 4, "decode_steps": 4, "bank_size": 1,
    "counterpart_candidates": 1, "counterpart_steps": 4, "stylize_encode_steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An official-layout checkpoint, LPIPS's VGG and photos, with random weights."""
    folder = tmp_path_factory.mktemp("full-size")
    config = load_config("ffhq256")
    state = to_official(random_state(DiffAE(config), seed=7, gain=0.5))
    stats = {"conds_mean": torch.zeros(512), "conds_std": torch.ones(512)}
    save_tensors(folder / "diffae.safetensors", {k: v.clone() for k, v in state.items()} | stats)
    make_perceptual_file(folder / "vgg.safetensors", "vgg")
    (folder / "photos").mkdir()
    picture(1, (SIZE, SIZE)).save(folder / "photos" / "a.png")
    picture(2, (300, 400)).save(folder / "style.png")
    picture(3, (1024, 1024)).save(folder / "large.png")
    return folder


def test_import_train_stylize_and_serve(sources: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    ran = cli(
        *("base", "import", "full", "--home", home, "--config", "ffhq256", "--json"),
        *("--diffae", sources / "diffae.safetensors", "--guide-stages", "0,1,2"),
        *("--perceptual", "vgg", "--perceptual-weights", sources / "vgg.safetensors"),
        *("--photos", sources / "photos"),
    )
    assert ran.code == 0, ran.err
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps({"styles": [{"id": "oil", "image": str(sources / "style.png")}]}))
    ran = cli("train", catalog, "--home", home, "--slots", "1", "--json", *sets(**QUICK))
    assert ran.code == 0, ran.err
    (weights,) = home.rglob("artifacts/**/style.safetensors")
    # Rank 16 and the SPN; of full rank it takes 557 MB.
    assert weights.stat().st_size < 17e6

    ran = cli(
        *("stylize", "--home", home, "--styles", "oil", "--input", sources / "large.png"),
        *("--output", tmp_path / "out", "--detail"),
    )
    assert ran.code == 0, ran.err
    with Image.open(tmp_path / "out" / "oil" / "large.png") as image:
        assert image.size == (1024, 1024)
        assert np.asarray(image).std() > 1

    with serving(home, tmp_path) as server:
        photo = photo_bytes(4, (SIZE, SIZE))
        answers = [server.stylize(photo, {"styles": ["oil"]}) for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 200], answers[0].text
    assert pixels(answers[0].content).shape == (SIZE, SIZE, 3)
    assert answers[0].content == answers[1].content
