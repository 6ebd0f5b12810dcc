"""Settings of training, inversion and sampling, and their presets.

Preset ``reference`` is the published code to the letter. Each of its accidents is a field, which
the other presets set otherwise.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, Field

from diffstyler.prompts import TEMPLATE
from diffstyler.schedule import TRAIN_STEPS, leading_timesteps
from osasis.choices import Precision
from osasis.errors import did_you_mean
from osasis.validation import InputModel, InvalidInputError, Problem

M = TypeVar("M", bound=InputModel)

Prompt = Annotated[str, Field(max_length=1000)]
# With 1000 steps the last leading timestep would lie outside the schedule.
Steps = Annotated[int, Field(ge=1, le=TRAIN_STEPS - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Guidance = Annotated[float, Field(ge=0, le=100)]
Window = Annotated[float, Field(ge=0, le=TRAIN_STEPS)]


def _multiple_of_8(value: int) -> int:
    if value % 8:
        raise ValueError(f"a multiple of 8 is needed, such as {-(-value // 8) * 8}")
    return value


def _one_or_multiple_of_8(value: int) -> int:
    return value if value == 1 else _multiple_of_8(value)


# The VAE of Stable Diffusion makes one pixel of a latent of 8x8 of an image.
Resolution = Annotated[int, Field(ge=32, le=4096), AfterValidator(_multiple_of_8)]
_RESOLUTION = "pixels of the style image's shorter side; null: the base's image size"
Multiple = Annotated[int, Field(ge=1, le=64), AfterValidator(_one_or_multiple_of_8)]
_MULTIPLE = (
    "sides become the nearest multiple of this many pixels, itself a multiple of 8; 1: the longer "
    "side is cut to whole pixels, as published"
)


class TrainSettings(InputModel):
    """Settings of training one style's adapter."""

    subject: ClassVar[str] = "settings"

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="seed of every random draw of the training"
    )
    steps: Annotated[int, Field(ge=1, le=100_000)] = Field(200, description="optimiser steps")
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="noised copies of the style image a step"
    )
    lr: Annotated[float, Field(ge=0, le=1)] = Field(2e-4, description="AdamW's learning rate")
    weight_decay: Share = Field(0.01, description="AdamW's weight decay")
    rank: Annotated[int, Field(ge=1, le=1024)] = Field(16, description="rank of the adapter")
    attentions: Literal["all", "self", "cross"] = Field(
        "all", description="attentions whose q, k, v and output projections the adapter changes"
    )
    prompt: Prompt = Field(
        TEMPLATE,
        description="prompt of the style image; `{subject}` is replaced by `content`",
    )
    content: Prompt = Field("", description="what the style image shows, such as `deer, grass`")
    resolution: Resolution | None = Field(None, description=_RESOLUTION)
    multiple: Multiple = Field(8, description=_MULTIPLE)
    crop: bool = Field(
        False, description="train on random squares of the image; costs a VAE encoding a step"
    )
    flip: bool = Field(False, description="train on the mirrored image too, half of the time")
    precision: Precision = Field(
        "float32",
        description="arithmetic of the UNet's forward passes; `auto`: bfloat16 where the device "
        "has instructions for it, else float32",
    )
    recompute: bool = Field(
        False,
        description="compute activations again in the backward pass: a fraction of the memory, "
        "more time, the same result; a style that runs out of memory is retried so",
    )
    checkpoint_every: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="steps between checkpoints; null: by checkpoint_seconds"
    )
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        15.0, description="least time between checkpoints, which are written beside the training"
    )


class LayerSettings(InputModel):
    """How one style is laid over the picture."""

    subject: ClassVar[str] = "layer"

    prompt: Prompt = Field("", description="prompt of the style, as a rule that of its training")
    strength: Annotated[float, Field(ge=0, le=4)] = Field(
        1.0, description="factor of the adapter's change"
    )
    guidance: Guidance | None = Field(
        None, description="classifier-free guidance of this style; null: that of the settings"
    )
    start: Share = Field(0.0, description="share of the denoising after which the style acts")
    end: Share = Field(1.0, description="share of the denoising up to which the style acts")

    def cross_problems(self) -> list[Problem]:
        if self.start < self.end:
            return []
        return [Problem("end", self.end, f"end is {self.end}", f"a number above {self.start:g}")]


