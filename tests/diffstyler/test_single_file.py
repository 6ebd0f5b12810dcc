from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.base import Base, load_base
from osasis.errors import UserError

# Layers of a block of the tiny base.
LAYERS = 1
UNET = {
    r"time_embedding\.linear_1": "time_embed.0",
    r"time_embedding\.linear_2": "time_embed.2",
    r"conv_in": "input_blocks.0.0",
    r"conv_norm_out": "out.0",
    r"conv_out": "out.2",
    r"mid_block\.resnets\.0": "middle_block.0",
    r"mid_block\.attentions\.0": "middle_block.1",
    r"mid_block\.resnets\.1": "middle_block.2",
}
RESNET = {
    ".norm1.": ".in_layers.0.",
    ".conv1.": ".in_layers.2.",
    ".norm2.": ".out_layers.0.",
    ".conv2.": ".out_layers.3.",
    ".time_emb_proj.": ".emb_layers.1.",
    ".conv_shortcut.": ".skip_connection.",
}
VAE = {
    r"conv_norm_out": "norm_out",
    r"down_blocks\.(\d)\.resnets": r"down.\1.block",
    r"down_blocks\.(\d)\.downsamplers\.0": r"down.\1.downsample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    r"conv_shortcut": "nin_shortcut",
    r"group_norm": "norm",
    r"to_([qkv])": r"\1",
    r"to_out\.0": "proj_out",
}
OPEN_CLIP = {
    r"embeddings\.token_embedding": "token_embedding",
    r"embeddings\.position_embedding\.weight": "positional_embedding",
    r"final_layer_norm": "ln_final",
    r"encoder\.layers": "transformer.resblocks",
    r"layer_norm(\d)": r"ln_\1",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
    r"self_attn\.out_proj": "attn.out_proj",
}


def replaced(key: str, rules: dict[str, str]) -> str:
    for old, new in rules.items():
        key = re.sub(old, new, key)
    return key


def unet_key(key: str) -> str:
    """The original key of the UNet, whose blocks are numbered through."""
    kind, *rest = key.split(".")
    if kind in ("down_blocks", "up_blocks"):
        block, layers, layer, tail = int(rest[0]), rest[1], int(rest[2]), ".".join(rest[3:])
        size = LAYERS + 1
        if layers == "downsamplers":
            key = f"input_blocks.{block * size + size}.0.op.{tail.removeprefix('conv.')}"
        elif layers == "upsamplers":
            # The first up block of the tiny base has no attention.
            key = f"output_blocks.{block * size + LAYERS}.{1 if block == 0 else 2}.{tail}"
        else:
            at = block * size + layer
            start = f"input_blocks.{at + 1}" if kind == "down_blocks" else f"output_blocks.{at}"
            key = f"{start}.{0 if layers == 'resnets' else 1}.{tail}"
    if "resnets" in rest:
        for old, new in RESNET.items():
            key = key.replace(old, new)
    return replaced(key, {f"^{old}": new for old, new in UNET.items()})


def vae_tensor(key: str, value: Tensor, blocks: int = 2) -> tuple[str, Tensor]:
    """Up blocks are numbered from the last; projections of the attention are convolutions."""

    def up(match: re.Match[str]) -> str:
        part = "upsample" if match[2] == "upsamplers.0" else "block"
        return f"up.{blocks - 1 - int(match[1])}.{part}"

    convolution = "attentions" in key and value.dim() == 2
    key = re.sub(r"up_blocks\.(\d)\.(resnets|upsamplers\.0)", up, key)
    return replaced(key, VAE), value[:, :, None, None] if convolution else value


def clip_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"transformer.text_model.{k}": v for k, v in state.items()}


def open_clip_tensors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text encoder of 2.x, which stores q, k and v as one."""
    out = {}
    for key, value in state.items():
        if ".q_proj." in key:
            parts = [state[key.replace(".q_proj.", f".{x}_proj.")] for x in "qkv"]
            key = key.replace("self_attn.q_proj.", "attn.in_proj_")
            out[f"model.{replaced(key, OPEN_CLIP)}"] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", key):
            out[f"model.{replaced(key, OPEN_CLIP)}"] = value
    return out


def original_tensors(base: Base, text: Any = clip_tensors) -> dict[str, Tensor]:
    """The base's weights in the original layout."""
    vae = dict(vae_tensor(k, v) for k, v in base.vae.state_dict().items())
    parts = {
        "model.diffusion_model": {unet_key(k): v for k, v in base.unet.state_dict().items()},
        "first_stage_model": vae,
        "cond_stage_model": text(base.text_encoder.state_dict()),
    }
    return {
        f"{prefix}.{k}": v.contiguous().clone() for prefix, t in parts.items() for k, v in t.items()
    }


@pytest.fixture
def config(pipeline: Path, tmp_path: Path) -> Path:
    """The pipeline's folder without its weights."""
    folder = tmp_path / "config"
    for path in (p for p in pipeline.rglob("*") if p.suffix in (".json", ".txt")):
        target = folder / path.relative_to(pipeline)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("text", [clip_tensors, open_clip_tensors])
def test_a_single_file_is_the_folder(base: Base, config: Path, tmp_path: Path, text: Any) -> None:
    file = tmp_path / "model.safetensors"
    save_file(original_tensors(base, text), file)
    found = load_base(file, config=config)
    for part in ("unet", "vae", "text_encoder"):
        own, expected = (getattr(b, part).state_dict() for b in (found, base))
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[k], v) for k, v in expected.items()), part
        assert not any(p.requires_grad for p in getattr(found, part).parameters())
    assert found.sites == base.sites
    half = load_base(file, dtype=torch.float16, config=config)
    assert {half.unet.dtype, half.vae.dtype, half.text_encoder.dtype} == {torch.float16}


def test_refused_files(base: Base, config: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = original_tensors(base)

    def message(changed: dict[str, Tensor]) -> str:
        save_file(changed, file)
        with pytest.raises(UserError) as error:
            load_base(file, config=config)
        assert str(error.value).startswith(f"{file}: ")
        return str(error.value).removeprefix(f"{file}: ")

    def without(key: str) -> dict[str, Tensor]:
        return {k: v for k, v in tensors.items() if not k.startswith(key)}

    bias = "model.diffusion_model.out.2.bias"
    assert message(without(bias)).startswith("lacks weights of the UNet or the VAE that the conf")
    norm = message(without("cond_stage_model.transformer.text_model.final_layer_norm"))
    assert norm.startswith(
        "text_encoder key final_layer_norm.bias is missing (2 missing in all) for "
        f"{config / 'text_encoder' / 'config.json'}; download the file again, or name the folder"
    )
    wide = message(tensors | {bias: torch.zeros(9)})
    assert wide.startswith(f"does not belong to the configurations in {config} (ValueError: ")
    assert message(without("first_stage_model")).startswith("no vae in it (no key begins with fir")
    sdxl = message(tensors | {"conditioner.embedders.0.x": torch.zeros(1)})
    assert sdxl.startswith("the model is SDXL (key conditioner.embedders.0.x); supported are")
    file.write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        load_base(file, config=config)


def test_configurations_belong_to_single_files(pipeline: Path, config: Path) -> None:
    with pytest.raises(UserError, match="is a folder, which has its own configurations; leave"):
        load_base(pipeline, config=config)
    file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(UserError, match="a single file has no configurations, tokenizer and sch"):
        load_base(file)
