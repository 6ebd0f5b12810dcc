"""The base: the frozen pretrained bundle of a photo domain.

On disk a base is one folder: ``base.json`` (sizes, guide, perceptual net, provenance) and
safetensors files. No file is a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from osasis.bundles.files import (
    BASE_JSON,
    DEFAULT_METHOD,
    method_name,
    read_base_json,
    read_bundle_json,
    verify_files,
)
from osasis.bundles.predictor import load_predictor, read_predictor_info
from osasis.devices import required_device
from osasis.diffusion import EpsFn
from osasis.errors import UserError
from osasis.guides.guide import (
    CombinedGuide,
    Guide,
    OpenClipGuide,
    StatisticsGuide,
    open_clip_guide,
)
from osasis.guides.perceptual import PerceptualNet
from osasis.networks.checkpoint_keys import check_layout
from osasis.networks.diffae import DiffAE
from osasis.networks.sizes import DiffAEConfig
from osasis.networks.style_predictor import StylePredictor
from osasis.networks.unet import UNet
from osasis.storage import save_tensors, sha256_file, sha256_text, to_float16, write_json

FORMAT = 1
P = TypeVar("P")
M = TypeVar("M", bound=torch.nn.Module)


@dataclass(frozen=True)
class Deferred(Generic[P]):
    """A part of a base that is loaded on first use."""

    load: Callable[[], P]


class Base:
    """A loaded base.

    z_mean, z_std: (1, D), statistics of the semantic codes.
    guide, perceptual, prior, predictor: loaded or ``Deferred``. Stylization uses none of them, and
    importing their packages takes longer than loading the rest of the base.
    predictor_fingerprint: hash of the predictor's weights; "" without a predictor.
    photos: (N, 3, H, W) uint8, example photos of the domain, or None. Styles train on them, and
    without a prior they guide the photo counterpart. info: content of base.json.
    """

    def __init__(
        self,
        config: DiffAEConfig,
        diffae: DiffAE,
        z_mean: Tensor,
        z_std: Tensor,
        guide: Guide | Deferred[Guide],
        perceptual: PerceptualNet | Deferred[PerceptualNet],
        prior: UNet | Deferred[UNet | None] | None = None,
        photos: Tensor | None = None,
        info: dict[str, Any] | None = None,
        predictor: StylePredictor | Deferred[StylePredictor] | None = None,
        predictor_fingerprint: str = "",
    ) -> None:
        self.config, self.diffae = config, diffae
        self.z_mean, self.z_std = z_mean, z_std
        self._guide, self._perceptual, self._prior = guide, perceptual, prior
        self.photos, self.info = photos, info or {}
        self._predictor, self.predictor_fingerprint = predictor, predictor_fingerprint

    def replace(self, **changes: Any) -> Base:
        """A copy with some constructor arguments replaced."""
        # The attributes are the constructor's arguments; those of parts have a leading underscore.
        arguments = {name.lstrip("_"): value for name, value in vars(self).items()}
        return Base(**(arguments | changes))

    @property
    def guide(self) -> Guide:
        self._guide = self._loaded(self._guide)
        return self._guide

    @property
    def perceptual(self) -> PerceptualNet:
        self._perceptual = self._loaded(self._perceptual)
        return self._perceptual

    @property
    def prior(self) -> UNet | None:
        self._prior = self._loaded(self._prior)
        return self._prior

    @property
    def predictor(self) -> StylePredictor | None:
        if self._predictor is not None:
            self._predictor = self._loaded(self._predictor)
        return self._predictor

    def _loaded(self, part: P | Deferred[P]) -> P:
        """Load a deferred part onto the base's device; return a loaded part unchanged."""
        if not isinstance(part, Deferred):
            return part
        loaded = part.load()
        if isinstance(loaded, torch.nn.Module):
            loaded.to(self.device)
        return loaded

    @property
    def name(self) -> str:
        return self.info.get("name", self.config.name)

    @property
    def fingerprint(self) -> str:
        return self.info.get("fingerprint", "")

    @property
    def preset(self) -> str:
        """Preset with which styles of this base train by default."""
        return self.info.get("preset") or suggested_preset(self.config)

    @property
    def device(self) -> torch.device:
        return self.z_mean.device

    @property
    def image_size(self) -> int:
        """Side in pixels of the squares that the base computes with."""
        return self.config.image_size

    def to(self, device: str | torch.device) -> Base:
        """Move the loaded parts; deferred parts are moved when they are loaded."""
        for part in (self.diffae, self._guide, self._perceptual, self._prior, self._predictor):
            if isinstance(part, torch.nn.Module):
                part.to(device)
        self.z_mean, self.z_std = self.z_mean.to(device), self.z_std.to(device)
        return self

    def encode_z(self, images: Tensor) -> Tensor:
        """Semantic codes z. (B, 3, H, W) in [-1, 1] -> (B, D)."""
        return self.diffae.encoder(images)

    def eps_a(self, z: Tensor) -> EpsFn:
        """epsilon_A conditioned on z (B, D), as a function of (x_t, t)."""
        return lambda x, t: self.diffae.unet(x, t, z)


