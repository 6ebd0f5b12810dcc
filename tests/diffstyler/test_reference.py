"""Comparison with recorded results of the published code (--reference-dir in conftest).

The differences that are found are printed: pytest -rP.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

pytest.importorskip("diffusers", reason="the extra `diffstyler` is not installed")

from diffstyler.adapter import Adapter, Factors, adapter_layout
from diffstyler.adapter_files import parse_factors, published_tensors
from diffstyler.attention import RowAttention, RowPlan, RowSettings
from diffstyler.base import Base, load_base
from diffstyler.images import resize
from diffstyler.inversion import invert
from diffstyler.masks import hard_mask
from diffstyler.passes import RowBatch, base_pass, layer_pass
from diffstyler.prediction import Row, predict_eps
from diffstyler.prompts import embed_prompts, tokenize
from diffstyler.sampling import Step, bank_of, sample
from diffstyler.schedule import ddim_step
from diffstyler.settings import make_train_settings
from diffstyler.train import AdapterTrainer, Draws, style_tensor
from osasis.images.tensors import from_uint8
from tests.diffstyler.recorded import Recorded, close

# Largest difference over the largest recorded value (README of the recorded numbers).
ONE_CALL = 5e-5
IN_A_RUN = 1e-3
LATENT = 3e-4
IMAGE = 1e-3
INVERSION = 2e-3
BACK = 4e-3
LOSSES = 1e-5
GRAD_NORMS = 1e-4
DELTA_NORMS = 1e-3
AFTER = 5e-6


_LOADED: dict[Path, Recorded] = {}


@pytest.fixture
def recorded(run_json: Path) -> Recorded:
    """The run, read once."""
    if run_json not in _LOADED:
        _LOADED[run_json] = Recorded(run_json)
    return _LOADED[run_json]


def test_tokens_and_text(recorded: Recorded) -> None:
    g, base = recorded.golden, recorded.base
    embeddings = embed_prompts(base, recorded.json["prompts"].values())
    for i, prompt in recorded.json["prompts"].items():
        assert torch.equal(tokenize(base, prompt), g[f"text.{i}.ids"])
        close(embeddings[prompt], g[f"text.{i}.embedding"], ONE_CALL, f"text.{i}")


def test_pictures_and_masks(recorded: Recorded) -> None:
    g, size = recorded.golden, recorded.encoded_size
    for name in ("content", "style"):
        picture = Image.fromarray(g[f"input.{name}"].numpy())
        resized = resize(picture, recorded.json["image_size"], multiple=1)
        own = torch.frombuffer(bytearray(resized.tobytes()), dtype=torch.uint8)
        assert torch.equal(own, g[f"input.{name}_resized"].flatten())
    masks = [k for k in g if k.startswith("mask.") and k.endswith(".image")]
    assert masks
    for key in masks:
        expected = g[key.replace(".image", ".latent")]
        assert torch.equal(hard_mask(g[key], size), expected.float()), key


def test_schedule(recorded: Recorded) -> None:
    schedule, inversion = recorded.base.schedule, recorded.json["inversion"]
    close(schedule.alphas_cumprod, recorded.golden["alphas_cumprod"], 1e-7, "alphas_cumprod")
    for steps, timesteps in inversion["short"].items():
        assert list(schedule.timesteps(int(steps))) == timesteps
    whole, expected = schedule.timesteps(inversion["steps"]), inversion["timesteps"]
    assert len(whole) == expected["count"]
    assert (whole[-1], whole[0]) == (expected["first"], expected["last"])


def test_vae(recorded: Recorded) -> None:
    g, base = recorded.golden, recorded.base
    content = from_uint8(g["input.content_resized"]).permute(2, 0, 1)
    close(base.photo_latents(content[None])[0], g["vae.latent"], ONE_CALL, "vae.latent")
    decoded = (base.decode_latents(g["vae.latent"][None])[0] + 1) / 2
    close(decoded, g["vae.decoded"], ONE_CALL, "vae.decoded")


def test_injection_sites(recorded: Recorded) -> None:
    sites, expected = recorded.base.sites, recorded.json["injection"]
    assert list(sites.attentions) == expected["attention_modules"]
    assert sites.feature == expected["feature_module"]


def test_plain_predictions(recorded: Recorded) -> None:
    """The base and each adapter, in one batch."""
    g, plain = recorded.golden, recorded.json["plain"]
    context = embed_prompts(recorded.base, [plain["prompt"]])[plain["prompt"]]
    names = list(recorded.adapters)
    bank, _ = bank_of(recorded.base, [recorded.adapters[n] for n in names])
    x = g[f"invert999.x.t{plain['t']}"]
    rows = [Row(x, context, RowSettings(i)) for i in (None, *range(len(names)))]
    found = predict_eps(recorded.base, rows, plain["t"], bank)
    for eps, name in zip(found, ("base", *names), strict=True):
        close(eps, g[f"plain.{name}.eps"], ONE_CALL, f"plain.{name}")


def test_adapter_keys(recorded: Recorded) -> None:
    own = published_tensors(recorded.adapters["a"])
    for key, value in load_file(recorded.file("lora_a")).items():
        assert torch.equal(own.pop(key), value)
    assert not own


def test_inversion_step_by_step(recorded: Recorded) -> None:
    """From the recorded latents: predictions, and where the next latent is there, steps."""
    g, base, inversion = recorded.golden, recorded.base, recorded.json["inversion"]
    context = embed_prompts(base, [inversion["prompt"]])[inversion["prompt"]]
    for key in (k for k in g if k.startswith("invert999.eps.t")):
        t = int(key.removeprefix("invert999.eps.t"))
        x = g[f"invert999.x.t{t - 1}"] if t > 1 else g["vae.latent"]
        close(predict_eps(base, [Row(x, context)], t)[0], g[key], ONE_CALL, key)
        alpha = base.schedule.alpha(t - 1 if t > 1 else None)
        x_t = ddim_step(x, g[key], alpha, base.schedule.alpha(t))
        close(x_t, g[f"invert999.x.t{t}"], ONE_CALL, f"invert999.x.t{t}")


def check_inversion(recorded: Recorded, steps: int) -> None:
    g, base = recorded.golden, recorded.base
    prefix = f"invert{steps}.x.t"
    kept = tuple(sorted(int(k.removeprefix(prefix)) for k in g if k.startswith(prefix)))
    prompt = recorded.json["inversion"]["prompt"]
    walk = base.schedule.timesteps(steps)
    latents = invert(base, g["vae.latent"][None], walk, prompt, kept)[0]
    for t, latent in zip(kept, latents, strict=True):
        close(latent, g[f"{prefix}{t}"], INVERSION, f"{prefix}{t}")


def test_short_inversions(recorded: Recorded) -> None:
    for steps in recorded.json["inversion"]["short"]:
        check_inversion(recorded, int(steps))


@pytest.mark.slow
def test_whole_inversion(recorded: Recorded) -> None:
    check_inversion(recorded, recorded.json["inversion"]["steps"])


@pytest.mark.slow
def test_whole_inversion_and_back(recorded: Recorded) -> None:
    g, base, inversion = recorded.golden, recorded.base, recorded.json["inversion"]
    walk = base.schedule.timesteps(inversion["steps"])
    x = g[f"invert999.x.t{walk[-1]}"]
    context = embed_prompts(base, [inversion["prompt"]])[inversion["prompt"]]
    for t, to in zip(walk[::-1], (*walk[-2::-1], None), strict=True):
        eps = predict_eps(base, [Row(x, context)], t)[0]
        x = ddim_step(x, eps, base.schedule.alpha(t), base.schedule.alpha(to))
    close(x, g["invert999.back"], BACK, "invert999.back")


class RecordingAttention(RowAttention):
    """Keeps the queries, keys and values of its last call."""

    seen: dict[str, Tensor]

    def project(
        self, attn: torch.nn.Module, x: Tensor, context: Tensor, plan: RowPlan | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = super().project(attn, x, context, plan)
        self.seen = {"q": q, "k": k, "v": v, "q_own": self.adapted(attn.to_q, x, "to_q", plan)}
        return q, k, v


def networks_of(recorded: Recorded, case: str, i: int, x: Tensor) -> dict[str, list[Row]]:
    """The three rows (source, negative prompt, prompt) of each network at x of step i."""
    request = recorded.request(case)
    t = recorded.json["cases"][case]["timesteps"][i]
    contexts = embed_prompts(recorded.base, request.prompts)
    _, indices = bank_of(recorded.base, [layer.adapter for layer in request.layers])
    passes = [base_pass(request.settings, i, t)]
    passes += [layer_pass(request, n, i, t) for n in range(len(request.layers))]
    networks = {}
    for p in passes:
        batch = RowBatch(t, contexts, indices)
        batch.add_pass(request, p, x)
        rows = batch.rows
        if len(rows) == 2:
            # Outside of its windows a pass computes no row of the source.
            target = rows[0].settings
            source = RowSettings(target.adapter, target.scale, target.everywhere)
            context = contexts[request.source_prompt]
            rows = [Row(request.encoding.at(t), context, source), *rows]
        networks["base" if p.layer is None else f"lora{p.layer}"] = rows
    return networks


def cases(recorded: Recorded) -> list[tuple[str, int]]:
    """Recorded steps, with x, of all cases."""
    return [(case, i) for case, c in recorded.json["cases"].items() for i in c["recorded_steps"]]


def test_predictions_from_the_recorded_x(recorded: Recorded) -> None:
    g, base = recorded.golden, recorded.base
    for case, i in cases(recorded):
        t = recorded.json["cases"][case]["timesteps"][i]
        bank, _ = bank_of(base, [layer.adapter for layer in recorded.request(case).layers])
        x = g[f"{case}.step{i}.x"]
        for name, rows in networks_of(recorded, case, i, x).items():
            key = f"{case}.step{i}.{name}.eps"
            close(predict_eps(base, rows, t, bank), g[key], ONE_CALL, key)


def test_steps_from_the_recorded_prediction(recorded: Recorded) -> None:
    g, schedule = recorded.golden, recorded.base.schedule
    for case, i in cases(recorded):
        key, timesteps = f"{case}.step{i}", recorded.json["cases"][case]["timesteps"]
        to = timesteps[i + 1] if i + 1 < len(timesteps) else None
        alphas = schedule.alpha(timesteps[i]), schedule.alpha(to)
        close(
            ddim_step(g[f"{key}.x"], g[f"{key}.guided"], *alphas), g[f"{key}.prev"], ONE_CALL, key
        )


def check_step(recorded: Recorded, case: str, step: Step) -> None:
    """A step of a whole run. A pass that is hidden by later ones is not computed."""
    g, key = recorded.golden, f"{case}.step{step.index}"
    for name in ("x", "guided", "prev"):
        close(getattr(step, name), g[f"{key}.{name}"], IN_A_RUN, f"{key}.{name}")
    for p, eps in zip(step.passes, step.eps, strict=True):
        name = "base" if p.layer is None else f"lora{p.layer}"
        close(eps, g[f"{key}.{name}.eps"][1:], IN_A_RUN, f"{key}.{name}.eps")


# The fast tests above compare single steps from their recorded states.
@pytest.mark.slow
@pytest.mark.ci
def test_sampling(recorded: Recorded) -> None:
    """Whole runs, all cases with equal steps in one batch."""
    g, base, names = recorded.golden, recorded.base, list(recorded.json["cases"])
    norms = recorded.json["norms"]

    def on_step(step: Step) -> None:
        case = names[step.request]
        for name in ("x", "guided"):
            expected = torch.tensor(norms[case][name][step.index])
            close(getattr(step, name).norm(), expected, IN_A_RUN, f"norms.{case}.{name}")
        if f"{case}.step{step.index}.x" in g:
            check_step(recorded, case, step)

    latents = sample(base, [recorded.request(case) for case in names], on_step)
    for case, latent in zip(names, latents, strict=True):
        close(latent, g[f"{case}.latent"], LATENT, f"{case}.latent")
        if f"{case}.image" in g:
            image = (base.decode_latents(latent[None])[0] + 1) / 2
            found = float((image - g[f"{case}.image"]).abs().max())
            print(f"{case}.image: {found:.1e} of {IMAGE:.0e}")
            assert found <= IMAGE


def observe(base: Base, recorded: Recorded) -> Callable[[], dict[str, Tensor]]:
    """Record the attentions and the feature of the next forward passes, by recorded name."""
    j, seen = recorded.json["injection"], {}
    processors = {n: RecordingAttention(n, True) for n in j["recorded_attention"]}
    own = {f"{n}.processor": p for n, p in processors.items()}
    base.unet.set_attn_processor(dict(base.unet.attn_processors) | own)
    feature = base.sites.feature
    block = feature.rpartition(".")[0]

    def before_injection(conv: torch.nn.Conv2d, args: tuple[Tensor], out: Tensor) -> None:
        own = F.conv2d(args[0], conv.weight, conv.bias, padding=conv.padding)
        seen[f"{feature}_own"] = own

    def after_block(module: torch.nn.Module, args: tuple[Tensor], out: Tensor) -> None:
        seen[f"{block}.out"] = out

    base.unet.get_submodule(feature).register_forward_hook(before_injection)
    base.unet.get_submodule(block).register_forward_hook(after_block)

    def found() -> dict[str, Tensor]:
        parts = {f"{n}.{part}": v for n, p in processors.items() for part, v in p.seen.items()}
        return seen | parts

    return found


@pytest.mark.slow
def test_injected_queries_keys_and_features(recorded: Recorded) -> None:
    """What the recorded modules compute with, at x of a whole run."""
    g, base = recorded.golden, load_base(recorded.folder / recorded.json["pipeline"])
    found = observe(base, recorded)
    for case, c in recorded.json["cases"].items():
        request, states = recorded.request(case), {}
        if c["attention_steps"]:
            sample(recorded.base, [request], lambda s, x=states: x.update({s.index: s.x}))
        bank, _ = bank_of(base, [layer.adapter for layer in request.layers])
        for i in c["attention_steps"]:
            for name, rows in networks_of(recorded, case, i, states[i]).items():
                predict_eps(base, rows, c["timesteps"][i], bank)
                for part, value in found().items():
                    key = f"{case}.step{i}.{name}.{part}"
                    close(value, g[key], IN_A_RUN, key)


def trainer_of(recorded: Recorded) -> AdapterTrainer:
    """A trainer with the recorded initial factors and draws."""
    g, t, base = recorded.golden, recorded.json["training"], recorded.base
    settings = make_train_settings(
        "reference",
        **{k: t[k] for k in ("steps", "lr", "rank", "prompt")},
        batch_size=t["batch"],
        resolution=recorded.json["image_size"],
    )
    initial = load_file(recorded.file("train_init"))
    for key in t["keys"]:
        if key.endswith(".up.weight"):
            down = initial[key.replace(".up.", ".down.")]
            at, _, to = key.removesuffix("_lora.up.weight").rpartition(".")
            module = recorded.base.unet.get_submodule(
                at.removeprefix("unet.").removesuffix(".processor")
            )
            linear = module.to_out[0] if to == "to_out" else getattr(module, to)
            initial[key] = torch.zeros(linear.out_features, len(down))
    factors = parse_factors(initial, adapter_layout(base.unet), {}, "train_init")

    def draw(i: int) -> Draws:
        timesteps = g["train.timesteps"].view(t["steps"], t["batch"])[i]
        return Draws(timesteps, g[f"train.posterior_noise.{i}"], g[f"train.noise.{i}"])

    image = style_tensor(Image.fromarray(g["input.style"].numpy()), settings, 0)
    trainer = AdapterTrainer(base, image, settings, initial=factors, draw=draw)
    mean, std = trainer.views.posterior(0)
    close(mean, g["train.posterior_mean"], ONE_CALL, "train.posterior_mean")
    close(std, g["train.posterior_std"], ONE_CALL, "train.posterior_std")
    # Adam's first step has the sign of each gradient: where one is nearly 0, rounding decides. The
    # VAE's rounding is kept out of it.
    trainer.views.whole = g["train.posterior_mean"], g["train.posterior_std"]
    return trainer


def norms(recorded: Recorded, tensors: dict[str, Tensor]) -> Tensor:
    """Norms in the order of the recorded keys, float64."""
    own = published_keys(tensors)
    return torch.stack([own[key].double().norm() for key in recorded.json["training"]["keys"]])


def published_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by trainer's keys (``<key>.down``) as tensors by published keys."""
    keys = {key.rpartition(".")[0] for key in tensors}
    pairs = {key: Factors(tensors[f"{key}.down"], tensors[f"{key}.up"]) for key in keys}
    return published_tensors(Adapter(pairs))


