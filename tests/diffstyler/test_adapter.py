from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffusers import AutoencoderKL, UNet2DConditionModel

from diffstyler.adapter import Adapter, adapter_layout, weighted_sum
from diffstyler.adapter_files import load_adapter, parse_factors, published_tensors, save_adapter
from diffstyler.attention import RowSettings, find_sites
from diffstyler.base import Base
from diffstyler.prediction import Row, predict_eps
from diffstyler.sampling import bank_of
from osasis.errors import UserError
from tests.diffstyler.tiny_sd import random_adapter

HERE = Path(__file__).parent
# The public configuration of Stable Diffusion 2.1 base.
SD21 = {
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}


def eps_of(base: Base, adapter: Adapter, *others: Adapter) -> Tensor:
    """Prediction with an adapter, in a batch with others."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((4, 16, 16), generator=generator)
    context = torch.randn((77, 16), generator=generator)
    bank, _ = bank_of(base, [adapter, *others])
    rows = [Row(x, context, RowSettings(i)) for i in range(1 + len(others))]
    return predict_eps(base, rows, 500, bank)[0]


def assert_predicts(unet: UNet2DConditionModel, expected: Tensor) -> None:
    """Compare diffusers' own prediction for the inputs of ``eps_of``."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 4, 16, 16), generator=generator)
    context = torch.randn((1, 77, 16), generator=generator)
    with torch.no_grad():
        found = unet(x, 500, encoder_hidden_states=context).sample[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def parsed(base: Base, tensors: dict[str, Tensor], **config: Any) -> Adapter:
    return Adapter(parse_factors(tensors, adapter_layout(base.unet), config, "file"))


def same(a: Adapter, b: Adapter) -> bool:
    return a.factors.keys() == b.factors.keys() and all(
        torch.equal(f.down, b.factors[k].down) and torch.equal(f.up, b.factors[k].up)
        for k, f in a.factors.items()
    )


def test_written_and_read(base: Base, tmp_path: Path) -> None:
    adapter = random_adapter(base, 0)
    path = tmp_path / "a.safetensors"
    save_adapter(path, Adapter(adapter.factors, {"prompt": "painting"}))
    found = load_adapter(path, adapter_layout(base.unet))
    assert same(found, adapter)
    assert found.info == {"prompt": "painting"}
    save_adapter(path, adapter, torch.float16)
    assert path.stat().st_size < 0.7 * adapter.nbytes + 20_000
    assert load_adapter(path, adapter_layout(base.unet)).nbytes == adapter.nbytes


def test_files_of_the_published_trainer(base: Base, tmp_path: Path) -> None:
    adapter = random_adapter(base, 0)
    path = tmp_path / "lora.ckpt"
    torch.save(published_tensors(adapter), path)
    assert same(load_adapter(path, adapter_layout(base.unet)), adapter)
    torch.save({"a": Path("x")}, path)
    with pytest.raises(UserError, match="or holds more than tensors"):
        load_adapter(path, adapter_layout(base.unet))


def peft_tensors(adapter: Adapter, prefix: str) -> dict[str, Tensor]:
    tensors = {}
    for key, f in adapter.factors.items():
        stem = f"{prefix}{key}" + (".0" if key.endswith("to_out") else "")
        tensors |= {f"{stem}.lora_A.weight": f.down, f"{stem}.lora_B.weight": f.up}
    return tensors


def test_peft_computes_the_same_and_its_files_are_read(base: Base, pipeline: Path) -> None:
    """peft is an independent implementation."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    adapter = random_adapter(base, 0, rank=2)
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets))
    peft.set_peft_model_state_dict(unet, peft_tensors(adapter, ""))
    assert_predicts(unet, eps_of(base, adapter))
    saved = peft.get_peft_model_state_dict(unet)
    assert same(parsed(base, saved), adapter)


@pytest.mark.parametrize("prefix", ["", "unet.", "base_model.model."])
def test_layouts_of_peft(base: Base, prefix: str) -> None:
    adapter = random_adapter(base, 0)
    assert same(parsed(base, peft_tensors(adapter, prefix)), adapter)


def test_alpha_scales_the_change(base: Base, tmp_path: Path) -> None:
    adapter = random_adapter(base, 0, rank=2)
    half, tensors = weighted_sum([adapter], [0.5]), peft_tensors(adapter, "unet.")
    alphas = {f"unet.{key}.alpha": torch.tensor(1.0) for key in adapter.factors}
    assert same(parsed(base, tensors | alphas), half)
    diffusers = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 1})}
    save_file(tensors, tmp_path / "a.safetensors", diffusers)
    assert same(load_adapter(tmp_path / "a.safetensors", adapter_layout(base.unet)), half)
    save_file(peft_tensors(adapter, "base_model.model."), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 1}))
    path = tmp_path / "adapter_model.safetensors"
    assert same(load_adapter(path, adapter_layout(base.unet)), half)
    (tmp_path / "adapter_config.json").write_bytes(b'{"r": "\xff"}')
    with pytest.raises(UserError, match=r"adapter_config\.json: its configuration is no JSON"):
        load_adapter(path, adapter_layout(base.unet))
    with pytest.raises(UserError, match="lora_alpha is 'x'; a single number is needed"):
        parsed(base, tensors, lora_alpha="x")
    with pytest.raises(UserError, match="peft's use_rslora is True; adapters with one lora_alpha"):
        parsed(base, tensors, lora_alpha=1, use_rslora=True)


def test_a_weighted_sum_adds_the_changes(base: Base) -> None:
    a, b = random_adapter(base, 0, rank=2), random_adapter(base, 1, rank=3)
    partial = Adapter({key: f for key, f in b.factors.items() if ".attn1." in key})
    mixed = weighted_sum([a, partial], [0.7, -0.4])
    assert mixed.factors.keys() == a.factors.keys()
    for key, f in mixed.factors.items():
        expected = 0.7 * a.factors[key].up @ a.factors[key].down
        if key in partial.factors:
            expected += -0.4 * b.factors[key].up @ b.factors[key].down
        torch.testing.assert_close(f.up @ f.down, expected)


def test_diffusers_loads_the_written_file(base: Base, pipeline: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    adapter = random_adapter(base, 0)
    save_adapter(tmp_path / "a.safetensors", adapter)
    unet = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    unet.load_lora_adapter(load_file(tmp_path / "a.safetensors"), prefix="unet")
    assert_predicts(unet, eps_of(base, adapter))


def test_ranks_and_partial_adapters_share_a_batch(base: Base) -> None:
    a, b = random_adapter(base, 0, rank=1), random_adapter(base, 1, rank=5)
    partial = Adapter({key: f for key, f in a.factors.items() if ".attn1." in key})
    alone = eps_of(base, partial)
    torch.testing.assert_close(eps_of(base, partial, b), alone, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(eps_of(base, a), alone, atol=1e-3)


def wrong(base: Base, tmp_path: Path, change: Any) -> str:
    """The message for a changed file of the published layout."""
    tensors = published_tensors(random_adapter(base, 0))
    change(tensors)
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path)
    with pytest.raises(UserError) as error:
        load_adapter(path, adapter_layout(base.unet))
    assert str(error.value).startswith(f"{path}: ")
    return str(error.value).removeprefix(f"{path}: ")


AT = "unet.mid_block.attentions.0.transformer_blocks.0.attn1"


def test_refused_files(base: Base, tmp_path: Path) -> None:
    def message(change: Any) -> str:
        return wrong(base, tmp_path, change)

    q = f"{AT}.processor.to_q_lora"
    wide = message(lambda t: t.update({f"{q}.down.weight": torch.zeros(2, 99)}))
    assert wide == (
        f"{q}.down.weight has the shape (2, 99), but with rank 2 this base needs (2, 16); it "
        "was trained on another base"
    )
    ranks = message(lambda t: t.update({f"{q}.up.weight": torch.zeros(16, 3)}))
    assert "has the shape (16, 3), but with rank 2 this base needs (16, 2)" in ranks
    alone = message(lambda t: t.pop(f"{q}.up.weight"))
    assert alone == f"{q}.down.weight has no up factor; the file is incomplete; download it again"
    deeper = q.replace("mid_block", "down_blocks.7")
    unknown = message(lambda t: t.update({f"{deeper}.up.weight": torch.zeros(16, 2)}))
    assert unknown.startswith(f"{deeper}.up.weight matches no attention of this base")
    text = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    other = message(lambda t: t.update({text: torch.zeros(2, 16)}))
    assert other.startswith(f"{text} is no factor of an attention's q, k, v or output projection")
    kohya = message(lambda t: t.update({"lora_unet_x.lora_down.weight": torch.zeros(2, 16)}))
    assert "is of the Kohya layout" in kohya
    assert message(lambda t: t.clear()).startswith("no adapter in it")
    for shape in ((), (0, 16)):
        empty = message(lambda t, s=shape: t.update({f"{q}.down.weight": torch.zeros(s)}))
        assert f"down.weight has the shape {shape}, but with rank 1 this base needs" in empty
    alpha = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.alpha"
    pair = message(lambda t: t.update({alpha: torch.zeros(2)}))
    assert pair == f"{alpha} is of shape (2,); a single number is needed; download it again"


def test_a_file_that_cannot_be_read(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "lora.safetensors"
    for write in (lambda: None, lambda: path.write_bytes(b"no")):
        write()
        with pytest.raises(UserError, match=re.escape(f"{path}: cannot be read as an adapter")):
            load_adapter(path, adapter_layout(base.unet))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_file_of_torch_save(base: Base, tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "lora.pt"
    tensors = published_tensors(random_adapter(base, 0))
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for size in (0, 1, 2, 40, len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=re.escape(f"{path}: ") + r".*download it\s+again"):
            load_adapter(path, adapter_layout(base.unet))


def test_a_file_of_torch_save_without_a_dictionary(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "lora.pt"
    torch.save([torch.zeros(2)], path)
    message = f"{path}: contains a list, not a dictionary of tensors; save the state_dict"
    with pytest.raises(UserError, match=re.escape(message)):
        load_adapter(path, adapter_layout(base.unet))


@pytest.fixture(scope="module")
def sd21() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(**SD21)


def test_keys_of_stable_diffusion_21(sd21: UNet2DConditionModel) -> None:
    """Keys and shapes of a published adapter fit the UNet of SD 2.1 base."""
    keys = json.loads((HERE / "reference" / "sd21_base.lora16.keys.json").read_text())
    tensors = {key: torch.zeros(shape) for key, shape in keys.items()}
    adapter = Adapter(parse_factors(tensors, adapter_layout(sd21), {}, "sd21"))
    assert len(adapter.factors) == len(adapter_layout(sd21)) == len(keys) // 2
    assert {f.rank for f in adapter.factors.values()} == {16}
    own = {key: list(value.shape) for key, value in published_tensors(adapter).items()}
    assert own == keys


def test_sites_of_stable_diffusion_21(sd21: UNet2DConditionModel) -> None:
    sites = find_sites(sd21)
    assert sites.feature == "up_blocks.1.resnets.1.conv2"
    assert [name.split(".transformer")[0] for name in sites.attentions] == [
        f"up_blocks.{block}.attentions.{i}"
        for block, i in ((1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2))
    ]


def test_layouts_of_stable_diffusion_21(sd21: UNet2DConditionModel) -> None:
    """What load_base builds for SD 2.1 base has the published keys and shapes."""
    keys = json.loads((HERE / "reference" / "sd21_base.keys.json").read_text())
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    for part, network in (("unet", sd21), ("vae", vae)):
        assert {k: list(v.shape) for k, v in network.state_dict().items()} == keys[part]
        assert sum(p.numel() for p in network.parameters()) == keys["params"][part]
