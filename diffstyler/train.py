"""Training a style's adapter on one image by noise prediction (DiffStyler, Sec. 3.2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffstyler.adapter import Adapter, AdapterBank, Factors, adapter_layout
from diffstyler.attention import RowPlan, RowSettings
from diffstyler.base import Base
from diffstyler.images import resize
from diffstyler.prediction import run_unet
from diffstyler.prompts import embed_prompts, fill_template
from diffstyler.recompute import recomputed_activations
from diffstyler.settings import TrainSettings
from osasis.arithmetic import Arithmetic, autocast, resolve
from osasis.checkpoints import adam_tensors, load_adam_tensors
from osasis.errors import DivergedError, UserError
from osasis.images.tensors import image_to_tensor
from osasis.seeds import derived_generator

# Attentions by the setting: self-attentions are attn1, cross-attentions attn2.
ATTENTIONS = {"all": ("attn1", "attn2"), "self": ("attn1",), "cross": ("attn2",)}


@dataclass(frozen=True)
class Draws:
    """Random draws of one step. timesteps: (B,) int64. posterior_noise, noise: (B, C, h, w)."""

    timesteps: Tensor
    posterior_noise: Tensor
    noise: Tensor


def style_tensor(
    image: Image.Image, settings: TrainSettings, image_size: int, name: str = "image"
) -> Tensor:
    """The style image (3, H, W) in [-1, 1] at its working size. Raises ImageError.

    image_size: of the base, for settings without a resolution.
    """
    side = settings.resolution or image_size
    return image_to_tensor(resize(image, side, settings.multiple, name))


def initial_factors(base: Base, settings: TrainSettings) -> dict[str, Factors]:
    """Published initialisation: down normal with standard deviation 1 / rank, up zero."""
    generator = derived_generator(settings.seed, "init")
    factors = {}
    for key, (out, features) in adapter_layout(base.unet).items():
        if key.split(".")[-2] in ATTENTIONS[settings.attentions]:
            down = torch.randn(settings.rank, features, generator=generator) / settings.rank
            factors[key] = Factors(down, torch.zeros(out, settings.rank))
    return factors


class AdapterTrainer:
    """Trains one style's adapter; the base stays as it is and may be shared.

    The draws of step i come from a generator seeded with (seed, i). A resumed training therefore
    equals an uninterrupted one without stored generator states.
    """

    def __init__(
        self,
        base: Base,
        image: Tensor,
        settings: TrainSettings,
        *,
        initial: dict[str, Factors] | None = None,
        draw: Callable[[int], Draws] | None = None,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """image: (3, H, W) in [-1, 1], as ``style_tensor`` returns it.

        initial, draw: factors and draws in place of those of the seed. arithmetic: of the forward
        passes; None derives it from ``settings.precision``.
        Raises UserError for a base whose weights are not float32.
        """
        _check_weights(base)
        self.base, self.settings = base, settings
        self.arithmetic = arithmetic or resolve(settings.precision, base.device)
        self.prompt = fill_template(settings.prompt, settings.content)
        self.context = embed_prompts(base, [self.prompt])[self.prompt]
        self.views = _Views(base, image.to(base.device), settings)
        self.draw = draw or self._draw
        self.recompute = settings.recompute
        self.iteration = 0
        self.history: list[dict[str, float]] = []
        self.parameters: dict[str, Tensor] = {}
        for key, f in (initial or initial_factors(base, settings)).items():
            self.parameters[f"{key}.down"] = _parameter(f.down, base.device)
            self.parameters[f"{key}.up"] = _parameter(f.up, base.device)
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), settings.lr, weight_decay=settings.weight_decay
        )

    def step(self) -> dict[str, float]:
        """One optimiser step. Returns its losses and appends them to ``history``.

        Raises DivergedError naming the step where the loss is not finite.
        """
        self.optimiser.zero_grad()
        with recomputed_activations(self.base.unet) if self.recompute else nullcontext():
            loss = self.loss(self.draw(self.iteration))
            value = float(loss.detach())
            if not torch.isfinite(loss):
                raise DivergedError(
                    f"training diverged at step {self.iteration + 1}: the loss is {value}; lower "
                    "lr, or use precision float32"
                )
            loss.backward()
        self.optimiser.step()
        self.iteration += 1
        self.history.append({"total": value})
        return self.history[-1]

    def loss(self, draws: Draws) -> Tensor:
        """Mean squared error of the prediction at x_t."""
        x_t, target, t = self.noised(draws)
        return F.mse_loss(self.predict(x_t, t), target)

    def noised(self, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """x_t, the target of its prediction, both (B, C, h, w), and t (B,)."""
        device, scale = self.base.device, self.base.vae.config.scaling_factor
        mean, std = self.views.posterior(self.iteration)
        z = (mean + std * draws.posterior_noise.to(device)) * scale
        t = draws.timesteps.to(device)
        return *self.base.schedule.noised(z, draws.noise.to(device), t), t

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction (B, C, h, w) of the UNet with the adapter in its current state."""
        rows = [RowSettings(adapter=0)] * len(x_t)
        bank = AdapterBank.of([Adapter(self._factors())])
        plan = RowPlan.of(rows, bank, x_t.device)
        context = self.context.expand(len(x_t), -1, -1)
        with autocast(self.base.device, self.arithmetic):
            return run_unet(self.base, x_t, t, context, plan)

    def _draw(self, iteration: int) -> Draws:
        generator = derived_generator(self.settings.seed, f"step {iteration}")
        steps = len(self.base.schedule.alphas_cumprod)
        t = torch.randint(0, steps, (self.settings.batch_size,), generator=generator)
        shape = (self.settings.batch_size, *self.views.latent_shape)
        first, second = (torch.randn(shape, generator=generator) for _ in range(2))
        return Draws(t, first, second)

    def _factors(self) -> dict[str, Factors]:
        p = self.parameters
        keys = [key.removesuffix(".down") for key in p if key.endswith(".down")]
        return {key: Factors(p[f"{key}.down"], p[f"{key}.up"]) for key in keys}

    def adapter(self) -> Adapter:
        """A copy of the adapter in its current state."""
        factors = {
            key: Factors(f.down.detach().clone(), f.up.detach().clone())
            for key, f in self._factors().items()
        }
        info = {"prompt": self.prompt, "settings": self.settings.to_dict(), "steps": self.iteration}
        return Adapter(factors, info | {"arithmetic": self.arithmetic})

    def state_tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of factors and optimiser's state, as flat names for safetensors."""
        tensors = dict(self.parameters) | adam_tensors(self.optimiser, self.parameters.items())
        return {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}

    def state_info(self) -> dict[str, Any]:
        """The part of the state that is stored as JSON."""
        return {
            "iteration": self.iteration,
            "history": list(self.history),
            "arithmetic": self.arithmetic,
        }

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Resume from ``state_tensors`` and ``state_info``, on the CPU bit for bit."""
        self.iteration, self.history = info["iteration"], list(info["history"])
        for key, parameter in self.parameters.items():
            parameter.copy_(tensors[key])
        load_adam_tensors(self.optimiser, self.parameters.items(), tensors)


def _check_weights(base: Base) -> None:
    """Refuse weights of half precision: the arithmetic would be theirs, not ``precision``."""
    if base.unet.dtype != torch.float32:
        found = str(base.unet.dtype).removeprefix("torch.")
        raise UserError(
            f"dtype of the base is {found}; training needs float32 weights, for which precision "
            "sets the arithmetic; load the base with dtype=torch.float32 (for faster steps set "
            "precision to bfloat16)"
        )


def _parameter(value: Tensor, device: torch.device) -> Tensor:
    return value.detach().clone().to(device).requires_grad_(True)


class _Views:
    """Posteriors of the style image's views: the image or random squares of it, and mirrored.

    The image's and its mirror's are encoded once.
    """

    def __init__(self, base: Base, image: Tensor, settings: TrainSettings) -> None:
        self.base, self.image, self.settings = base, image, settings
        self.whole: tuple[Tensor, Tensor] | None = None
        if not settings.crop:
            images = [image, image.flip(-1)] if settings.flip else [image]
            self.whole = base.posterior(torch.stack(images))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(C, h, w) of a view's latent."""
        if self.whole is not None:
            return tuple(self.whole[0].shape[1:])
        side = min(self.image.shape[-2:]) // self.base.latent_factor
        return self.base.vae.config.latent_channels, side, side

    def posterior(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) of a step's views."""
        s = self.settings
        generator = derived_generator(s.seed, f"views {iteration}")
        flips = torch.randint(0, 2 if s.flip else 1, (s.batch_size,), generator=generator)
        if self.whole is not None:
            mean, std = self.whole
            return mean[flips.to(mean.device)], std[flips.to(std.device)]
        views = [self._square(generator, bool(flip)) for flip in flips]
        return self.base.posterior(torch.stack(views))

    def _square(self, generator: torch.Generator, flip: bool) -> Tensor:
        """A random square of the shorter side."""
        side = min(self.image.shape[-2:])
        top, left = (
            int(torch.randint(0, n - side + 1, (), generator=generator))
            for n in self.image.shape[-2:]
        )
        square = self.image[:, top : top + side, left : left + side]
        return square.flip(-1) if flip else square
