"""Cases of the speed benchmark. ``measure`` runs one of them in this process."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from osasis.arithmetic import Arithmetic, autocast
from osasis.bundles.base import Base
from osasis.contents import ContentBank, Contents, SampledContents
from osasis.devices import required_device
from osasis.encode import EncodePlan, Encodings, encode, encode_plan
from osasis.memory import step_memory
from osasis.mix import Mix
from osasis.recipe import make_recipe
from osasis.recompute import recompute_activations
from osasis.settings import TrainSettings, make_settings
from osasis.stylize import decode, decode_rows
from osasis.train import StyleTrainer
from tests.benchmarks.speed_inputs import random_base, random_styles

# Ten network calls each way.
STEPS, T0 = 20, 0.5
# Changes of preset `reference` with which an iteration has one optimiser step.
ONE_STEP: dict[str, Any] = {"contents": "bank", "decode_steps": 2, "encode_steps": 2}
MATMUL_SIZE = {"cpu": 2048, "cuda": 8192}
PRODUCTS = 4


@dataclass(frozen=True)
class Case:
    """One measurement. images: photos, contents of an iteration, or rows of a decode."""

    name: str
    size: str
    device: str
    arithmetic: Arithmetic
    images: int


@dataclass(frozen=True)
class Context:
    case: Case
    base: Base

    def noise(self, count: int) -> Tensor:
        side = self.base.config.image_size
        return torch.rand(count, 3, side, side).to(self.base.device) * 2 - 1

    def trainer(self, settings: TrainSettings, batch: int) -> StyleTrainer:
        """A trainer of a random style image; contents sampled, or random in place of a bank's."""
        base, photos = self.base, self.noise(batch)
        settings = settings.replace(batch_size=batch, precision=self.case.arithmetic)
        if settings.contents == "bank":
            z = torch.randn(batch, base.config.z_channels, device=base.device)
            contents = Contents(photos, z, torch.randn_like(photos), base.guide.embed(photos))
            source: Any = ContentBank(contents)
        else:
            source = SampledContents(base, settings, self.case.arithmetic)
        return StyleTrainer(base, self.noise(1), self.noise(1), source, settings)


Work = Callable[[], Any]


def train(context: Context, **changes: Any) -> Work:
    """An iteration of preset `reference`, the published work."""
    settings = make_settings("reference", **changes)
    trainer = context.trainer(settings, context.case.images)
    if settings.recompute:
        recompute_activations(trainer.unet, trainer.spn)
    return trainer.step


def encode_photos(context: Context) -> Work:
    photos = context.noise(context.case.images)
    plan = EncodePlan(T0, STEPS, context.case.arithmetic)
    return lambda: encode(context.base, photos, plan)


def decode_mixes(context: Context, rank: int | None = None) -> Work:
    """One photo for each style, every row with a mix of its own.

    rank: of the styles, whose rows are then decoded in common passes of up to 16; None: full rank.
    """
    base, count = context.base, context.case.images
    styles = {style.id: style for style in random_styles(base, count, rank)}
    z = torch.randn(count, base.config.z_channels, device=base.device)
    plan = EncodePlan(T0, STEPS, context.case.arithmetic)
    photos = context.noise(count)
    encodings = Encodings(photos, z, torch.randn_like(photos), plan)
    mixes = [Mix.of(name, decode_steps=STEPS) for name in styles]

    def work() -> Tensor:
        recipes = [make_recipe(base, mix, styles, plan) for mix in mixes]
        rows = [(encodings.take(slice(i, i + 1)), recipe) for i, recipe in enumerate(recipes)]
        return decode_rows(base, rows, pass_size=min(count, 16) if rank else None)

    return work


def stylize(context: Context) -> Work:
    """Encode and decode as preset `default` does."""
    base, (style,) = context.base, random_styles(context.base, 1)
    photos = context.noise(context.case.images)
    plan = encode_plan(None, style.settings, base.device, context.case.arithmetic)
    mix = Mix.of(style.id)
    return lambda: decode(base, encode(base, photos, plan), mix, {style.id: style})


def matmul(context: Context) -> Work:
    """A large square product, whose speed is the machine's peak."""
    n, device = MATMUL_SIZE[context.base.device.type], context.base.device
    with autocast(device, context.case.arithmetic):
        a, b = (torch.randn(n, n, device=device) for _ in range(2))
        # Cast once: the peak is that of the product.
        kind = (a[:1] @ b).dtype
    a, b = a.to(kind), b.to(kind)
    return lambda: a @ b


CASES: dict[str, Callable[[Context], Work]] = {
    "train": train,
    "train-bank": lambda context: train(context, contents="bank"),
    "train-recompute": lambda context: train(context, contents="bank", recompute=True),
    "step": lambda context: train(context, **ONE_STEP),
    "step-recompute": lambda context: train(context, **ONE_STEP, recompute=True),
    "encode": encode_photos,
    "decode": decode_mixes,
    "decode-lora": lambda context: decode_mixes(context, rank=16),
    "stylize": stylize,
}


def measure(case: Case, repeat: int) -> dict[str, Any]:
    """Shortest time of a call, its counted FLOPs and its peak memory, in this process.

    The first call warms up and is not timed; the last one counts FLOPs, which takes memory. The
    machine's peak is measured before and after, because other work on the machine slows both.
    """
    device = required_device(case.device)
    context = Context(case, random_base(case.size).to(device))
    if case.name == "memory":
        return {"counted_mib": counted_memory(context) / 2**20}
    work = CASES[case.name](context)
    product = matmul(context)
    work()
    peaks = [_timed(product, device) for _ in range(PRODUCTS)]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = [_timed(work, device) for _ in range(repeat)]
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    peaks += [_timed(product, device) for _ in range(PRODUCTS)]
    with FlopCounterMode(display=False) as counter:
        work()
    tflop = counter.get_total_flops() / 1e12
    best = 2 * MATMUL_SIZE[device.type] ** 3 / min(peaks) / 1e12
    rate = tflop / min(seconds)
    return {
        "ms": min(seconds) * 1e3,
        "tflop": tflop,
        "tflop_per_s": rate,
        "peak_tflop_per_s": best,
        "share": rate / best,
        "peak_mib": peak / 2**20,
    }


def _timed(work: Work, device: torch.device) -> float:
    """Seconds of a call; of processor time on one thread, where other programs disturb it less."""
    on_one_thread = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if on_one_thread else time.perf_counter
    started = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def counted_memory(context: Context) -> float:
    """Bytes that a training step of preset `reference` holds on ``images`` contents."""
    trainer = context.trainer(make_settings("reference", **ONE_STEP), 2)
    plain, _ = step_memory(trainer)
    return plain.first + (context.case.images - 1) * plain.further