def relative(actual: Tensor, expected: Tensor, allowed: float, name: str) -> None:
    """Each value's own relative error is allowed."""
    found = float(((actual - expected).abs() / expected.abs().clamp_min(1e-12)).max())
    print(f"{name}: {found:.1e} of {allowed:.0e}")
    assert found <= allowed, name


def test_training(recorded: Recorded) -> None:
    g = recorded.golden
    trainer = trainer_of(recorded)
    before = {k: p.detach().clone() for k, p in trainer.parameters.items()}
    for i in range(recorded.json["training"]["steps"]):
        if f"train.pred.{i}" in g:
            with torch.no_grad():
                x_t, _, t = trainer.noised(trainer.draw(i))
                close(trainer.predict(x_t, t), g[f"train.pred.{i}"], ONE_CALL, f"train.pred.{i}")
        trainer.step()
        if f"train.grad_norms.{i}" in g:
            grads = {k: p.grad for k, p in trainer.parameters.items()}
            relative(norms(recorded, grads), g[f"train.grad_norms.{i}"], GRAD_NORMS, f"grads.{i}")
    losses = torch.tensor([row["total"] for row in trainer.history], dtype=torch.float64)
    relative(losses, g["train.losses"], LOSSES, "train.losses")
    after = {k: p.detach() for k, p in trainer.parameters.items()}
    deltas = {k: after[k] - before[k] for k in after}
    relative(norms(recorded, deltas), g["train.delta_norms"], DELTA_NORMS, "delta_norms")
    own = published_keys(after)
    for key in (k for k in g if k.startswith("train.after.")):
        found = float((own[key.removeprefix("train.after.")] - g[key]).abs().max())
        print(f"{key}: {found:.1e} of {AFTER:.0e}")
        assert found <= AFTER, key
