"""Settings of training one style, and their presets."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from osasis.choices import DecodeSolver, EncodeSolver, Precision, Spacing
from osasis.diffusion import TRAIN_STEPS, stride_timesteps
from osasis.errors import UserError, did_you_mean
from osasis.validation import InputModel, InvalidInputError, Problem

# Images per forward pass of encoding and decoding, by device.
BATCH_SIZES = {"cpu": 1, "cuda": 16}

# Schedules that start or end at t0.
STEP_FIELDS = ("encode_steps", "decode_steps", "stylize_encode_steps", "stylize_decode_steps")

# Number of steps of a full schedule.
Steps = Annotated[int, Field(ge=1, le=TRAIN_STEPS)]


def _possible_steps(steps: int) -> int:
    if problem := stride_problem(steps):
        raise ValueError(problem)
    return steps


def stride_problem(steps: int) -> str:
    """Why a schedule with a uniform stride cannot have this number of steps; "" where it can."""
    try:
        stride_timesteps(steps)
    except UserError as e:
        return str(e)
    return ""


Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
LossWeight = Annotated[float, Field(ge=0, le=1e4)]
LearningRate = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]
# Fraction of the schedule to which a photo is noised.
T0 = Annotated[float, Field(ge=0.05, le=1)]
Cutoff = Annotated[int, Field(ge=1, le=4096)]
PaletteShare = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=4)]


class TrainSettings(InputModel):
    """Settings of training one style.

    The fields' defaults are the published solvers and numbers of steps; ``PRESETS`` changes them.
    ``spacing`` to ``dropout`` choose between the published code and the paper where the two differ;
    preset ``reference`` follows the code.
    """

    subject: ClassVar[str] = "settings"

    seed: Seed = Field(0, description="seed of every random draw of the training")
    start: Literal["base", "prediction"] = Field(
        "base",
        description="weights from which epsilon_B and the SPN start: `base`, epsilon_A and a new "
        "SPN, as published; `prediction`, what the base's predictor gives for the style image",
    )
    iterations: Annotated[int, Field(ge=0, le=100_000)] = Field(
        200, description="optimiser iterations; 0 takes the predicted style as it is"
    )
    batch_size: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="contents per iteration"
    )
    lr_unet: LearningRate = Field(5e-6, description="Adam's learning rate for epsilon_B")
    lr_spn: LearningRate = Field(1e-4, description="Adam's learning rate for the SPN")
    adam_beta2: Annotated[float, Field(ge=0, le=0.99999)] = Field(
        0.999, description="Adam's beta2, the decay of the second moment"
    )
    lr_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="final share of the iterations, in which both learning rates fall linearly to "
        "0; not in the paper",
    )
    encode_steps: Steps = Field(50, description="inversion steps of a full schedule")
    decode_steps: Steps = Field(20, description="denoising steps of a full schedule")
    latent_steps: Annotated[Steps, AfterValidator(_possible_steps)] = Field(
        200, description="steps of the latent DDIM"
    )
    t0: T0 = Field(0.5, description="fraction of the schedule to which photos are noised")
    spn_weight: Annotated[float, Field(ge=0, le=10)] = Field(
        0.1, description="lambda_SPN, the weight of the structure-preserving network's output"
    )
    cross_domain: LossWeight = Field(
        1.0, description="weight of the cross-domain loss (OSASIS, Sec. 3.2)"
    )
    in_domain: LossWeight = Field(
        0.5, description="weight of the in-domain loss (OSASIS, Sec. 3.2)"
    )
    recon_guide: LossWeight = Field(
        30.0, description="weight of the style image's reconstruction in the guide's embedding"
    )
    recon_l1: LossWeight = Field(
        10.0, description="weight of the style image's reconstruction in L1"
    )
    recon_lpips: LossWeight = Field(
        10.0, description="weight of the style image's reconstruction in the perceptual net"
    )
    style_match: LossWeight = Field(
        0.0,
        description="weight of the distance between the guide's embeddings of stylization and "
        "style image; the other guide losses compare directions only; not in the paper",
    )
    structure: LossWeight = Field(
        0.0,
        description="weight of the loss that keeps the photo's edges in place (cosine of lightness "
        "gradients); not in the paper",
    )
    spacing: Spacing = Field(
        "trailing",
        description="timesteps between the photo and t0: `leading` as in the published code, where "
        "denoising starts below the timestep where inversion ends; `trailing` evenly to t0; "
        "`quadratic` to t0 with shorter steps near the photo (DDIM, Sec. D.3)",
    )
    encode_solver: EncodeSolver = Field(
        "ddim",
        description="inversion: `ddim` as published; `dpmpp_2m`, second order; `fixed_point`, "
        "exact for denoising by `ddim` in as many steps, at three network calls a step",
    )
    decode_solver: DecodeSolver = Field(
        "ddim",
        description="denoising: `ddim` as published; `dpmpp_2m`, second order",
    )
    spn_style_branch: Literal["scaled", "unscaled"] = Field(
        "scaled",
        description="whether the style branch scales the SPN's output by spn_weight; the "
        "published code does not",
    )
    spn_time: Literal["timestep", "index"] = Field(
        "timestep", description="time input of the SPN; the published code uses `index`"
    )
    guide_input: Literal["native", "nearest224"] = Field(
        "native",
        description="preparation of the guide's input: as in the guide's training, or as in the "
        "published code (nearest neighbour to 224, not normalised)",
    )
    normalise_embeddings: bool = Field(
        True, description="normalise the guide's embeddings before differences are taken"
    )
    style_condition: Literal["counterpart", "style"] = Field(
        "counterpart", description="image whose z conditions the style branch in training"
    )
    dropout: Annotated[float, Field(ge=0, le=0.9)] = Field(
        0.0, description="dropout of epsilon_B in training; 0.1 in the published code"
    )
    counterpart_candidates: Annotated[int, Field(ge=1, le=1000)] = Field(
        30, description="number of candidates for the photo counterpart (OSASIS, Eq. 9-10)"
    )
    counterpart_steps: Annotated[int, Field(ge=2, le=1000)] = Field(
        50, description="steps of the prior's full schedule for the photo counterpart"
    )
    counterpart_t0: T0 = Field(
        0.5, description="fraction of the schedule to which the style image is noised for it"
    )
    contents: Literal["sampled", "bank"] = Field(
        "bank",
        description="contents sampled in each iteration, as published, or drawn from a content "
        "bank",
    )
    bank_size: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        256,
        description="number of contents of a bank; a bank of photos has at most one for each photo",
    )
    precision: Precision = Field(
        "float32",
        description="arithmetic of the forward passes; `auto`: bfloat16 where the device has "
        "instructions for it, else float32; `tf32`: float32 with products rounded to TF32, on GPUs "
        "that have it; `float16` is for GPUs; a CPU emulates it, and `bfloat16` where it lacks "
        "instructions, which is slow",
    )
    micro_batch: Count | None = Field(
        None,
        description="contents per forward and backward pass; a smaller number takes less memory, "
        "and one more row of the style image for each pass; null: the whole batch",
    )
    recompute: bool = Field(
        False,
        description="compute activations again in the backward pass: a fraction of the memory, a "
        "third more time, the same result; a style that runs out of memory is retried so",
    )
    memory: Annotated[float, Field(gt=0, le=10_000)] | None = Field(
        None,
        description="memory for the training in GB, within which `micro_batch` and `recompute` are "
        "chosen; null: they are taken as given",
    )
    content_cutoff: Cutoff | None = Field(
        None,
        description="default of the mix's `content_cutoff`: resolution levels of this size and "
        "above take z_style; null: all but the two coarsest levels, as published at 256 px",
    )
    strength: Strength = Field(
        1.0,
        description="default of the mix's `strength`: factor of epsilon_B's difference from "
        "epsilon_A",
    )
    palette: PaletteShare = Field(
        0.0,
        description="default of the mix's `palette`: share of the style image's colours that an "
        "image gets by colour transfer; not in the paper",
    )
    stylize_encode_steps: Steps = Field(
        100,
        description="inversion steps of a full schedule, for stylization; `fixed_point` takes "
        "stylize_decode_steps instead",
    )
    stylize_decode_steps: Steps = Field(
        50, description="denoising steps of a full schedule, for stylization"
    )
    adapter: Literal["full", "lora"] = Field(
        "full",
        description="what is trained of epsilon_B: `full`, all weights, as published; `lora`, "
        "low-rank factors of each matrix's difference from epsilon_A, biases and norms",
    )
    adapter_rank: Annotated[int, Field(ge=1, le=512)] = Field(
        16, description="rank of the factors of `lora`"
    )
    adapter_alpha: Annotated[float, Field(gt=0, le=1e4)] = Field(
        320.0,
        description="alpha of `lora`: the factors' product is scaled by alpha / rank, so that the "
        "learning rate of full weights suits the factors, too",
    )
    compact_rank: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="store each matrix's difference at this rank, truncated by SVD; null: store it "
        "exactly",
    )
    compact_energy: Annotated[float, Field(ge=0.01, le=0.9999)] | None = Field(
        None,
        description="store each matrix's difference at the rank that keeps this share of its "
        "squared norm; null: store it exactly",
    )
    checkpoint_every: Count | None = Field(
        None, description="iterations between checkpoints; null: by checkpoint_seconds"
    )
    checkpoint_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        15.0, description="least time between checkpoints, which are written beside the training"
    )
    early_stop_patience: Count | None = Field(
        None, description="stop after this many evaluations without a better value; null: never"
    )
    keep_best: bool = Field(False, description="keep the best iteration instead of the last")
    watch: Literal["total", "style_distance", "direction", "edges", "lpips"] = Field(
        "total",
        description="value that early_stop_patience and keep_best compare: the mean loss since the "
        "last evaluation, or a metric of the preview photos",
    )
    watch_every: Count = Field(10, description="iterations between evaluations")

    def cross_problems(self) -> list[Problem]:
        found = []
        if self.spacing == "leading":
            found += [
                Problem(name, getattr(self, name), problem)
                for name in STEP_FIELDS
                if (problem := stride_problem(getattr(self, name)))
            ]
        if self.compact_rank is not None and self.compact_energy is not None:
            message = "compact_rank and compact_energy exclude each other; give one"
            found.append(Problem("compact_energy", self.compact_energy, message))
        if self.iterations == 0 and self.start == "base":
            message = "0 iterations train nothing; they are for start prediction"
            found.append(Problem("iterations", 0, message, "at least 1"))
        if self.adapter == "lora" and self.start == "prediction":
            message = "training from a prediction needs adapter full; compact_rank makes it small"
            found.append(Problem("adapter", self.adapter, message, "full"))
        if self.adapter == "lora" and (self.compact_rank or self.compact_energy):
            message = "compact_rank and compact_energy are for adapter full; set adapter_rank"
            found.append(Problem("adapter", self.adapter, message))
        return found


# The preset of small bases, from which `instant` differs in the training only.
_FAST: dict[str, Any] = {
    "iterations": 8,
    "batch_size": 1,
    "lr_unet": 1.8e-4,
    "lr_decay": 1.0,
    "adam_beta2": 0.99,
    "encode_solver": "fixed_point",
    "encode_steps": 8,
    "decode_steps": 8,
    "recon_lpips": 1.2,
    "style_match": 3.0,
    "structure": 3.0,
    "bank_size": 48,
    "counterpart_candidates": 8,
    "counterpart_steps": 20,
    "compact_rank": 4,
    "strength": 0.55,
    "palette": 0.4,
    "stylize_encode_steps": 10,
    "stylize_decode_steps": 10,
    "precision": "auto",
}

PRESETS: dict[str, dict[str, Any]] = {
    # The published code (OSASIS, train_diffaeB.py and scripts/train.sh).
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
    # Half the published network calls of a stylization, at less than half the reconstruction error.
    "default": {
        "encode_solver": "fixed_point",
        "encode_steps": 20,
        "stylize_encode_steps": 20,
        "stylize_decode_steps": 20,
        "compact_rank": 16,
    },
    "fast": _FAST,
    # From the weights that the base's predictor gives for the style image.
    "refined": {**_FAST, "start": "prediction", "iterations": 2, "strength": 0.7},
    # Those weights as they are.
    "instant": {
        **_FAST,
        "start": "prediction",
        "iterations": 0,
        # Most of its time.
        "counterpart_candidates": 4,
        "compact_rank": None,
        "strength": 0.65,
    },
}


def make_settings(preset: str = "default", **overrides: Any) -> TrainSettings:
    """Settings of a preset with overridden fields. Raises InvalidInputError."""
    if preset not in PRESETS:
        message = f"unknown preset {preset!r}{did_you_mean(preset, PRESETS)}"
        problem = Problem("preset", preset, message, f"one of {', '.join(PRESETS)}")
        raise InvalidInputError("settings", [problem])
    values = {**PRESETS[preset], **overrides}
    if overrides.get("compact_energy") is not None or overrides.get("adapter") == "lora":
        # Instead of the preset's.
        values["compact_rank"] = overrides.get("compact_rank")
    return TrainSettings.parse(values)