def suggested_preset(config: DiffAEConfig) -> str:
    """``fast`` for the small bases on which it was tuned, else ``default``."""
    return "fast" if config.image_size <= 64 else "default"


def frozen(module: M) -> M:
    """Prepare for inference: no gradients, channels last (twice as fast in bfloat16)."""
    module.requires_grad_(False)
    return module.eval().to(memory_format=torch.channels_last)


def save_base(
    folder: Path,
    *,
    name: str,
    config: DiffAEConfig,
    diffae: dict[str, Tensor],
    z_mean: Tensor,
    z_std: Tensor,
    guide: dict[str, Any],
    guide_weights: dict[str, Tensor] | None,
    perceptual: PerceptualNet,
    prior: dict[str, Tensor] | None,
    photos: Tensor | None,
    provenance: dict[str, Any],
    shard_bytes: int | None = None,
) -> dict[str, Any]:
    """Write a base's folder and return the content of base.json.

    base.json is written last, so an interrupted call leaves a folder that does not load.

    guide: ``{"kind": "statistics", "stages", "grid"}``, ``{"kind": "open_clip", "model",
    "config"}``, or ``{"kind": "combined", "parts": [...]}`` where each part is one of the former
    with a "weight" and at most one part is open_clip. photos: (N, 3, H, W) uint8.
    shard_bytes: larger networks are split into several files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "diffae": {**diffae, "z_mean": z_mean, "z_std": z_std},
        "perceptual": to_float16(perceptual.model.state_dict()),
    }
    if prior is not None:
        files["prior"] = prior
    if photos is not None:
        files["photos"] = {"photos": photos}
    if guide_weights is not None:
        files["guide"] = guide_weights
    hashes = {}
    for part, tensors in files.items():
        # Only networks can be read from several files; the other parts are small.
        limit = shard_bytes if part in ("diffae", "prior", "guide") else None
        shards = _shards(tensors, limit)
        for number, shard in enumerate(shards, start=1):
            suffix = f"-{number}-of-{len(shards)}" if len(shards) > 1 else ""
            path = folder / f"{part}{suffix}.safetensors"
            save_tensors(path, shard)
            hashes[path.name] = sha256_file(path)
    info = {
        "format": FORMAT,
        "name": name,
        "preset": suggested_preset(config),
        "config": config.to_dict() | ({} if prior is not None else {"prior": None}),
        "guide": guide,
        "perceptual": {"net": perceptual.net},
        "files": hashes,
        "provenance": provenance,
    }
    content = json.dumps([hashes, guide, info["config"]], sort_keys=True)
    info["fingerprint"] = sha256_text(content)[:16]
    write_json(folder / BASE_JSON, info)
    return info


def _shards(tensors: dict[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    """Group tensors, in order, up to ``limit`` bytes; a larger tensor gets its own group."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        size += tensor.nbytes
        if limit is not None and size > limit and shards[-1]:
            shards.append({})
            size = tensor.nbytes
        shards[-1][name] = tensor
    return shards


