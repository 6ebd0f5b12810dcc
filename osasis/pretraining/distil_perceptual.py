"""Distil LPIPS (VGG) into the small perceptual net.

`python -m osasis.pretraining.distil_perceptual --images DIR --teacher lpips_vgg.safetensors
--out FILE --minutes M`

The student regresses the teacher's features, projected on their principal components, and the LPIPS
distances of image pairs (``image_pairs``). The teacher runs only once over the pairs, because on a
CPU one pass of the teacher costs several passes of the student.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from osasis.arithmetic import Arithmetic
from osasis.guides.perceptual import PerceptualNet
from osasis.images.tensors import from_uint8
from osasis.looks.dataset import read_photos
from osasis.networks.small_features import DISTANCE, SmallFeatures, unit_length
from osasis.pretraining.budgeted_training import (
    TrainingBudget,
    optimiser_step,
    run_tool,
    tool_parser,
    train_within_budget,
)
from osasis.pretraining.distillation_targets import DistillationTargets, compute_targets
from osasis.pretraining.image_pairs import make_pairs
from osasis.pretraining.student_initialisation import initialise_from_teacher
from osasis.seeds import derived_generator, seeded
from osasis.storage import save_tensors, sha256_file, to_float16, write_json

SIZE = 64
LEARNING_RATE = 1e-3
# Number of pairs on which the student's initial weights are fitted.
INITIALISATION_PAIRS = 140


class Distiller:
    """Trains the student. The random draws of a step depend on the seed and the step only."""

    def __init__(
        self,
        targets: DistillationTargets,
        seed: int = 0,
        batch: int = 8,
        teacher: PerceptualNet | None = None,
    ) -> None:
        """teacher: initialise the student from its features; None keeps random weights."""
        self.targets, self.seed, self.batch, self.steps_done = targets, seed, batch, 0
        self.arithmetic: Arithmetic = "float32"
        with seeded(seed, "student"):
            self.model = SmallFeatures()
        scales = torch.tensor([p.scale for p in targets.projections])
        self.model.distance_scale.copy_(scales[: len(DISTANCE)])
        self.model.stage_scale.copy_(scales[len(DISTANCE) :])
        if teacher is not None:
            images = from_uint8(targets.pairs[:INITIALISATION_PAIRS].flatten(0, 1))
            maps = [t[:INITIALISATION_PAIRS].flatten(0, 1) for t in targets.maps]
            initialise_from_teacher(self.model, teacher, images, maps)
        self.model.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, (0.9, 0.98))

    def step(self, lr_factor: float) -> dict[str, float]:
        g = derived_generator(self.seed, f"distil {self.steps_done}")
        rows = torch.randint(len(self.targets.pairs), (self.batch,), generator=g)
        x = from_uint8(self.targets.pairs[rows].flatten(0, 1))
        outputs = self._outputs(x.contiguous(memory_format=torch.channels_last))
        errors = []
        for out, maps in zip(outputs, self.targets.maps, strict=True):
            target = maps[rows].flatten(0, 1).float()
            errors.append((out - target).pow(2).mean() / target.pow(2).mean().clamp_min(1e-4))
        target = self.targets.distances[rows]
        distance = ((self.distances(outputs) - target) / (target + 0.05)).pow(2).mean()
        losses = {
            "maps": torch.stack(errors[:5]).mean(),
            "stages": torch.stack(errors[5:]).mean(),
            "distance": distance,
        }
        total = losses["maps"] + losses["stages"] + 0.3 * distance
        optimiser_step(self, total, LEARNING_RATE * lr_factor)
        return {k: float(v.detach()) for k, v in losses.items()}

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """The student's feature maps in the scale of the targets."""
        trunk = self.model.run_trunk(x)
        maps = [h(unit_length(f)) for h, f in zip(self.model.distance_heads, trunk, strict=True)]
        return maps + [h(f) for h, f in zip(self.model.stage_heads, trunk, strict=False)]

    def distances(self, outputs: list[Tensor]) -> Tensor:
        """Distances (B,) of the pairs, given the maps of their 2B images."""
        scales = self.model.distance_scale
        gaps = [
            ((f[::2] - f[1::2]) * s).pow(2).sum(1).mean(dim=(1, 2))
            for f, s in zip(outputs, scales, strict=False)
        ]
        return torch.stack(gaps).sum(0)

    @torch.no_grad()
    def calibrate(self, pairs: int = 128) -> None:
        """Scale the distances to a median ratio of 1 to the teacher's, on the first ``pairs``.

        Uncalibrated distances are too small, because the maps explain only a part of the teacher's.
        """
        distances = [
            self.distances(self._outputs(from_uint8(part.flatten(0, 1))))
            for part in self.targets.pairs[:pairs].split(16)
        ]
        target = self.targets.distances[:pairs]
        ratio = target / torch.cat(distances).clamp_min(1e-6)
        self.model.distance_scale.mul_(ratio[target > 1e-3].median().sqrt())

    @torch.no_grad()
    def evaluate(self, targets: DistillationTargets) -> dict[str, float]:
        """Correlation of distances with the teacher's, and the unexplained variance of each map."""
        distances, errors = [], []
        for i in range(0, len(targets.pairs), 16):
            rows = slice(i, i + 16)
            outputs = self._outputs(from_uint8(targets.pairs[rows].flatten(0, 1)))
            distances.append(self.distances(outputs))
            maps = [t[rows].flatten(0, 1).float() for t in targets.maps]
            pairs = zip(outputs, maps, strict=True)
            errors.append(torch.stack([(o - t).pow(2).mean() / t.pow(2).mean() for o, t in pairs]))
        d = torch.cat(distances)
        unexplained = torch.stack(errors).mean(0)
        return {
            "pearson": correlation(d, targets.distances),
            "spearman": correlation(_ranks(d), _ranks(targets.distances)),
            "median_ratio": float((d / targets.distances.clamp_min(1e-3)).median()),
            **{f"lost_{i + 1}": float(v) for i, v in enumerate(unexplained[:5])},
            **{f"lost_stage_{i + 1}": float(v) for i, v in enumerate(unexplained[5:])},
        }


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two vectors."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def _ranks(x: Tensor) -> Tensor:
    return x.argsort().argsort().float()


