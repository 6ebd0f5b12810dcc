"""The training of one DiffStyler style: steps, previews and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from diffstyler.recipe import decode_rows, make_recipe
from diffstyler.style import Style, save_style
from diffstyler.train import AdapterTrainer, style_tensor
from factory.methods.interface import TrainedStyle, TrainingInputs, TrainingState
from osasis.images.decoding import load_image
from osasis.images.geometry import fit_square
from osasis.images.tensors import image_to_tensor, tensor_to_image
from osasis.metrics import style_metrics
from osasis.mix import Mix

if TYPE_CHECKING:
    from factory.methods.diffstyler.base import DiffStylerBase


class DiffStylerTraining:
    """See ``factory.methods.interface.Training``."""

    def __init__(
        self, base: DiffStylerBase, inputs: TrainingInputs, state: TrainingState | None
    ) -> None:
        self.base, self.inputs, self.settings = base, inputs, inputs.settings
        side = self.settings.resolution or base.image_size
        image = load_image(inputs.image, name=inputs.name, target=side)
        self.image = style_tensor(image, self.settings, base.image_size, inputs.name)
        # A resumed training keeps its arithmetic, even if this machine would choose another.
        arithmetic = state[1]["arithmetic"] if state else None
        self.trainer = AdapterTrainer(
            base.networks, self.image, self.settings, arithmetic=arithmetic
        )
        self.trainer.recompute |= inputs.recompute
        if state is not None:
            self.trainer.load_state(*state)

    @property
    def iteration(self) -> int:
        return self.trainer.iteration

    @property
    def iterations(self) -> int:
        steps: int = self.settings.steps
        return steps

    @property
    def history(self) -> list[dict[str, float]]:
        return self.trainer.history

    @property
    def done(self) -> bool:
        return self.iteration >= self.iterations

    def step(self) -> None:
        self.trainer.step()

    def state(self) -> TrainingState:
        return self.trainer.state_tensors(), self.trainer.state_info()

    def finish(self, style_id: str, info: Mapping[str, Any]) -> TrainedStyle:
        own = {"arithmetic": self.trainer.arithmetic, **info}
        adapter, prompt = self.trainer.adapter(), self.trainer.prompt
        style = Style(style_id, adapter, prompt, self.settings, own).half()
        images = self._previews(style)
        save = partial(save_style, style=style, style_image=self.image)
        return TrainedStyle(style, images, self._metrics(images), save)

    def _previews(self, style: Style) -> Tensor:
        """The preview photos in the style, in float32, so that they are the same everywhere."""
        base = self.base
        plan = base.plan(None, self.settings, "float32")
        encodings = base.preview_encodings(self.inputs.previews, plan)
        recipe = make_recipe(base.networks, Mix.of(style.id), {style.id: style}, plan)
        return decode_rows(base.networks, [(encodings, recipe)], pass_size=base.largest_pass)

    def _metrics(self, images: Tensor) -> dict[str, float]:
        square = fit_square(tensor_to_image(self.image), self.base.image_size)
        style_image = image_to_tensor(square)[None].to(images)
        found = style_metrics(
            self.base.judge, self.inputs.previews.to(images), images, style_image, None
        )
        return {name: found[name] for name in self.base.method.metrics}
