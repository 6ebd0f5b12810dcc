"""What factory, corpora and serving know of a method: its bases, styles and trainings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from torch import Tensor

from osasis.arithmetic import Arithmetic, Precision
from osasis.mix import Mix
from osasis.validation import InputModel, Problem

if TYPE_CHECKING:
    import torch

    from factory.core.claims import Claims
    from factory.core.home import Home
    from factory.core.stores import Location
    from osasis.bundles.base import Base as Judge

E = TypeVar("E", bound="Encodings")
S = TypeVar("S", bound="Style")
# Called with the steps done and their number.
Progress = Callable[[int, int], None]


class Plan(Protocol):
    """How photos are encoded: a frozen dataclass, whose text identifies the encoding."""

    @property
    def arithmetic(self) -> Arithmetic: ...

    @property
    def steps(self) -> int: ...

    @property
    def calls(self) -> int:
        """Network calls of an inversion of a full schedule."""


class Encodings(Protocol):
    """Encoded photos, independent of the style."""

    @property
    def nbytes(self) -> int: ...

    def take(self: E, index: slice | Tensor) -> E:
        """The photos of these rows."""

    def own(self: E) -> E:
        """A copy that does not keep a larger batch's tensors in memory."""


class Style(Protocol):
    """A trained style. info: content of style.json. low_rank: whether its weights are factors."""

    id: str
    info: dict[str, Any]

    @property
    def settings(self) -> Any: ...

    @property
    def low_rank(self) -> bool: ...

    @property
    def nbytes(self) -> int: ...

    def tensors(self) -> Sequence[Tensor]: ...

    def map(self: S, change: Callable[[Tensor], Tensor]) -> S:
        """A copy with ``change`` applied to the weights."""

    def to(self: S, device: torch.device | str, *, non_blocking: bool = False) -> S: ...


class Recipe(Protocol):
    """A mix, resolved for photos that are encoded by ``plan``."""

    @property
    def plan(self) -> Any: ...

    @property
    def low_rank(self) -> bool: ...


@dataclass(frozen=True)
class Bank:
    """What a base's trainings share. location: path or URI of its folder. contents: number of
    photos. seconds: None if not computed."""

    location: str
    contents: int
    seconds: float | None


@dataclass(frozen=True)
class ContentPhotos:
    """Photos that replace the base's own as contents: (N, 3, H, W) uint8."""

    tensor: Tensor

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.tensor.numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class TrainingInputs:
    """One style to train.

    name: of the image, for messages. folder: keeps what a resumed training reads again. bank:
    location of a bank of ``LoadedBase.banks``. previews: (N, 3, H, W) in [-1, 1], photos to
    measure the style on; with N = 0 it is not measured.
    recompute: compute activations again in the backward pass, for less memory.
    """

    image: Path
    name: str
    counterpart: Path | None
    settings: Any
    folder: Path
    bank: Location | None
    previews: Tensor
    recompute: bool = False


# Tensors and JSON data of a training's checkpoint.
TrainingState = tuple[dict[str, Tensor], dict[str, Any]]


class Training(Protocol):
    """The training of one style. history: losses of each iteration."""

    @property
    def iteration(self) -> int: ...

    @property
    def iterations(self) -> int:
        """The most iterations; a training may end before."""

    @property
    def history(self) -> list[dict[str, float]]: ...

    @property
    def done(self) -> bool: ...

    def step(self) -> None:
        """One iteration. Raises DivergedError."""

    def state(self) -> TrainingState:
        """Copies of the state, from which a training resumes bit for bit."""

    def finish(self, style_id: str, info: Mapping[str, Any]) -> TrainedStyle:
        """The style as it is stored, with its pictures of the previews and its metrics."""


@dataclass(frozen=True)
class TrainedStyle:
    """images: (N, 3, H, W) in [-1, 1], the previews in this style. save: writes its folder."""

    style: Style
    images: Tensor
    metrics: dict[str, float]
    save: Callable[[Path], object]


