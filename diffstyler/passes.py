"""What is computed at one step of sampling: requests, their networks' passes, and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from diffstyler.adapter import Adapter
from diffstyler.attention import RowSettings
from diffstyler.inversion import Encoding
from diffstyler.masks import fit_mask
from diffstyler.prediction import Row
from diffstyler.settings import LayerSettings, SampleSettings
from osasis.arithmetic import Arithmetic


@dataclass(frozen=True, eq=False)
class Layer:
    """A style over the picture. mask: uint8 (H, W), 255 where it shows; None: everywhere.

    weight: relative, in a blend with the other layers that have one; None: it hides those below.
    """

    adapter: Adapter
    settings: LayerSettings
    mask: Tensor | None = None
    mask_name: str = "mask"
    weight: float | None = None

    def mask_at(self, size: tuple[int, int], edges: str) -> Tensor | None:
        """The mask at (h, w); None where it is 1 everywhere. Raises UserError if it is black."""
        return None if self.mask is None else fit_mask(self.mask, size, edges, self.mask_name)


@dataclass(frozen=True, eq=False)
class Request:
    """One picture to sample. layers: later ones over earlier ones.

    arithmetic: of the UNet's forward passes.
    """

    encoding: Encoding
    layers: tuple[Layer, ...]
    settings: SampleSettings
    arithmetic: Arithmetic = "float32"

    def masks(self, size: tuple[int, int]) -> list[Tensor | None]:
        """The layers' masks at (h, w), on the encoding's device. Raises UserError."""
        found = [layer.mask_at(size, self.settings.mask_edges) for layer in self.layers]
        device = self.encoding.photo.device
        return [mask if mask is None else mask.to(device) for mask in found]

    @property
    def keeps_photo(self) -> bool:
        """Whether the photo itself is outside of all masks."""
        return self.settings.outside == "photo" and bool(self.layers)

    @property
    def source_prompt(self) -> str:
        s = self.settings
        return s.encode_prompt if s.source_prompt is None else s.source_prompt

    @property
    def prompts(self) -> list[str]:
        """All prompts that sampling reads."""
        own = [layer.settings.prompt for layer in self.layers]
        return [self.source_prompt, self.settings.negative_prompt, self.settings.base_prompt, *own]


@dataclass(frozen=True)
class Pass:
    """One network's prediction for one request: of the base, or of the base with an adapter.

    layer: index in the request; None: the base. attention, features: the source's shares. cover:
    share of the picture that it covers of the passes below, where its mask is 1.
    """

    layer: int | None
    prompt: str
    guidance: float
    strength: float
    attention: float
    features: float
    cover: float = 1.0


def base_pass(settings: SampleSettings, i: int, t: int) -> Pass:
    """The base's pass at step i, which is at timestep t."""
    s = settings
    windows = s.window(s.base_attention_window), s.window(s.base_feature_window)
    return Pass(None, s.base_prompt, s.guidance, 1.0, *_shares(s, i, t, *windows))


def layer_pass(request: Request, index: int, i: int, t: int) -> Pass:
    """A layer's pass at step i, which is at timestep t."""
    s, layer = request.settings, request.layers[index].settings
    windows = s.window(s.structure * s.attention_window), s.window(s.structure * s.feature_window)
    guidance = s.guidance if layer.guidance is None else layer.guidance
    shares = _shares(s, i, t, *windows)
    return Pass(index, layer.prompt, guidance, layer.strength, *shares)


def _shares(
    s: SampleSettings, i: int, t: int, attention: int, features: int
) -> tuple[float, float]:
    """The source's shares of q and k, min(1, t / blend_timestep), and of the features."""
    blend = min(1.0, t / s.blend_timestep)
    return (blend if i < attention else 0.0, 1.0 if i < features else 0.0)


def passes_at(request: Request, masks: Sequence[Tensor | None], i: int, t: int) -> list[Pass]:
    """The passes that are seen in the prediction of step i, lowest first.

    A layer without a mask hides all below it, unless both are of a blend. The base shows where no
    layer does, unless the photo is put there.
    """
    share = i / request.settings.decode_steps
    active = [
        n
        for n, layer in enumerate(request.layers)
        if layer.settings.start <= share < layer.settings.end
    ]
    covers = _covers(request, active)
    full = [n for n in active if masks[n] is None and covers[n] == 1]
    layers = [
        replace(layer_pass(request, n, i, t), cover=covers[n])
        for n in active
        if not full or n >= full[-1]
    ]
    all_active = len(active) == len(request.layers)
    hidden = full or (request.keeps_photo and all_active)
    return layers if hidden else [base_pass(request.settings, i, t), *layers]


def _covers(request: Request, active: Sequence[int]) -> dict[int, float]:
    """The share that each active layer covers of those below it.

    Laid over each other, the layers of a blend then have their relative weights at every step,
    whichever of them act.
    """
    covers, total = {}, 0.0
    for n in active:
        weight = request.layers[n].weight
        total += weight or 0.0
        covers[n] = 1.0 if weight is None else weight / total
    return covers


class RowBatch:
    """The rows of one forward pass at timestep t, for any number of requests.

    Sources are added where a pass takes something from them. Passes that read the same source share
    its row: with settings.inject_from ``base``, all passes of one photo.
    """

    def __init__(self, t: int, contexts: Mapping[str, Tensor], adapters: Mapping[int, int]) -> None:
        """contexts: text embeddings by prompt. adapters: index in the bank by id of the adapter."""
        self.t, self.contexts, self.adapters = t, contexts, adapters
        self.rows: list[Row] = []
        self._sources: dict[tuple[int, str, RowSettings], int] = {}

    def add_pass(self, request: Request, p: Pass, x: Tensor) -> list[int]:
        """Add a pass at x (C, h, w). Returns its rows: of the negative prompt, unless guidance is
        1, which does not read it, and of the prompt."""
        s = request.settings
        own = RowSettings()
        if p.layer is not None:
            adapter = self.adapters[id(request.layers[p.layer].adapter)]
            own = RowSettings(adapter, p.strength, s.adapter_scope == "everywhere")
        source = None
        if p.attention or p.features:
            source = self._source(request, own if s.inject_from == "own" else RowSettings())
        target = replace(own, source=source, attention=p.attention, features=p.features)
        prompts = [p.prompt] if p.guidance == 1 else [s.negative_prompt, p.prompt]
        return [self._add(x, prompt, target) for prompt in prompts]

    def _source(self, request: Request, settings: RowSettings) -> int:
        """The row of a photo's inverted latent, computed by the network of ``settings``."""
        prompt = request.source_prompt
        key = (id(request.encoding), prompt, settings)
        if key not in self._sources:
            self._sources[key] = self._add(request.encoding.at(self.t), prompt, settings)
        return self._sources[key]

    def _add(self, x: Tensor, prompt: str, settings: RowSettings) -> int:
        self.rows.append(Row(x, self.contexts[prompt], settings))
        return len(self.rows) - 1