def read_base_info(folder: Path) -> dict[str, Any]:
    """Read base.json. Raises UserError if it is missing, invalid or of another format."""
    path = folder / BASE_JSON
    if (method := method_name(read_base_json(folder))) != DEFAULT_METHOD:
        raise UserError(
            f"{folder}: a base of method {method}, but one of method {DEFAULT_METHOD} is needed; "
            "choose another base"
        )
    keys = ("config", "guide", "perceptual", "files", "fingerprint")
    info = read_bundle_json(path, FORMAT, keys, "import the base again")
    kind = (info["guide"] or {}).get("kind")
    if kind not in ("statistics", "open_clip", "combined"):
        raise UserError(f"{path}: guide.kind is {kind!r}; import the base again")
    return info


def load_base(folder: Path, device: str | torch.device = "cpu", verify: bool = True) -> Base:
    """Load a base for inference. Raises UserError naming the missing or damaged file, or the GPU.

    verify: compare the files' SHA-256 with base.json (a few milliseconds per megabyte).
    """
    device = required_device(device)
    info = read_base_info(folder)
    config = DiffAEConfig.parse(info["config"], str(folder / BASE_JSON))
    if verify:
        verify_files(folder, info["files"])
    tensors = _tensors(folder, "diffae")
    z_mean, z_std = (tensors.pop(k, torch.empty(0)) for k in ("z_mean", "z_std"))
    if z_mean.numel() != config.z_channels or z_std.numel() != config.z_channels:
        raise UserError(f"{folder}: z_mean or z_std is missing; import the base again")
    diffae = _load_network(lambda: DiffAE(config), tensors, folder / "diffae.safetensors")
    perceptual_path = folder / "perceptual.safetensors"
    predictor = read_predictor_info(folder, info["fingerprint"])
    photos = None
    if "photos.safetensors" in info["files"]:
        photos = load_file(folder / "photos.safetensors")["photos"]
    base = Base(
        config,
        diffae,
        z_mean,
        z_std,
        # Statistics guides share the base's perceptual net.
        Deferred(lambda: _load_guide(folder, info["guide"], base.perceptual)),
        Deferred(lambda: frozen(PerceptualNet(info["perceptual"]["net"], perceptual_path))),
        Deferred(lambda: _load_prior(folder, config)),
        photos,
        info,
        Deferred(lambda: load_predictor(folder, predictor, diffae.unet)) if predictor else None,
        predictor["weights_sha256"][:16] if predictor else "",
    )
    return base.to(device)


def _load_prior(folder: Path, config: DiffAEConfig) -> UNet | None:
    if config.prior is None:
        return None
    sizes = config.prior.unet(config.image_size)
    return _load_network(
        lambda: UNet(sizes), _tensors(folder, "prior"), folder / "prior.safetensors"
    )


def _load_network(build: Callable[[], M], tensors: dict[str, Tensor], source: Path) -> M:
    with torch.device("meta"):
        network = build()
    check_layout(tensors, {k: v.shape for k, v in network.state_dict().items()}, str(source))
    network.load_state_dict(tensors, assign=True)
    return frozen(network)


def _load_guide(folder: Path, spec: dict[str, Any], perceptual: PerceptualNet) -> Guide:
    if spec["kind"] == "statistics":
        return StatisticsGuide(perceptual, tuple(spec["stages"]), spec["grid"])
    if spec["kind"] == "combined":
        return CombinedGuide(
            [(_load_guide(folder, part, perceptual), part["weight"]) for part in spec["parts"]]
        )
    config = folder / spec["config"] if spec.get("config") else None
    guide: OpenClipGuide = open_clip_guide(spec["model"], None, config, spec.get("facts"))
    guide.model.load_state_dict(_tensors(folder, "guide"))
    return guide


def _tensors(folder: Path, part: str) -> dict[str, Tensor]:
    """Read a part's file or shards as float32."""
    paths = sorted(folder.glob(f"{part}-*-of-*.safetensors")) or [folder / f"{part}.safetensors"]
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= {k: v.float() for k, v in load_file(path).items()}
        except Exception as e:  # safetensors raises its own untyped errors
            raise UserError(f"{path}: cannot be read ({e}); import the base again") from None
    return tensors
