"""What is computed at one step of sampling: requests, their networks' passes, and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from diffstyler.adapter import Adapter
from diffstyler.attention import RowSettings
from diffstyler.inversion import Encoding
from diffstyler.masks import fit_mask
from diffstyler.prediction import Row
from diffstyler.settings import LayerSettings, SampleSettings


@dataclass(frozen=True, eq=False)
class Layer:
    """A style over the picture. mask: uint8 (H, W), 255 where it shows; None: everywhere."""

    adapter: Adapter
    settings: LayerSettings
    mask: Tensor | None = None
    mask_name: str = "mask"


@dataclass(frozen=True, eq=False)
class Request:
    """One picture to sample. layers: later ones over earlier ones."""

    encoding: Encoding
    layers: tuple[Layer, ...]
    settings: SampleSettings

    def masks(self, size: tuple[int, int]) -> list[Tensor | None]:
        """The layers' masks at (h, w), on the encoding's device. Raises UserError."""
        found = [
            layer.mask
            if layer.mask is None
            else fit_mask(layer.mask, size, self.settings.mask_edges, layer.mask_name)
            for layer in self.layers
        ]
        device = self.encoding.photo.device
        return [mask if mask is None else mask.to(device) for mask in found]

    @property
    def prompts(self) -> list[str]:
        s = self.settings
        own = [layer.settings.prompt for layer in self.layers]
        return [s.encode_prompt, s.negative_prompt, s.prompt, *own]


@dataclass(frozen=True)
class Pass:
    """One network's prediction for one request: of the base, or of the base with an adapter.

    layer: index in the request; None: the base. attention, features: the source's shares.
    """

    layer: int | None
    prompt: str
    guidance: float
    strength: float
    attention: float
    features: float


def base_pass(settings: SampleSettings, i: int, t: int) -> Pass:
    """The base's pass at step i, which is at timestep t."""
    s = settings
    windows = s.window(s.base_attention_window), s.window(s.base_feature_window)
    return Pass(None, s.prompt, s.guidance, 1.0, *_shares(s, i, t, *windows))


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

    A layer without a mask hides all below it. The base shows where no layer does, unless the photo
    is put there.
    """
    share = i / request.settings.decode_steps
    active = [
        n
        for n, layer in enumerate(request.layers)
        if layer.settings.start <= share < layer.settings.end
    ]
    full = [n for n in active if masks[n] is None]
    layers = [layer_pass(request, n, i, t) for n in active if not full or n >= full[-1]]
    all_active = len(active) == len(request.layers)
    hidden = full or (request.settings.outside == "photo" and all_active and active)
    return layers if hidden else [base_pass(request.settings, i, t), *layers]


def rows_of(
    request: Request,
    passes: Sequence[Pass],
    x: Tensor,
    t: int,
    contexts: Mapping[str, Tensor],
    adapters: Mapping[int, int],
    first: int = 0,
) -> tuple[list[Row], list[tuple[int, int]]]:
    """Rows of a request's passes, and the (negative, prompt) rows of each.

    A source's row is there only where a pass takes something from it: one for each pass where
    settings.inject_from is ``own``, else one for all. x: (C, h, w). contexts: embeddings by prompt.
    adapters: indices in the bank by the id of the adapter. first: index of the first row.
    """
    s = request.settings
    rows: list[Row] = []
    spans: list[tuple[int, int]] = []
    shared: int | None = None

    def add(x: Tensor, prompt: str, settings: RowSettings) -> int:
        rows.append(Row(x, contexts[prompt], settings))
        return first + len(rows) - 1

    for p in passes:
        adapter = None if p.layer is None else adapters[id(request.layers[p.layer].adapter)]
        own = RowSettings(adapter, p.strength, s.adapter_scope == "everywhere")
        source = None
        if p.attention or p.features:
            if s.inject_from == "own":
                source = add(request.encoding.at(t), s.encode_prompt, own)
            elif shared is None:
                shared = add(request.encoding.at(t), s.encode_prompt, RowSettings())
            source = shared if source is None else source
        target = RowSettings(
            own.adapter, own.scale, own.everywhere, source, p.attention, p.features
        )
        spans.append((add(x, s.negative_prompt, target), add(x, p.prompt, target)))
    return rows, spans
