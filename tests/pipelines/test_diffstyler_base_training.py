"""`style-factory base train-diffstyler`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from tests.diffstyler.pretraining.small_training import SETTINGS, SIZES
from tests.factory.conftest import Ran, cli
from tests.tiny import picture


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for n in range(4):
        picture(n, (24, 24)).save(folder / f"{n}.png")
    return folder


def train(home: Path, photos: Path, *options: object, **settings: object) -> Ran:
    sizes = home / "sizes.json"
    home.mkdir(exist_ok=True)
    sizes.write_text(json.dumps(SIZES))
    sets = [f"--set={name}={value}" for name, value in (SETTINGS | settings).items()]
    return cli(
        *("base", "train-diffstyler", "faces", "--images", photos, "--config", sizes),
        *("--home", home, "--json", *sets, *options),
    )


def test_a_stopped_training_is_resumed_and_installed(tmp_path: Path, photos: Path) -> None:
    stopped = train(tmp_path, photos, "--minutes", "0.00001", steps=1)
    assert stopped.code == 1
    assert stopped.document["base"] is None
    assert (tmp_path / "bases-in-training" / "faces" / "vae.state.safetensors").is_file()
    other = train(tmp_path, photos, "--seed", "1", steps=1)
    assert other.code == 2
    assert "contains another run, which differs in" in other.document["error"]
    done = train(tmp_path, photos, steps=1)
    assert done.code == 0, done.err
    info = done.document["base"]
    assert (info["method"], info["image_size"], info["preset"]) == ("diffstyler", 16, "small")
    source = info["provenance"]["sources"]["stable_diffusion"]
    assert source["settings"]["looks"] == 26
    assert source["sizes"]["unet_widths"] == [8, 8, 8, 8]
    assert (tmp_path / "bases" / "faces" / "photos.safetensors").is_file()
    assert not (tmp_path / "bases-in-training" / "faces").exists()


def test_bad_input(tmp_path: Path, photos: Path) -> None:
    ran = train(tmp_path, photos, lr=7)
    assert ran.error.startswith("settings: lr is 7; it must be a number in [0, 1]")
    ran = cli(
        *("base", "train-diffstyler", "faces", "--images", photos, "--home", tmp_path),
        *("--config", photos / "0.png"),
    )
    assert ran.error.startswith(f"{photos / '0.png'}: cannot be read as JSON")
    ran = train(tmp_path, tmp_path / "nowhere")
    assert ran.code == 2
    assert "nowhere" in ran.document["error"]
