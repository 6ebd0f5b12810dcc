"""The training of one OSASIS style: photo counterpart, iterations, early stopping, metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file
from torch import Tensor

from factory.methods.interface import TrainedStyle, TrainingInputs, TrainingState
from osasis.arithmetic import resolve
from osasis.bundles.style import Style, save_style
from osasis.contents import ContentSource, SampledContents
from osasis.counterpart import photo_counterpart
from osasis.early_stopping import EarlyStopping
from osasis.images.decoding import load_image
from osasis.images.geometry import fit_square
from osasis.images.tensors import image_to_tensor
from osasis.metrics import style_metrics
from osasis.mix import Mix
from osasis.preview_encodings import preview_plan
from osasis.recompute import recompute_activations
from osasis.storage import save_tensors
from osasis.stylize import decode
from osasis.train import StyleTrainer

if TYPE_CHECKING:
    from factory.methods.osasis.base import OsasisBase

COUNTERPART = "counterpart.safetensors"


class OsasisTraining:
    """See ``factory.methods.interface.Training``."""

    def __init__(
        self, base: OsasisBase, inputs: TrainingInputs, state: TrainingState | None
    ) -> None:
        self.base, self.inputs, self.settings = base, inputs, inputs.settings
        settings = self.settings
        image = self._load_image(inputs.image, inputs.name)
        bank = base.bank(inputs.bank)
        counterpart = self._counterpart(image)
        # A resumed training keeps its arithmetic, even if this machine would choose another.
        saved_arithmetic = state[1].get("arithmetic") if state else None
        arithmetic = saved_arithmetic or resolve(settings.precision, base.device)
        contents: ContentSource = (
            bank
            if settings.contents == "bank" and bank is not None
            else SampledContents(base.networks, settings, arithmetic)
        )
        self.trainer = StyleTrainer(
            base.networks, image, counterpart, contents, settings, arithmetic
        )
        if inputs.recompute:
            recompute_activations(self.trainer.unet, self.trainer.spn)
        self.stopping = EarlyStopping(settings)
        if state is not None:
            tensors, info = state
            self.trainer.load_state(tensors, info)
            self.stopping.load_state(tensors, info["watch"])

    @property
    def iteration(self) -> int:
        return self.trainer.iteration

    @property
    def iterations(self) -> int:
        count: int = self.settings.iterations
        return count

    @property
    def history(self) -> list[dict[str, float]]:
        return self.trainer.history

    @property
    def done(self) -> bool:
        return self.iteration >= self.iterations or self.stopping.should_stop

    def step(self) -> None:
        self.trainer.step()
        if not self.stopping.is_due(self.iteration):
            return
        metrics = None
        if self.settings.watch != "total":
            _, metrics = self._measure(self.trainer.style("watched"))
        self.stopping.evaluate(self.trainer, metrics)

    def state(self) -> TrainingState:
        tensors = {**self.trainer.state_tensors(), **self.stopping.state_tensors()}
        return tensors, {**self.trainer.state_info(), "watch": self.stopping.state_info()}

    def finish(self, style_id: str, info: Mapping[str, Any]) -> TrainedStyle:
        trainer, settings = self.trainer, self.settings
        iteration_kept = self.stopping.restore_best(trainer)
        style = trainer.style(style_id)
        style.info |= info
        if iteration_kept != trainer.iteration or trainer.iteration != settings.iterations:
            style.info |= {
                "iterations_trained": trainer.iteration,
                "iteration_kept": iteration_kept,
            }
        if settings.compact_rank is not None:
            style = style.compact(rank=settings.compact_rank)
        elif settings.compact_energy is not None:
            style = style.compact(energy=settings.compact_energy)
        images, metrics = self._measure(style)
        save = partial(
            save_style,
            style=style,
            style_image=trainer.style_image[0],
            counterpart=trainer.counterpart[0],
        )
        return TrainedStyle(style, images, metrics, save)

    def _load_image(self, path: Path, name: str) -> Tensor:
        """(1, 3, H, W) in [-1, 1] on the device. name: replaces the path in an ImageError."""
        size = self.base.image_size
        image = load_image(path, name=name or str(path), target=size)
        return image_to_tensor(fit_square(image, size))[None].to(self.base.device)

    def _counterpart(self, image: Tensor) -> Tensor:
        """The counterpart (1, 3, H, W): given, or computed and stored for a resumed training."""
        inputs, base = self.inputs, self.base
        if inputs.counterpart is not None:
            return self._load_image(inputs.counterpart, f"counterpart of {inputs.name}")
        path = inputs.folder / COUNTERPART
        if path.is_file():
            return load_file(path)["counterpart"].to(base.device)
        counterpart = photo_counterpart(base.networks, image, self.settings, base.bank(inputs.bank))
        save_tensors(path, {"counterpart": counterpart})
        return counterpart

    def _measure(self, style: Style) -> tuple[Tensor, dict[str, float]]:
        """The preview photos in a style, (N, 3, H, W) in [-1, 1], and the style's metrics."""
        base, trainer = self.base.networks, self.trainer
        photos = self.inputs.previews
        if not len(photos):
            return photos, {}
        encodings = self.base.preview_encodings(photos, preview_plan(self.settings))
        images = decode(base, encodings, Mix.of(style.id), {style.id: style})
        return images, style_metrics(base, photos, images, trainer.style_image, trainer.counterpart)