class SampleSettings(InputModel):
    """Settings of inversion and sampling."""

    subject: ClassVar[str] = "settings"

    multiple: Multiple = Field(8, description=_MULTIPLE)
    encode_steps: Steps = Field(999, description="inversion steps")
    encode_prompt: Prompt = Field("", description="prompt of the inversion, without guidance")
    source_prompt: Prompt | None = Field(
        None,
        description="prompt of the source while sampling; null: encode_prompt; published: empty",
    )
    decode_steps: Steps = Field(50, description="denoising steps")
    base_prompt: Prompt = Field("", description="prompt of the base, outside of the styles")
    negative_prompt: Prompt = Field(
        "ugly, blurry, black, low res, unrealistic",
        description="prompt that guidance leads away from; not read at guidance 1",
    )
    guidance: Guidance = Field(
        10.5,
        description="scale of the classifier-free guidance; 1: none, which is faster",
    )
    window_unit: Literal["steps", "share"] = Field(
        "share", description="unit of the windows: denoising steps, or shares of all of them"
    )
    attention_window: Window = Field(
        0.5, description="first part of the denoising, in which styles take the source's q and k"
    )
    feature_window: Window = Field(
        0.6, description="first part of the denoising, in which styles take the source's features"
    )
    base_attention_window: Window = Field(
        1.0, description="first part of the denoising, in which the base takes the source's q and k"
    )
    base_feature_window: Window = Field(
        1.0,
        description="first part of the denoising, in which the base takes the source's features",
    )
    structure: Annotated[float, Field(ge=0, le=10)] = Field(
        1.0, description="factor of the styles' attention_window and feature_window"
    )
    blend_timestep: Annotated[int, Field(ge=1, le=TRAIN_STEPS)] = Field(
        500,
        description="the source's share of q and k is min(1, t / blend_timestep); 1: all of it at "
        "every timestep",
    )
    inject_from: Literal["own", "base"] = Field(
        "base",
        description="the source's row is computed by each style's `own` network, as published, or "
        "once by the `base` for all styles",
    )
    adapter_scope: Literal["everywhere", "outside_injection"] = Field(
        "everywhere",
        description="where adapters act; the published code leaves them out of the injected "
        "self-attentions, at every step",
    )
    mask_edges: Literal["hard", "soft"] = Field(
        "soft",
        description="`hard`, as published: any grey above 0 counts as white; `soft`: grey mixes",
    )
    outside: Literal["base", "photo"] = Field(
        "photo",
        description="outside of all masks: the base's picture, as published, or the photo itself",
    )

    def window(self, value: float) -> int:
        """Denoising steps of a window."""
        steps = value * self.decode_steps if self.window_unit == "share" else value
        return min(self.decode_steps, round(steps))

    def cross_problems(self) -> list[Problem]:
        found = []
        kept = set(leading_timesteps(self.encode_steps))
        if not kept.issuperset(leading_timesteps(self.decode_steps)):
            message = (
                f"encode_steps is {self.encode_steps}, but inversion must visit all timesteps of "
                f"{self.decode_steps} decode_steps"
            )
            allowed = f"{self.decode_steps} or {TRAIN_STEPS - 1}"
            found.append(Problem("encode_steps", self.encode_steps, message, allowed))
        windows = ("attention_window", "feature_window")
        for name in (*windows, *(f"base_{name}" for name in windows)):
            value = getattr(self, name)
            if self.window_unit == "share" and value > 1:
                message = f"{name} is {value:g} with window_unit share"
                found.append(Problem(name, value, message, "a number in [0, 1]"))
        if self.multiple == 1 and self.outside == "photo":
            message = "multiple is 1, but with outside photo the photo and its picture must be of "
            allowed = "8 or a multiple of it, unless outside is base"
            found.append(Problem("multiple", 1, f"{message}the same size", allowed))
        return found


class StyleSettings(TrainSettings, SampleSettings):
    """Settings of a style: of its training, and the defaults of its sampling."""

    def sampling(self, **changes: Any) -> SampleSettings:
        """The settings of sampling, with changes. Raises InvalidInputError."""
        own = {name: getattr(self, name) for name in SampleSettings.model_fields}
        return SampleSettings.parse(own | changes, "mix")


TRAIN_PRESETS: dict[str, dict[str, Any]] = {
    # The published code, lora_train.py.
    "reference": {"multiple": 1},
    "default": {"precision": "auto"},
    # For small bases (``base train-diffstyler``). On one of them the loss hardly falls in 100 steps
    # with lr 1e-3, and rises with 2e-2.
    "small": {"precision": "auto", "steps": 60, "batch_size": 2, "lr": 5e-3},
}

SAMPLE_PRESETS: dict[str, dict[str, Any]] = {
    # The published code, preprocess.py and diffstyler.py.
    "reference": {
        "multiple": 1,
        "source_prompt": "",
        "window_unit": "steps",
        "attention_window": 25.0,
        "feature_window": 30.0,
        "base_attention_window": 50.0,
        "base_feature_window": 50.0,
        "inject_from": "own",
        "adapter_scope": "outside_injection",
        "mask_edges": "hard",
        "outside": "base",
    },
    # A twentieth of the published inversion. Not yet chosen by measurement.
    "default": {"encode_steps": 50},
    # On a small base, guidance above 1 leads away from the style (docs/contributing/decisions.md).
    "small": {"encode_steps": 25, "decode_steps": 25, "guidance": 1.0},
}


PRESETS: dict[str, dict[str, Any]] = {
    name: TRAIN_PRESETS[name] | SAMPLE_PRESETS[name] for name in TRAIN_PRESETS
}


def make_settings(preset: str = "default", **overrides: Any) -> StyleSettings:
    """Settings of a style, of a preset with overridden fields. Raises InvalidInputError."""
    return _make(StyleSettings, PRESETS, preset, overrides)


def make_train_settings(preset: str = "default", **overrides: Any) -> TrainSettings:
    """Training settings of a preset with overridden fields. Raises InvalidInputError."""
    return _make(TrainSettings, TRAIN_PRESETS, preset, overrides)


def make_sample_settings(preset: str = "default", **overrides: Any) -> SampleSettings:
    """Sampling settings of a preset with overridden fields. Raises InvalidInputError."""
    return _make(SampleSettings, SAMPLE_PRESETS, preset, overrides)


def _make(
    model: type[M], presets: dict[str, dict[str, Any]], preset: str, overrides: dict[str, Any]
) -> M:
    if preset not in presets:
        message = f"unknown preset {preset!r}{did_you_mean(preset, presets)}"
        problem = Problem("preset", preset, message, f"one of {', '.join(presets)}")
        raise InvalidInputError("settings", [problem])
    return model.parse({**presets[preset], **overrides})
