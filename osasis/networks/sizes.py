"""Sizes of a base's networks, as data.

A base configuration is one JSON file. The package ships those of the official checkpoints and of
its own small base (``osasis/configs``); any other file of the same form works too.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from osasis.errors import UserError

PREDICTIONS = ("eps", "v")


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of one UNet. ``z_channels`` None: the prior, which has no semantic condition."""

    image_size: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    embed_channels: int
    z_channels: int | None
    out_channels: int = 3
    heads: int = 1
    head_channels: int | None = None
    dropout: float = 0.0
    prediction: str = "eps"


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the semantic encoder."""

    image_size: int
    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    z_channels: int
    heads: int = 1


@dataclass(frozen=True)
class LatentNetConfig:
    """Sizes of the latent DDIM's MLP."""

    z_channels: int
    layers: int
    hidden: int


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of the unconditional photo prior (guided diffusion, learned variance)."""

    model_channels: int
    channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    head_channels: int

    def problems(self, image_size: int) -> list[str]:
        """What makes these sizes impossible at an image size, one line each."""
        found = []
        halvings = len(self.channel_mult) - 1
        if image_size % (1 << halvings):
            found.append(
                f"channel_mult {list(self.channel_mult)}: image_size {image_size} cannot be halved "
                f"{halvings} times"
            )
        for mult in sorted(set(self.channel_mult)):
            channels = mult * self.model_channels
            if channels % min(32, channels):
                found.append(
                    f"{channels} channels (multiplier {mult}) do not divide into 32 groups"
                )
        # Only levels with attention, and the middle, split into heads.
        with_heads = {self.channel_mult[-1]} | {
            m
            for i, m in enumerate(self.channel_mult)
            if image_size >> i in self.attention_resolutions
        }
        for mult in sorted(with_heads):
            if mult * self.model_channels % self.head_channels:
                found.append(
                    f"head_channels {self.head_channels} does not divide "
                    f"{mult * self.model_channels} channels"
                )
        return found

    def unet(self, image_size: int) -> UNetConfig:
        return UNetConfig(
            image_size=image_size,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=self.attention_resolutions,
            embed_channels=4 * self.model_channels,
            z_channels=None,
            out_channels=6,
            head_channels=self.head_channels,
        )


@dataclass(frozen=True)
class DiffAEConfig:
    """Sizes of a base's diffusion autoencoder, and of its photo prior where it has one."""

    name: str
    image_size: int
    model_channels: int
    channel_mult: tuple[int, ...]
    encoder_channel_mult: tuple[int, ...]
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    embed_channels: int
    z_channels: int
    latent_layers: int
    latent_hidden: int
    heads: int = 1
    # What the UNet's last layer predicts: the noise, as published, or the velocity v (Salimans
    # and Ho, 2022), which keeps colours right near pure noise after a short training.
    prediction: str = "eps"
    prior: PriorConfig | None = None

    @property
    def levels(self) -> int:
        """Number of resolution levels of the UNet (level 0 is the finest)."""
        return len(self.channel_mult)

    @property
    def unet(self) -> UNetConfig:
        return UNetConfig(
            image_size=self.image_size,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=self.attention_resolutions,
            embed_channels=self.embed_channels,
            z_channels=self.z_channels,
            heads=self.heads,
            prediction=self.prediction,
        )

    @property
    def encoder(self) -> EncoderConfig:
        return EncoderConfig(
            image_size=self.image_size,
            model_channels=self.model_channels,
            channel_mult=self.encoder_channel_mult,
            num_res_blocks=self.num_res_blocks,
            attention_resolutions=self.attention_resolutions,
            z_channels=self.z_channels,
            heads=self.heads,
        )

    @property
    def latent(self) -> LatentNetConfig:
        return LatentNetConfig(self.z_channels, self.latent_layers, self.latent_hidden)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = "base configuration") -> DiffAEConfig:
        """Check and build a configuration; all problems are named in one error.

        Raises UserError.
        """
        if not isinstance(data, dict):
            raise UserError(f"{source}: must be a JSON object")
        data = dict(data)
        prior = data.pop("prior", None)
        problems = _field_problems(cls, data, skip={"prior"})
        if prior is not None:
            problems += [f"prior.{p}" for p in _field_problems(PriorConfig, prior)]
        if not problems:
            config = cls(**_tuples(data), prior=PriorConfig(**_tuples(prior)) if prior else None)
            problems = config.problems()
        if problems:
            raise UserError(f"{source}: " + "; ".join(problems))
        return config

    def problems(self) -> list[str]:
        """What makes these sizes impossible, one line each; empty where they are sound."""
        found = []
        for field in ("channel_mult", "encoder_channel_mult"):
            mult = getattr(self, field)
            if self.image_size % (1 << (len(mult) - 1)):
                found.append(
                    f"image_size {self.image_size} cannot be halved {len(mult) - 1} times, as "
                    f"{field} {list(mult)} asks"
                )
        if self.prediction not in PREDICTIONS:
            found.append(
                f"prediction is {self.prediction!r}; choose one of {', '.join(PREDICTIONS)}"
            )
        if self.latent_layers < 2:
            found.append(f"latent_layers is {self.latent_layers}; at least 2 are needed")
        for mult in {*self.channel_mult, *self.encoder_channel_mult}:
            channels = mult * self.model_channels
            if channels % min(32, channels) or channels % self.heads:
                found.append(
                    f"{channels} channels (multiplier {mult}) do not divide into 32 groups and "
                    f"{self.heads} heads"
                )
        # The walk up joins each level's features with its neighbours'.
        for a, b in zip(self.channel_mult, self.channel_mult[1:], strict=False):
            joined = (a + b) * self.model_channels
            if joined % min(32, joined):
                found.append(
                    f"levels of {a * self.model_channels} and {b * self.model_channels} channels "
                    f"join to {joined}, which does not divide into 32 groups"
                )
        if self.prior is not None:
            found += [f"prior.{p}" for p in self.prior.problems(self.image_size)]
        return found


