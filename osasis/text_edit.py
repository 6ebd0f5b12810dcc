"""Text-driven manipulation: a direction of z_in between two texts (OSASIS, Sec. 4.4)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.base import Base
from osasis.diffusion import ddim_step, image_schedule, predict_x0, steps_from
from osasis.errors import DivergedError, UserError
from osasis.guides.guide import text_guide
from osasis.losses import directional_loss
from osasis.seeds import derived_seed
from osasis.storage import save_tensors, write_json
from osasis.stylize import Encodings


@dataclass(frozen=True)
class TextEdit:
    """A direction of z_in. direction: (D,). history: the loss of each iteration."""

    source: str
    target: str
    direction: Tensor
    base: str
    settings: dict[str, Any]
    history: tuple[float, ...] = ()


def save_text_edit(folder: Path, edit: TextEdit) -> None:
    """Write a direction as ``text_edit.safetensors`` and ``text_edit.json``."""
    save_tensors(folder / "text_edit.safetensors", {"direction": edit.direction})
    info = {k: getattr(edit, k) for k in ("source", "target", "base", "settings", "history")}
    write_json(folder / "text_edit.json", {"format": 1, **info})


def load_text_edit(folder: Path, base: str) -> TextEdit:
    """Read a direction. base: a base's fingerprint.

    Raises UserError where the direction is missing or of another base.
    """
    path = folder / "text_edit.json"
    if not path.is_file():
        raise UserError(f"{folder}: not a text edit (it has no text_edit.json)")
    info = json.loads(path.read_text())
    if info["base"] != base:
        raise UserError(f"{folder}: this direction belongs to base {info['base']}, not {base}")
    direction = load_file(folder / "text_edit.safetensors")["direction"]
    return TextEdit(
        info["source"],
        info["target"],
        direction,
        info["base"],
        info["settings"],
        tuple(info["history"]),
    )


def optimise_text_edit(
    base: Base,
    encodings: Encodings,
    source: str,
    target: str,
    *,
    iterations: int = 100,
    lr: float = 0.02,
    keep: float = 0.1,
    steps: int = 20,
    seed: int = 0,
) -> TextEdit:
    """Optimise one direction of z_in that takes photos from ``source`` to ``target``.

    At a random step of the walk back, epsilon_A predicts x_0 with z and with z + direction; the
    guide's difference of the two is turned towards the difference of the texts. The step is a
    length in normalised z, so ``lr`` and ``keep`` (weight of its mean square) mean the same for
    every base. encodings: of a few photos, (B, ...).
    Raises UserError where the guide knows no text or the texts are the same to it.
    """
    guide = text_guide(base.guide)
    texts = guide.embed_text([source, target]).detach()
    wanted = (texts[1] - texts[0])[None]
    if float(wanted.norm()) < 1e-6:
        raise UserError(f"the texts {source!r} and {target!r} are the same to the guide")
    schedule = image_schedule(steps)
    count = steps_from(schedule, encodings.plan.t0)
    generator = torch.Generator().manual_seed(derived_seed(seed, "text edit"))
    # Not from zero: there the directional loss has no direction and Adam's first step swamps the
    # following ones.
    start = lr * torch.randn(base.z_std.shape[-1], generator=generator)
    step = start.to(base.device).requires_grad_(True)
    optimiser = torch.optim.Adam([step], lr=lr)
    noisy, plain = _walk(base, encodings, steps)
    history = []
    for n in range(iterations):
        i = int(torch.randint(count, (1,), generator=generator))
        x_t, t = noisy[i], schedule.timestep(i, encodings.z)
        z = encodings.z + step * base.z_std
        x0 = predict_x0(schedule, i, x_t, base.diffae.unet(x_t, t, z))
        moved = guide.embed(x0) - plain[i]
        loss = directional_loss(moved, wanted) + keep * step.pow(2).mean()
        if not torch.isfinite(loss):
            raise DivergedError(f"the text edit diverged at iteration {n + 1}; lower lr")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    settings = {"iterations": iterations, "lr": lr, "keep": keep, "steps": steps, "seed": seed}
    direction = (step.detach() * base.z_std[0]).cpu()
    return TextEdit(source, target, direction, base.fingerprint, settings, tuple(history))


@torch.no_grad()
def _walk(base: Base, encodings: Encodings, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """x_t of the plain walk back at each index, and the guide's embedding of its x_0."""
    schedule = image_schedule(steps)
    count = steps_from(schedule, encodings.plan.t0)
    x, eps_a = encodings.x_t0, base.eps_a(encodings.z)
    guide = text_guide(base.guide)
    noisy: dict[int, Tensor] = {}
    plain: dict[int, Tensor] = {}
    for i in range(count - 1, -1, -1):
        noisy[i] = x
        x, x0 = ddim_step(schedule, i, x, eps_a(x, schedule.timestep(i, x)))
        plain[i] = guide.embed(x0)
    return [noisy[i] for i in range(count)], [plain[i] for i in range(count)]