class LoadedBase(Protocol):
    """A loaded base, and what its method computes with it.

    photos: (N, 3, H, W) uint8, example photos, or None. largest_pass: most images of a forward
    pass on its device. info: content of base.json.
    """

    @property
    def method(self) -> Method: ...

    @property
    def info(self) -> dict[str, Any]: ...

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def preset(self) -> str: ...

    @property
    def image_size(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def training_identity(self, settings: Any) -> str:
        """Identifies the parts of the base that a training with these settings depends on.

        Raises UserError where a part that the settings need is missing.
        """

    @property
    def photos(self) -> Tensor | None: ...

    @property
    def held_out(self) -> Tensor | None:
        """The photos of ``photos`` that styles do not train on."""

    @property
    def largest_pass(self) -> int: ...

    @property
    def judge(self) -> Judge:
        """The base whose guide and perceptual net measure pictures."""

    def plan(self, mix: Mix | None, settings: Any, precision: Precision | None = None) -> Plan:
        """How a mix (None: one without overrides) encodes photos.

        settings: of the mix's first style. precision: overrides that of the settings.
        """

    def encode(self, photos: Tensor, plan: Any, *, progress: Progress | None = None) -> Encodings:
        """Encode photos (B, 3, H, W) in [-1, 1] on the base's device."""

    def recipe(
        self,
        mix: Mix,
        styles: Mapping[str, Any],
        plan: Any,
        *,
        masks: Mapping[str, Tensor] | None = None,
        text_edits: Mapping[str, Tensor] | None = None,
    ) -> Recipe:
        """Resolve a mix. styles: by their names in the mix. masks: (H, W) in [0, 1], by name.

        Raises InvalidInputError naming every problem.
        """

    def groups(self, recipes: Sequence[Any], pass_size: int) -> list[list[int]]:
        """Indices of the rows that ``decode_rows`` computes together, group by group."""

    def decode_rows(
        self,
        rows: Sequence[tuple[Any, Any]],
        *,
        pass_size: int | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """Decode encodings, each with its own recipe, to (B, 3, H, W) in [-1, 1].

        pass_size: most rows of a forward pass; None: ``largest_pass``.
        """

    def banks(
        self,
        settings: Sequence[Any],
        home: Home,
        report: Callable[[str], None],
        claims: Claims,
        photos: ContentPhotos | None = None,
    ) -> list[Bank | None]:
        """What the trainings of these settings share, computed on Ray where it is missing.

        home: keeps it. photos: replace the base's own.
        """

    def ready_bank(
        self, settings: Any, home: Home, photos: ContentPhotos | None = None
    ) -> tuple[bool, str | None]:
        """Whether ``banks`` would compute nothing for these settings, and the bank's location; None
        where the training needs none."""

    def train(self, inputs: TrainingInputs, state: TrainingState | None) -> Training:
        """A training, resumed from ``state`` if given. Raises ImageError for a bad image."""

    def compact(self, style: Any, rank: int) -> tuple[Any, Callable[[Path, Path], object]]:
        """A style with factors of this rank, and a function that writes its folder, given that of
        ``style``. Raises UserError."""

    def import_style(
        self, style_id: str, file: Path, image: Path, counterpart: Path | None, prompt: str | None
    ) -> tuple[Style, Callable[[Path], object]]:
        """A style from a file of another program, and a function that writes its folder.

        Raises UserError for arguments that the method does not take.
        """


class Method(Protocol):
    """A method: its settings, its metrics, the fields of the mix that it understands.

    share_fields: those of each style in a mix, beside style, weight and mask. any_shape: whether a
    base computes with photos of any shape (fit ``whole``), or with squares alone.
    models_photos: whether a base models photos of a domain, on which contents, photo counterparts,
    densities and SDEdit rely. metrics: of a trained style. pass_sizes: images of a forward pass by
    device.
    """

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> type[InputModel]: ...

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]: ...

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def mix_fields(self) -> frozenset[str]: ...

    @property
    def share_fields(self) -> frozenset[str]: ...

    @property
    def any_shape(self) -> bool: ...

    @property
    def models_photos(self) -> bool: ...

    @property
    def pass_sizes(self) -> Mapping[str, int]: ...

    def make_settings(self, preset: str, **overrides: Any) -> Any:
        """Settings of a preset with overridden fields. Raises InvalidInputError."""

    def relevant(self, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings that affect a style's weights, as its fingerprint hashes them."""

    def can_recompute(self, settings: Any) -> bool:
        """Whether a training with less memory is possible (``TrainingInputs.recompute``)."""

    def check_base(self, folder: Path) -> dict[str, Any]:
        """The content of base.json. Raises UserError where it is not a base of this method."""

    def image_size(self, info: Mapping[str, Any]) -> int:
        """Side in pixels of the squares that a base computes with. info: content of base.json."""

    def makes_styles(self, folder: Path) -> bool:
        """Whether the base in a folder makes styles from an image without training."""

    def facts(self, info: Mapping[str, Any]) -> dict[str, Any]:
        """What a client needs to know of a base to make mixes. info: content of base.json."""

    def mix_problems(self, mix: Mix, info: Mapping[str, Any]) -> list[Problem]:
        """Problems of a mix with a base, beside fields that are not of the method."""

    def mix_defaults(self, style: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the fields that a mix leaves None, by name. style: content of the first style's
        style.json. base: content of base.json. Raises InvalidInputError."""

    def keeps_photo(self, style: Mapping[str, Any]) -> bool:
        """Whether the photo itself is outside of all masks of a mix whose first style this is; else
        it is the base's picture. style: content of style.json. Raises InvalidInputError."""

    def load_base(self, folder: Path, device: str | torch.device) -> LoadedBase: ...

    def load_style(self, folder: Path, base: Any | None) -> Style: ...