def named_configs() -> list[str]:
    """Names of the configurations that the package ships."""
    folder = resources.files("osasis") / "configs"
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".json"))


def load_config(name_or_path: str | Path) -> DiffAEConfig:
    """Load a shipped configuration by name, or any JSON file of the same form.

    Raises UserError where there is none, or where a field is missing, unknown or unsound.
    """
    text: str
    if str(name_or_path) in named_configs():
        text = (resources.files("osasis") / "configs" / f"{name_or_path}.json").read_text()
    else:
        path = Path(name_or_path)
        if not path.is_file():
            near = difflib.get_close_matches(str(name_or_path), named_configs(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"no base configuration {str(name_or_path)!r}: give a JSON file or one of "
                f"{', '.join(named_configs())}{hint}"
            )
        text = path.read_text()
    try:
        data = json.loads(text)
    except json.JSONDecodeError as e:
        raise UserError(f"{name_or_path}: not valid JSON (line {e.lineno}: {e.msg})") from None
    return DiffAEConfig.from_dict(data, source=str(name_or_path))


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def _field_problems(cls: type, data: Any, skip: frozenset[str] | set[str] = frozenset()) -> list:
    """Missing, unknown and ill-typed fields of a dataclass of ints, int tuples and strings."""
    if not isinstance(data, dict):
        return ["must be a JSON object"]
    fields = {f.name: f for f in dataclasses.fields(cls) if f.name not in skip}
    found = []
    for name, field in fields.items():
        if name not in data:
            if field.default is dataclasses.MISSING:
                found.append(f"{name} is missing")
            continue
        value, kind = data[name], str(field.type)
        if kind.startswith("tuple"):
            ok = isinstance(value, (list, tuple)) and all(
                isinstance(v, int) and v > 0 for v in value
            )
            ok = ok and (len(value) > 0 or name == "attention_resolutions")
            want = "a list of positive integers"
        elif kind == "str":
            ok, want = isinstance(value, str), "a string"
        else:
            ok = isinstance(value, int) and not isinstance(value, bool) and value > 0
            want = "a positive integer"
        if not ok:
            found.append(f"{name} is {value!r}; it must be {want}")
    found += [f"unknown field {name!r}" for name in sorted(set(data) - set(fields))]
    return found
