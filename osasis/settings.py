"""Settings of training one style, validated up front, and their presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints
from typing import Literal as Choice

from osasis.diffusion import stride_timesteps
from osasis.errors import UserError, did_you_mean


@dataclass(frozen=True)
class TrainSettings:
    """How one style is trained. The defaults are preset ``default``.

    The fields under "published accidents" choose between what the published code does and what
    the paper says or plainly meant; preset ``reference`` takes the former throughout.
    """

    seed: int = 0
    iterations: int = 200
    batch_size: int = 8
    lr_unet: float = 5e-6
    lr_spn: float = 1e-4
    adam_beta2: float = 0.999
    # Not in the paper: over the last share of the iterations both learning rates fall to 0.
    lr_decay: float = 0.0
    # Steps of a full schedule: inversion, walk back, latent DDIM.
    encode_steps: int = 50
    decode_steps: int = 20
    latent_steps: int = 200
    t0: float = 0.5
    spn_weight: float = 0.1
    # Loss weights (OSASIS, Sec. 3.2 and 3.3).
    cross_domain: float = 1.0
    in_domain: float = 0.5
    recon_guide: float = 30.0
    recon_l1: float = 10.0
    recon_lpips: float = 10.0
    # Not in the paper: distance of the guide's embedding itself to the style image's. A guide
    # direction has no length; this term gives it one (palette, contrast). See docs/method.md.
    style_match: float = 0.0
    # Not in the paper: keeps the photo's lines where they are (cosine of lightness gradients).
    structure: float = 0.0
    # Published accidents.
    spacing: Choice["leading", "trailing"] = "trailing"
    spn_style_branch: Choice["scaled", "unscaled"] = "scaled"
    spn_time: Choice["timestep", "index"] = "timestep"
    guide_input: Choice["native", "nearest224"] = "native"
    normalise_embeddings: bool = True
    style_condition: Choice["counterpart", "style"] = "counterpart"
    dropout: float = 0.0
    # The photo counterpart (OSASIS, Eq. 9-10): candidates, and steps of the prior's schedule.
    counterpart_candidates: int = 30
    counterpart_steps: int = 50
    counterpart_t0: float = 0.5
    # Contents: sampled anew at each iteration, as published, or drawn from a content bank.
    contents: Choice["sampled", "bank"] = "bank"
    bank_size: int = 256
    precision: Choice["float32", "bfloat16"] = "float32"
    # The mix that the style suggests: levels at or above this resolution take z_style.
    content_cutoff: int | None = None
    # Steps of a full schedule when photos are stylized.
    stylize_encode_steps: int = 100
    stylize_decode_steps: int = 50
    # Low-rank form of the stored difference: a rank for every matrix, or the share of each
    # matrix's squared norm to keep. Neither stores it exactly.
    compact_rank: int | None = None
    compact_energy: float | None = None
    checkpoint_every: int = 10
    # Not in the paper, and off: stop after so many looks without a better value, and keep the
    # best iteration instead of the last. A look is at the mean loss since the one before, or at
    # a metric of the preview photos, every ``watch_every`` iterations.
    early_stop_patience: int | None = None
    keep_best: bool = False
    watch: Choice["total", "style_distance", "direction", "edges", "lpips"] = "total"
    watch_every: int = 10

    def problems(self) -> list[str]:
        """Everything that is wrong with these settings, one line each."""
        found, ill_typed = [], set()
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            if reason := type_problem(value, hint):
                found.append(f"{field.name} is {value!r}; {reason}")
                ill_typed.add(field.name)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if value is not None and name not in ill_typed and not low <= value <= high:
                found.append(f"{name} is {value}; it must lie in [{low:g}, {high:g}]")
        if not found and self.spacing == "trailing":
            # Only so does the walk back start where inversion ends.
            found += [
                f"t0 is {self.t0}, which is no whole number of steps of {name} "
                f"{getattr(self, name)}; choose a multiple of {1 / getattr(self, name):g}"
                for name in STEP_FIELDS
                if name != "latent_steps" and not whole_steps(getattr(self, name), self.t0)
            ]
        if self.compact_rank is not None and self.compact_energy is not None:
            found.append("compact_rank and compact_energy exclude each other; give one")
        for name in STEP_FIELDS:
            if name in ill_typed:
                continue
            try:
                stride_timesteps(getattr(self, name))
            except UserError as e:
                found.append(f"{name}: {e}")
        return found

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


# Images that one forward pass takes, by device. On two cores 1, 2, 4 and 8 take as long an image; a
# short pass is filled up.
PASS_IMAGES = {"cpu": 2, "cuda": 16}

STEP_FIELDS = (
    "encode_steps",
    "decode_steps",
    "latent_steps",
    "stylize_encode_steps",
    "stylize_decode_steps",
)

RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "iterations": (1, 100_000),
    "batch_size": (1, 1024),
    "lr_unet": (0.0, 1.0),
    "lr_spn": (0.0, 1.0),
    "adam_beta2": (0.0, 0.99999),
    "lr_decay": (0.0, 1.0),
    "t0": (0.05, 1.0),
    "spn_weight": (0.0, 10.0),
    "cross_domain": (0.0, 1e4),
    "in_domain": (0.0, 1e4),
    "recon_guide": (0.0, 1e4),
    "recon_l1": (0.0, 1e4),
    "recon_lpips": (0.0, 1e4),
    "style_match": (0.0, 1e4),
    "structure": (0.0, 1e4),
    "dropout": (0.0, 0.9),
    "counterpart_candidates": (1, 1000),
    "counterpart_steps": (2, 1000),
    "counterpart_t0": (0.05, 1.0),
    "content_cutoff": (1, 4096),
    "compact_rank": (1, 4096),
    "compact_energy": (0.01, 0.9999),
    "bank_size": (1, 1_000_000),
    "checkpoint_every": (1, 100_000),
    "early_stop_patience": (1, 100_000),
    "watch_every": (1, 100_000),
}

PRESETS: dict[str, dict[str, Any]] = {
    # The published code to the letter (OSASIS, train_diffaeB.py and scripts/train.sh).
    "reference": {
        "spacing": "leading",
        "spn_style_branch": "unscaled",
        "spn_time": "index",
        "guide_input": "nearest224",
        "normalise_embeddings": False,
        "style_condition": "counterpart",
        "dropout": 0.1,
        "contents": "sampled",
    },
    "default": {},
    "fast": {
        "iterations": 8,
        "batch_size": 1,
        "lr_unet": 1.8e-4,
        "lr_decay": 1.0,
        "adam_beta2": 0.99,
        "encode_steps": 20,
        "decode_steps": 8,
        "recon_lpips": 1.2,
        "style_match": 3.0,
        "structure": 3.0,
        "content_cutoff": 32,
        "bank_size": 48,
        "counterpart_candidates": 8,
        "counterpart_steps": 20,
        "checkpoint_every": 4,
        "stylize_encode_steps": 20,
        "stylize_decode_steps": 10,
        "precision": "bfloat16",
    },
}


def make_settings(preset: str = "default", **overrides: Any) -> TrainSettings:
    """Settings of a preset with some fields overridden.

    Raises UserError naming every unknown field and every value out of its range.
    """
    if preset not in PRESETS:
        raise UserError(
            f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}"
            + did_you_mean(preset, PRESETS)
        )
    known = {f.name for f in dataclasses.fields(TrainSettings)}
    problems = [
        f"unknown setting {name!r}" + did_you_mean(name, known)
        for name in overrides
        if name not in known
    ]
    values = {**PRESETS[preset], **{k: v for k, v in overrides.items() if k in known}}
    settings = TrainSettings(**values)
    problems += settings.problems()
    if problems:
        raise UserError("settings: " + "; ".join(problems))
    return settings


def whole_steps(steps: int, t0: float) -> bool:
    """Whether t0 is a whole number of a schedule's steps, at least one."""
    return steps * t0 > 1 - 1e-6 and abs(steps * t0 - round(steps * t0)) < 1e-6


def type_problem(value: Any, hint: Any) -> str | None:
    """Why a value does not fit a field of this type; None where it does."""
    if options := [a for a in get_args(hint) if isinstance(a, str)]:
        return None if value in options else f"choose one of {', '.join(options)}"
    if hint is bool:
        return None if isinstance(value, bool) else "it must be true or false"
    kinds = get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float) if float in kinds else int):
        return "it must be a number" if float in kinds else "it must be a whole number"
    return None
