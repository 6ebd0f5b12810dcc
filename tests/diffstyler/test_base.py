from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffusers import AutoencoderKL, UNet2DConditionModel

from diffstyler.attention import find_sites
from diffstyler.base import Base, load_base
from diffstyler.prompts import embed_prompts, fill_template, tokenize
from osasis.errors import UserError
from tests.diffstyler.tiny_sd import picture


@pytest.fixture
def copy(pipeline: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pipeline, tmp_path / "copy"))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_base(folder)
    message = str(error.value)
    assert message.startswith(str(folder))
    return message.removeprefix(str(folder))


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_base_computes_as_diffusers_does(base: Base, pipeline: Path) -> None:
    """Outside of a row plan the shared UNet is the plain one."""
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 4, 16, 16), generator=generator)
    context = torch.randn((2, 77, 16), generator=generator)
    with torch.no_grad():
        a, b = (net(x, 500, encoder_hidden_states=context).sample for net in (base.unet, unet))
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_latents(base: Base) -> None:
    images = picture(0, 32, 48)[None]
    latents = base.photo_latents(images)
    assert base.latent_factor == 2
    assert latents.shape == (1, 4, 16, 24)
    decoded = base.decode_latents(latents)
    assert decoded.shape == images.shape
    assert float(decoded.abs().max()) <= 1


def test_float16_weights(copy: Path) -> None:
    for part, stem in (("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model")):
        path = copy / part / f"{stem}.safetensors"
        halves = {k: v.half() for k, v in load_file(path).items()}
        save_file(halves, copy / part / f"{stem}.fp16.safetensors", {"format": "pt"})
        path.unlink()
    assert load_base(copy).unet.dtype == torch.float32
    assert load_base(copy, dtype=torch.float16).text_encoder.dtype == torch.float16


def test_older_names_of_the_vae(base: Base, copy: Path) -> None:
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def name(key: str) -> str:
        for new, old in older.items():
            key = key.replace(f".{new}.", f".{old}.")
        return key

    tensors = {name(k): v for k, v in load_file(path).items()}
    assert any(".proj_attn." in k for k in tensors)
    save_file(tensors, path, {"format": "pt"})
    loaded = load_base(copy).vae.state_dict()
    assert all(torch.equal(v, loaded[k]) for k, v in base.vae.state_dict().items())


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("StableDiffusionXLPipeline", "SDXL (StableDiffusionXLPipeline)"),
        ("FluxPipeline", "FLUX (FluxPipeline)"),
        ("StableDiffusion3Pipeline", "Stable Diffusion 3 (StableDiffusion3Pipeline)"),
        ("StableDiffusionInpaintPipeline", "an inpainting Stable Diffusion (Stable"),
        ("DiTPipeline", "a DiTPipeline"),
    ],
)
def test_other_models_are_refused_by_name(copy: Path, name: str, shown: str) -> None:
    edit(copy / "model_index.json", _class_name=name)
    message = refusal(copy)
    assert message.startswith(f"/model_index.json: the model is {shown}")
    assert message.endswith(
        "supported are Stable Diffusion 1.x and 2.x, and fine-tunes of their architecture"
    )


def test_folders_that_are_no_base(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "model_index.json is missing" in refusal(tmp_path / "empty")
    edit(copy / "unet" / "config.json", addition_embed_type="text_time")
    assert refusal(copy).startswith("/unet/config.json: addition_embed_type is 'text_time' (SDXL)")
    edit(copy / "unet" / "config.json", addition_embed_type=None, in_channels=9)
    assert refusal(copy).startswith("/unet/config.json: in_channels is 9, not 4; supported are")
    (copy / "unet" / "config.json").write_text("{")
    assert refusal(copy).startswith("/unet/config.json: cannot be read as JSON")
    shutil.rmtree(copy / "tokenizer")
    assert refusal(copy).startswith(": no folder tokenizer; a base is a folder in the diffusers")


def test_weights_that_do_not_fit(copy: Path) -> None:
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    bias = tensors.pop("conv_out.bias")
    save_file(tensors, path, {"format": "pt"})
    assert refusal(copy).startswith("/unet: key conv_out.bias is missing (1 missing in all)")
    save_file(tensors | {"conv_out.bias": bias, "extra": bias.clone()}, path, {"format": "pt"})
    assert refusal(copy).startswith("/unet: key extra is unknown (1 unknown in all)")
    save_file(tensors | {"conv_out.bias": torch.zeros(9)}, path, {"format": "pt"})
    assert "conv_out.bias" in refusal(copy)
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(copy).startswith("/unet: ")
    path.unlink()
    assert refusal(copy).startswith("/unet: no diffusion_pytorch_model.safetensors; weights are")


def test_parts_of_different_models(copy: Path) -> None:
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=8)
    vae.save_pretrained(copy / "vae")
    assert "the UNet's in_channels is 4, the VAE's latent_channels 8" in refusal(copy)


def test_tokenizers_that_do_not_load(copy: Path) -> None:
    folder = copy / "tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    more = vocabulary | {"deer</w>": len(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(more))
    assert "it has 191 tokens, the text encoder's vocab_size is 190" in refusal(copy)
    (folder / "vocab.json").write_text("{")
    assert refusal(copy).startswith("/tokenizer: Error while initializing BPE")
    (folder / "vocab.json").unlink()
    assert refusal(copy) == "/tokenizer/vocab.json: is missing; download the model again"


def test_a_tokenizer_without_a_length(copy: Path) -> None:
    (copy / "tokenizer" / "tokenizer_config.json").unlink()
    assert tokenize(load_base(copy), "deer").shape == (77,)


def test_an_unknown_schedule(copy: Path) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", beta_schedule="sine")
    message = refusal(copy)
    assert message.startswith("/scheduler/scheduler_config.json: sine is not implemented")


def test_other_predictions(copy: Path) -> None:
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type="sample")
    assert "prediction_type is 'sample'; supported are epsilon" in refusal(copy)


def test_a_unet_without_sites() -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=8,
        norm_num_groups=4,
        attention_head_dim=2,
    )
    with pytest.raises(UserError, match="no up block with self-attention"):
        find_sites(unet)


def test_prompts(base: Base) -> None:
    assert fill_template("painting of <sss>, {subject}", "deer") == "painting of <sss>, deer"
    assert fill_template("painting of <sss>, {subject}", "") == "painting of <sss>"
    assert tokenize(base, "a").shape == (77,)
    found = embed_prompts(base, ["", "deer", ""])
    assert list(found) == ["", "deer"]
    assert found["deer"].shape == (77, 16)


def test_a_long_prompt_is_refused(base: Base) -> None:
    # A start, an end, and a token a letter in the tiny vocabulary.
    assert tokenize(base, "a" * 75).shape == (77,)
    message = "prompt 'a+' has 78 tokens with its start and end; the text encoder reads at most 77"
    with pytest.raises(UserError, match=message.replace("a+", re.escape("a" * 57 + "..."))):
        tokenize(base, "a" * 76)
