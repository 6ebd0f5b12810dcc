"""Training one style (OSASIS, Sec. 3.2 and 3.3)."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from osasis.arithmetic import Arithmetic, resolve
from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.checkpoints import adam_tensors, load_adam_tensors
from osasis.contents import Contents, ContentSource
from osasis.errors import DivergedError
from osasis.losses import LOSS_NAMES
from osasis.memory import fit_memory
from osasis.networks.adapters import dense, train_low_rank, trained_adapter
from osasis.networks.spn import StructurePreservingNetwork
from osasis.networks.unet import UNet
from osasis.objective import StyleNetworks, StyleObjective
from osasis.palette import Palette
from osasis.predictor import predict_style
from osasis.recompute import recompute_activations
from osasis.seeds import derived_seed, seeded
from osasis.settings import TrainSettings


class StyleTrainer:
    """Trains epsilon_B and the SPN of one style.

    The random draws of iteration i come from a generator seeded with (seed, i). A resumed training
    therefore equals an uninterrupted one without stored generator states.
    """

    def __init__(
        self,
        base: Base,
        style_image: Tensor,
        counterpart: Tensor,
        contents: ContentSource,
        settings: TrainSettings,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        """style_image, counterpart: (1, 3, H, W) in [-1, 1], at the base's size.

        arithmetic: of the forward passes; None derives it from ``settings.precision``.
        """
        self.base, self.contents, self.settings = base, contents, settings
        self.arithmetic = arithmetic or resolve(settings.precision, base.device)
        self.style_image, self.counterpart = style_image, counterpart
        self.iteration = 0
        self.history: list[dict[str, float]] = []
        with seeded(settings.seed, "init"):
            self.spn = StructurePreservingNetwork().to(base.device)
            self.unet = trainable_copy(base.diffae.unet, settings)
        self.networks = StyleNetworks(self.unet, self.spn)
        self.prediction: Style | None = None
        if settings.start == "prediction":
            self.prediction = predict_style(base, "", style_image, counterpart, settings)
            self._start_from(self.prediction)
        # One kernel for all parameters.
        fused = base.device.type == "cuda"
        self.optimisers = {
            "unet": torch.optim.Adam(
                [p for p in self.unet.parameters() if p.requires_grad],
                settings.lr_unet,
                betas=(0.9, settings.adam_beta2),
                fused=fused,
            ),
            "spn": torch.optim.Adam(self.spn.parameters(), settings.lr_spn, fused=fused),
        }
        if settings.memory is not None:
            self.settings = fit_memory(self, settings.memory)
        if self.settings.recompute:
            recompute_activations(self.unet, self.spn)

    @cached_property
    def objective(self) -> StyleObjective:
        return StyleObjective(
            self.base, self.style_image, self.counterpart, self.settings, self.arithmetic
        )

    @torch.no_grad()
    def _start_from(self, style: Style) -> None:
        """Start from a style's epsilon_B and SPN."""
        for key, change in style.delta.items():
            self.unet.get_parameter(key).add_(dense(change))
        self.spn.load_state_dict(style.spn)

    def step(self) -> list[dict[str, float]]:
        """One iteration: draw contents, then train at every denoising step.

        Returns the weighted losses of each denoising step and appends their mean to ``history``.
        Raises DivergedError naming the iteration where a loss is not finite.
        """
        seed = derived_seed(self.settings.seed, f"iteration {self.iteration}")
        contents = self.contents.draw(self.settings.batch_size, torch.Generator().manual_seed(seed))
        walk = self.objective  # first: loading a network of the base draws random numbers
        # Dropout draws from the global generator.
        with seeded(seed, "dropout"):
            rows = self._train_on(walk, contents)
        self.iteration += 1
        self.history.append({k: sum(r[k] for r in rows) / len(rows) for k in rows[0]})
        return rows

    def _train_on(self, walk: StyleObjective, contents: Contents) -> list[dict[str, float]]:
        """Denoise contents and style image from t0 to 0, with an optimiser step at every step."""
        x_t = torch.cat([contents.x_t0, walk.style_x_t0])
        before, rows = None, []
        for i in range(walk.denoising_steps - 1, -1, -1):
            self._set_learning_rates(i)
            for optimiser in self.optimisers.values():
                optimiser.zero_grad()
            x_t, x0, row = self._accumulate(i, x_t, contents)
            for optimiser in self.optimisers.values():
                optimiser.step()
            rows.append(row)
            with torch.no_grad():
                x_t, before = walk.solve(walk.schedule, i, i - 1, x_t, x0, before), x0
        return rows

    def _accumulate(
        self, i: int, x_t: Tensor, contents: Contents
    ) -> tuple[Tensor, Tensor, dict[str, float]]:
        """Add the gradients of the loss at index i, micro-batch by micro-batch.

        x_t: the contents' rows, then the style image's. The style image is a row of every
        micro-batch; weighed by their contents, the losses sum to that of the whole batch. Returns
        x_t with the SPN's term, x_0, and the weighted losses.
        """
        n = len(contents)
        size = self.settings.micro_batch or n
        x_parts, x0_parts = [], []
        row = dict.fromkeys(LOSS_NAMES, 0.0)
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            part = contents.take(rows)
            x, x0, total, losses = self.objective.loss_at(
                self.networks, i, torch.cat([x_t[rows], x_t[n:]]), part
            )
            share = len(part) / n
            row = {k: v + share * float(losses.get(k, 0.0)) for k, v in row.items()}
            if not torch.isfinite(total):
                raise DivergedError(
                    f"training diverged at iteration {self.iteration + 1}, step {i}: the loss is "
                    f"{float(total.detach())}; lower lr_unet, or use precision float32"
                )
            (share * total).backward()
            x_parts.append(x.detach())
            x0_parts.append(x0.detach())
        x_t, x0 = (
            torch.cat([*(p[:-1] for p in parts), parts[-1][-1:]]) for parts in (x_parts, x0_parts)
        )
        return x_t, x0, row

    def _set_learning_rates(self, i: int) -> None:
        """Set the rates of step i, a function of iteration and step only, as resuming needs."""
        s, steps = self.settings, self.objective.denoising_steps
        left = (s.iterations - self.iteration) * steps - (steps - 1 - i)
        decay = s.lr_decay * s.iterations * steps
        share = min(1.0, left / decay) if decay > 0 else 1.0
        for name, rate in (("unet", s.lr_unet), ("spn", s.lr_spn)):
            for group in self.optimisers[name].param_groups:
                group["lr"] = rate * share

    def style(self, style_id: str) -> Style:
        """The current state of the training as a style; a prediction keeps its factors."""
        if self.prediction is not None and self.iteration == 0:
            info = self.prediction.info | {"arithmetic": self.arithmetic}
            return replace(self.prediction, id=style_id, info=info)
        delta = trained_adapter(self.unet, self.base.diffae.unet)
        spn = {k: v.detach().clone() for k, v in self.spn.state_dict().items()}
        with torch.no_grad():
            z_style = self.base.encode_z(self.style_image)
            z_counterpart = self.base.encode_z(self.counterpart)
        info = {"base": self.base.fingerprint, "arithmetic": self.arithmetic}
        if self.prediction is not None:
            info["predictor"] = self.base.predictor_fingerprint
        palette = Palette.of(self.style_image[0])
        style = Style(style_id, delta, spn, z_style, z_counterpart, self.settings, info, palette)
        return style.half() if style.low_rank else style

    def weights(self) -> dict[str, Tensor]:
        """Copies of the trained weights of epsilon_B and the SPN, without the optimisers' state."""
        return {key: p.detach().clone() for key, p in self._trained()}

    @torch.no_grad()
    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Load weights that ``weights`` returned."""
        for key, p in self._trained():
            p.copy_(weights[key])

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(key, p) for key, p in self.networks.named_parameters() if p.requires_grad]

    def state_tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of weights and optimisers' state, as flat names for safetensors."""
        tensors: dict[str, Tensor] = dict(self._trained())
        for optimiser in self.optimisers.values():
            tensors |= adam_tensors(optimiser, self.networks.named_parameters())
        return {key: value.detach().to("cpu", copy=True) for key, value in tensors.items()}

    def state_info(self) -> dict[str, Any]:
        """The part of the state that is stored as JSON."""
        return {
            "iteration": self.iteration,
            "history": list(self.history),
            "arithmetic": self.arithmetic,
        }

    def load_state(self, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
        """Resume from ``state_tensors`` and ``state_info``, bit for bit."""
        self.iteration, self.history = info["iteration"], list(info["history"])
        self.load_weights(tensors)
        for name, network in self.networks.named_children():
            load_adam_tensors(self.optimisers[name], network.named_parameters(name), tensors)


def trainable_copy(unet: UNet, settings: TrainSettings) -> UNet:
    """A copy of epsilon_A with gradients, dropout and adapter: epsilon_B before training."""
    copied = copy.deepcopy(unet).requires_grad_(True).train()
    for module in copied.modules():
        if isinstance(module, nn.Dropout):
            module.p = settings.dropout
    if settings.adapter == "lora":
        rank = settings.adapter_rank
        train_low_rank(copied, rank, settings.adapter_alpha / rank)
    return copied
