"""Import of Stable Diffusions as bases."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.base import load_base
from factory.core.stable_diffusion import weight_files
from osasis.storage import sha256_file
from tests.diffstyler.tiny_sd import SIZE, write_pipeline
from tests.factory.conftest import Ran, cli
from tests.factory.core.hub_server import COMMIT, hub_of
from tests.tiny import picture


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A home with the base `small` in float16, imported with three photos."""
    home = tmp_path_factory.mktemp("home")
    photos = home / "photos"
    photos.mkdir()
    for n in range(3):
        picture(n, (40, 40)).save(photos / f"{n}.png")
    ran = cli(
        *("base", "import", "small", "--stable-diffusion", model, "--photos", photos),
        *("--licence", "CC0", "--home", home, "--json"),
    )
    assert ran.code == 0, ran.err
    return home


def import_model(home: Path, name: str, model: object, *options: object) -> Ran:
    return cli(
        *("base", "import", name, "--stable-diffusion", model, "--home", home, "--json"), *options
    )


def test_base_json(home: Path, model: Path) -> None:
    folder = home / "bases" / "small"
    info = json.loads((folder / "base.json").read_text())
    assert (info["name"], info["method"], info["image_size"]) == ("small", "diffstyler", SIZE)
    assert info["preset"] == "default"
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert info["files"][weights] == sha256_file(folder / weights)
    assert set(info["files"]) >= {"tokenizer/vocab.json", "scheduler/scheduler_config.json"}
    provenance = info["provenance"]
    assert (provenance["dtype"], provenance["licence"]) == ("float16", "CC0")
    source = provenance["sources"]["stable_diffusion"]
    assert source["folder"] == "tiny"
    assert source["sha256"][weights] == sha256_file(model / weights)
    assert load_file(folder / "photos.safetensors")["photos"].shape == (3, 3, SIZE, SIZE)


def test_the_weights_are_those_of_the_model_rounded(home: Path, model: Path) -> None:
    before, after = load_base(model), load_base(home / "bases" / "small")
    for part in ("unet", "vae", "text_encoder"):
        old, new = (getattr(base, part).state_dict() for base in (before, after))
        assert all(torch.equal(value.half().float(), new[key]) for key, value in old.items())


def test_the_fingerprint_does_not_depend_on_the_place(
    home: Path, model: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(model, tmp_path / "moved")
    photos = home / "photos"
    again = import_model(tmp_path / "home", "other", moved, "--photos", photos).document
    before = json.loads((home / "bases" / "small" / "base.json").read_text())
    assert again["fingerprint"] == before["fingerprint"]
    assert str(tmp_path) not in (tmp_path / "home/bases/other/unet/config.json").read_text()


def test_a_name_keeps_its_base(home: Path, model: Path) -> None:
    before = json.loads((home / "bases" / "small" / "base.json").read_text())
    refused = import_model(home, "small", model, "--dtype", "float32")
    assert refused.code == 2
    assert "base 'small' already exists with other content" in refused.document["error"]
    replaced = import_model(home, "small", model, "--dtype", "float32", "--replace").document
    assert replaced["fingerprint"] != before["fingerprint"]
    weights = load_file(home / "bases/small/unet/diffusion_pytorch_model.safetensors")
    assert weights["conv_in.weight"].dtype == torch.float32
    # Nothing of an import is left behind.
    assert {p.name for p in home.iterdir()} == {"bases", "photos"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "nowhere: no such file or folder; give a folder in the diffusers layout"),
        ("empty", "not a model in the diffusers layout (model_index.json is missing)"),
        ("xl", "the model is SDXL (StableDiffusionXLPipeline); supported are Stable Diffusion"),
        ("weights.safetensors", "a single file has no configurations, tokenizer and scheduler"),
    ],
)
def test_what_is_no_stable_diffusion(tmp_path: Path, model: Path, given: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(model, tmp_path / "xl")
    (tmp_path / "xl" / "model_index.json").write_text(
        '{"_class_name": "StableDiffusionXLPipeline"}'
    )
    (tmp_path / "weights.safetensors").write_bytes(b"")
    ran = import_model(tmp_path / "home", "x", tmp_path / given)
    assert ran.code == 2
    assert message in ran.document["error"]
    assert list((tmp_path / "home").glob("**/*")) == []


def test_arguments_of_one_method(tmp_path: Path, model: Path) -> None:
    neither = cli("base", "import", "x", "--home", tmp_path)
    assert neither.error.startswith("give either --diffae, for a base of OSASIS, or --stable-diff")
    ran = import_model(tmp_path, "x", model, "--revision", "main")
    assert ran.document["error"].endswith("is on this machine; --revision is for models on the hub")


def test_one_variant_of_the_weights_is_downloaded() -> None:
    names = [
        "v1-5-pruned.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.fp16.safetensors",
        "safety_checker/model.safetensors",
    ]
    vae, text = "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.fp16.safetensors"
    halves = weight_files(names, "float16")
    assert halves == ["unet/diffusion_pytorch_model.fp16.safetensors", vae, text]
    full = weight_files(names, "float32")
    assert full == ["unet/diffusion_pytorch_model.safetensors", vae, text]


def import_from_hub(home: Path, endpoint: str, model: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which reads the hub's address from the environment."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "0"}
    arguments = ["base", "import", "x", "--stable-diffusion", model, "--home", str(home), "--json"]
    return subprocess.run(
        [sys.executable, "-m", "factory.cli", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_models_on_the_hub(tmp_path: Path, model: Path) -> None:
    """One variant of the weights is downloaded; base.json has the commit."""
    served_folder = shutil.copytree(model, tmp_path / "served")
    (served_folder / "big.ckpt").write_bytes(b"0" * 1000)
    weights = served_folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with hub_of(served_folder, "owner/model") as (endpoint, served):
        ran = import_from_hub(tmp_path / "home", endpoint, "owner/model")
        missing = import_from_hub(tmp_path / "home", endpoint, "owner/other")
    assert ran.returncode == 0, ran.stderr
    source = json.loads(ran.stdout)["provenance"]["sources"]["stable_diffusion"]
    assert (source["hub"], source["revision"]) == ("owner/model", COMMIT)
    assert [f for f in served if f.startswith("unet/diffusion")] == [
        "unet/diffusion_pytorch_model.fp16.safetensors"
    ]
    assert "big.ckpt" not in served
    assert missing.returncode == 2
    assert "owner/other: no such file or folder, and it cannot be read from" in missing.stderr


@pytest.mark.slow
def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    ran = import_from_hub(tmp_path, "http://127.0.0.1:9", "owner/model")
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: owner/model: no such file or folder, and it cannot be")
    assert "Traceback" not in ran.stderr
