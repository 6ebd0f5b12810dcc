"""Text-driven manipulation: a direction of z_in optimised between two texts (OSASIS, Sec. 4.4)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.base import Base
from osasis.diffusion import predict_x0
from osasis.encode import Encodings
from osasis.errors import DivergedError, UserError
from osasis.guides.guide import text_guide
from osasis.losses import directional_loss
from osasis.sampling import SOLVERS, Walk, denoising_walk
from osasis.seeds import derived_generator
from osasis.storage import save_tensors, write_json

TEXT_EDIT_JSON = "text_edit.json"


@dataclass(frozen=True)
class TextEdit:
    """A direction of z_in from text ``source`` to text ``target``.

    direction: (D,). base: fingerprint of the base. settings: the options of ``optimise_text_edit``.
    history: the loss of each iteration.
    """

    source: str
    target: str
    direction: Tensor
    base: str
    settings: dict[str, Any]
    history: tuple[float, ...] = ()


def save_text_edit(folder: Path, edit: TextEdit) -> None:
    """Write an edit to ``text_edit.safetensors`` and ``text_edit.json`` in a folder."""
    save_tensors(folder / "text_edit.safetensors", {"direction": edit.direction})
    info = {k: getattr(edit, k) for k in ("source", "target", "base", "settings", "history")}
    write_json(folder / TEXT_EDIT_JSON, {"format": 1, **info})


def load_text_edit(folder: Path, base: str) -> TextEdit:
    """Read an edit. base: fingerprint of the base that the edit must belong to.

    Raises UserError for a missing edit and for an edit of another base.
    """
    path = folder / TEXT_EDIT_JSON
    if not path.is_file():
        raise UserError(f"{folder}: not a text edit (it has no {TEXT_EDIT_JSON})")
    info = json.loads(path.read_text())
    if info["base"] != base:
        raise UserError(f"{folder}: this text edit belongs to base {info['base']}, not {base}")
    direction = load_file(folder / "text_edit.safetensors")["direction"]
    history = tuple(info["history"])
    return TextEdit(info["source"], info["target"], direction, base, info["settings"], history)


@dataclass(frozen=True)
class EditOptions:
    """Options of optimising z_in.

    lr: Adam's learning rate in normalised z. keep: weight of the mean square of the change in
    normalised z; both suit every base. steps: denoising steps of a full schedule.
    """

    iterations: int = 100
    lr: float = 0.02
    keep: float = 0.1
    steps: int = 20
    seed: int = 0


def optimise_text_edit(
    base: Base, encodings: Encodings, source: str, target: str, options: EditOptions | None = None
) -> TextEdit:
    """Optimise one direction of z_in that moves photos from text ``source`` to text ``target``.

    The direction is shared by the photos, and applies to others. encodings: of a few photos.
    Raises UserError where the guide has no text encoder or embeds both texts alike, DivergedError
    where the loss is not finite.
    """
    options = options or EditOptions()
    offset, history = _optimise_offset(base, encodings, source, target, options, rows=1)
    direction = (offset[0] * base.z_std[0]).cpu()
    return TextEdit(source, target, direction, base.fingerprint, asdict(options), history)


def edit_photos(
    base: Base, encodings: Encodings, source: str, target: str, options: EditOptions | None = None
) -> Encodings:
    """The encodings with z_in of each photo optimised by itself, as in the paper (Sec. 4.4).

    A photo's result does not depend on the other photos. Raises as ``optimise_text_edit``.
    """
    options, rows = options or EditOptions(), len(encodings.z)
    offset, _ = _optimise_offset(base, encodings, source, target, options, rows)
    return replace(encodings, z=encodings.z + offset * base.z_std)


def _optimise_offset(
    base: Base, encodings: Encodings, source: str, target: str, options: EditOptions, rows: int
) -> tuple[Tensor, tuple[float, ...]]:
    """The change of normalised z, (rows, D) with one row or one a photo, and the loss history.

    Each iteration takes a random denoising step, at which epsilon_A predicts x_0 from z and from
    the changed z. The loss is the directional loss between the difference of the two embeddings
    and the difference of the texts, plus ``keep`` times the mean square of the change.
    """
    guide = text_guide(base.guide)
    # Embeddings are normalised before differences are taken (StyleGAN-NADA, Eq. 2).
    texts = F.normalize(guide.embed_text([source, target]).detach(), dim=-1)
    text_direction = (texts[1] - texts[0])[None]
    if float(text_direction.norm()) < 1e-6:
        raise UserError(f"the guide's embeddings of {source!r} and {target!r} are the same")
    walk = denoising_walk(encodings.plan.spacing, options.steps, encodings.plan.t0)
    generator = derived_generator(options.seed, "text edit")
    # Zero is no starting point: the directional loss has no gradient direction there, and Adam's
    # first update would outweigh the following ones.
    start = options.lr * torch.randn(base.z_std.shape[-1], generator=generator)
    offset = start.to(base.device).repeat(rows, 1).requires_grad_(True)
    optimiser = torch.optim.Adam([offset], lr=options.lr)
    trajectory = _denoising_trajectory(base, encodings, walk)
    history = []
    for n in range(options.iterations):
        i = int(torch.randint(len(trajectory), (1,), generator=generator))
        x_t, embedding = trajectory[i]
        z = encodings.z + offset * base.z_std
        eps = base.eps_a(z)(x_t, walk.schedule.timestep(i, x_t))
        x0 = predict_x0(walk.schedule, i, x_t, eps)
        image_direction = F.normalize(guide.embed(x0), dim=-1) - embedding
        loss = directional_loss(image_direction, text_direction)
        loss = loss + options.keep * offset.pow(2).mean()
        if not torch.isfinite(loss):
            raise DivergedError(f"the text edit diverged at iteration {n + 1}; lower lr")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(float(loss.detach()))
    return offset.detach(), tuple(history)


@torch.no_grad()
def _denoising_trajectory(
    base: Base, encodings: Encodings, walk: Walk
) -> list[tuple[Tensor, Tensor]]:
    """x_t and the normalised guide embedding of the predicted x_0 at each index, without edit."""
    guide, eps_a, x = text_guide(base.guide), base.eps_a(encodings.z), encodings.x_t0
    s, before, trajectory = walk.schedule, None, []
    for i in range(walk.count - 1, -1, -1):
        x0 = predict_x0(s, i, x, eps_a(x, s.timestep(i, x)))
        trajectory.append((x, F.normalize(guide.embed(x0), dim=-1)))
        x, before = SOLVERS["dpmpp_2m"](s, i, i - 1, x, x0, before), x0
    return trajectory[::-1]