def distil(
    images: Path,
    teacher: Path,
    out: Path,
    budget: TrainingBudget,
    *,
    seed: int = 0,
    pairs: int = 1200,
    validation: Path | None = None,
) -> dict[str, Any]:
    """Distil into ``out`` (float16 safetensors) and return the report.

    The report is also written, as JSON, next to ``out``. A checkpoint next to ``out`` (suffix
    .state) is resumed. pairs: number of image pairs. validation: folder of photos outside the
    training set, to evaluate on. Raises UserError.
    """
    net = PerceptualNet("vgg", teacher).to(memory_format=torch.channels_last)
    photos = read_photos(images)
    targets = compute_targets(net, make_pairs(photos, pairs, SIZE, seed))
    trainer = Distiller(targets, seed, teacher=net)
    identity = {
        "seed": seed,
        "pairs": pairs,
        "photos": len(photos),
        "teacher": sha256_file(teacher),
    }
    curve = train_within_budget(trainer, budget, out.with_suffix(".state"), identity)
    trainer.calibrate()
    save_tensors(out, to_float16(trainer.model.state_dict()))
    report: dict[str, Any] = {
        "net": "small",
        "teacher": {"net": "vgg", "sha256": identity["teacher"]},
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.steps_done,
        "photos": len(photos),
        "pairs": pairs,
        "last": curve[-1] if curve else {},
    }
    if validation is not None:
        held = make_pairs(read_photos(validation), 150, SIZE, seed + 1)
        report["validation"] = trainer.evaluate(compute_targets(net, held, targets.projections))
    write_json(out.with_suffix(".json"), report)
    return report


def main(argv: list[str] | None = None) -> int:
    p = tool_parser("osasis.pretraining.distil_perceptual", __doc__)
    p.add_argument(
        "--teacher", type=Path, required=True, help="weights of LPIPS (vgg), safetensors"
    )
    p.add_argument("--out", type=Path, required=True, help="weights of the small net")
    p.add_argument("--pairs", type=int, default=1200, help="number of image pairs")
    return run_tool(distil, p, argv)


if __name__ == "__main__":
    raise SystemExit(main())
