"""Distil LPIPS (VGG) into the small perceptual net.

`python -m osasis.pretraining.distil_perceptual --images DIR --teacher lpips_vgg.safetensors
--out FILE --minutes M`

The teacher sees a fixed pool of pictures once: photos and procedural looks, each beside a
disturbed version of itself. Its features, projected on their principal components, are kept; the
student regresses them, and the distances of the pairs. On a CPU the teacher costs several times
the student, so the pool pays.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from osasis.arithmetic import Arithmetic
from osasis.errors import UserError
from osasis.guides.perceptual import PerceptualNet
from osasis.networks.small_features import DISTANCE, STAGES, SmallFeatures, unit_length
from osasis.pretraining.budgeted_training import (
    BudgetTooShortError,
    TrainingBudget,
    half,
    train_within_budget,
)
from osasis.pretraining.looks.dataset import from_uint8, make_look_dataset, read_photos, to_uint8
from osasis.pretraining.student_initialisation import initialise_from_teacher
from osasis.seeds import derived_seed, seeded
from osasis.storage import save_tensors, sha256_file, write_json

SIZE = 64
LEARNING_RATE = 1e-3
# Pairs that the student's first weights are fitted on.
START_PAIRS = 140


def distort(x: Tensor, kind: int, g: torch.Generator) -> Tensor:
    """A picture (3, H, W) as a reconstruction may come out: one of seven disturbances."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    side = x.shape[-1]
    if kind == 0:
        y = x + uniform(0.03, 0.35) * torch.randn(x.shape, generator=g)
    elif kind == 1:
        # Lost detail: down and up again.
        y = F.interpolate(
            F.interpolate(x[None], scale_factor=uniform(0.2, 0.8), mode="area"),
            (side, side),
            mode="bicubic",
        )[0]
    elif kind == 2:
        y = torch.roll(x, tuple(int(v) for v in torch.randint(-3, 4, (2,), generator=g)), (1, 2))
    elif kind == 3:
        gain, cast = uniform(0.6, 1.4), 0.25 * torch.randn(3, 1, 1, generator=g)
        y = x * gain + cast
    elif kind == 4:
        # A smooth warp of a pixel or two.
        shift = F.interpolate(torch.randn(1, 2, 5, 5, generator=g), (side, side), mode="bicubic")[
            0
        ].permute(1, 2, 0)
        eye = F.affine_grid(torch.eye(2, 3)[None], [1, 3, side, side], align_corners=False)
        grid = eye + shift[None] * uniform(0.01, 0.05)
        y = F.grid_sample(x[None], grid, padding_mode="border", align_corners=False)[0]
    elif kind == 5:
        cut = torch.randint(0, side // 2, (2,), generator=g)
        y, n = x.clone(), side // 3
        y[:, cut[0] : cut[0] + n, cut[1] : cut[1] + n] = x.mean(dim=(1, 2), keepdim=True)
    else:
        y = x.flip(-1)
    return y.clamp(-1, 1)


def make_pairs(photos: Tensor, count: int, size: int, seed: int) -> Tensor:
    """(count, 2, 3, size, size) uint8: a picture and another to compare it with.

    A third are photos, the rest looks; a look is beside its disturbed self, beside its photo, or
    beside another look.
    """
    g = torch.Generator().manual_seed(derived_seed(seed, "pairs"))
    painted = make_look_dataset(photos, max(2, 2 * count // 3), 1, size, seed)
    pictures, who = painted.pictures[:, 0], painted.who[:, 0]
    pairs = []
    for i in range(count):
        n = i % len(pictures)
        if i < len(pictures):
            a, photo = from_uint8(pictures[n]), from_uint8(painted.photos[who[n]])
        else:
            pick = int(torch.randint(len(photos), (), generator=g))
            a = photo = from_uint8(painted.photos[pick])
        kind = int(torch.randint(0, 12, (), generator=g))
        if kind < 7:
            b = distort(a, kind, g)
        elif kind < 9:
            b = photo if i < len(pictures) else from_uint8(pictures[n])
        elif kind < 10:
            other = int(torch.randint(len(pictures), (), generator=g))
            b = from_uint8(pictures[other])
        else:
            mix = float(torch.rand((), generator=g)) * 0.7
            b = distort(a * (1 - mix) + photo * mix, kind - 10, g)
        pairs.append(to_uint8(torch.stack([a, b])))
    return torch.stack(pairs)


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of one stage. mean: (C,), basis: (C, K), scale: a deviation."""

    mean: Tensor
    basis: Tensor
    scale: float

    def __call__(self, f: Tensor) -> Tensor:
        flat = f.permute(0, 2, 3, 1) - self.mean
        return (flat @ self.basis / self.scale).permute(0, 3, 1, 2)


def fit_principal_components(maps: Tensor, channels: int) -> PrincipalComponents:
    """Of (B, C, h, w), the ``channels`` directions of largest variance; C may be smaller."""
    flat = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1]).double()
    mean = flat.mean(0)
    cov = (flat - mean).T @ (flat - mean) / len(flat)
    values, vectors = torch.linalg.eigh(cov)
    basis = vectors.flip(1)[:, :channels]
    # Signs of eigenvectors are arbitrary; fixed here, so that two machines agree.
    basis = basis * torch.sign(basis.sum(0)).where(basis.sum(0) != 0, torch.ones(()).double())
    if basis.shape[1] < channels:
        basis = F.pad(basis, (0, channels - basis.shape[1]))
    scale = float(values.clamp_min(0).sum().div(channels).sqrt().clamp_min(1e-8))
    return PrincipalComponents(mean.float(), basis.float(), scale)


def teacher_features(teacher: PerceptualNet, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """LPIPS's weighted unit features (five stages), and the plain ones (three)."""
    plain = teacher.features(x)
    weighted = []
    for f, lin in zip(plain, teacher.model.lins, strict=True):
        unit = f / (f.pow(2).sum(dim=1, keepdim=True).sqrt() + 1e-10)
        weight = lin.model[-1].weight.clamp_min(0).sqrt()
        weighted.append(unit * weight)
    return weighted, plain[: len(STAGES)]


@dataclass(frozen=True)
class DistillationTargets:
    """What the student learns from. targets: float16, normalised, one list entry a map."""

    pairs: Tensor
    targets: list[Tensor]
    distances: Tensor
    projections: list[PrincipalComponents]


@torch.no_grad()
def compute_targets(
    teacher: PerceptualNet, pairs: Tensor, projections: list[PrincipalComponents] | None = None
) -> DistillationTargets:
    """Run the teacher over all pairs. projections: of a training pool, for a validation pool."""
    widths = [*DISTANCE, *STAGES]
    if projections is None:
        some = pairs[:: max(1, len(pairs) // 48)].flatten(0, 1)[:96]
        weighted, plain = teacher_features(teacher, from_uint8(some))
        projections = [
            fit_principal_components(f, k) for f, k in zip([*weighted, *plain], widths, strict=True)
        ]
    targets: list[list[Tensor]] = [[] for _ in widths]
    distances = []
    for chunk in pairs.split(8):
        x = from_uint8(chunk.flatten(0, 1)).contiguous(memory_format=torch.channels_last)
        weighted, plain = teacher_features(teacher, x)
        for kept, f, project in zip(targets, [*weighted, *plain], projections, strict=True):
            kept.append(project(f).half().unflatten(0, (-1, 2)).contiguous())
        gaps = [(f[::2] - f[1::2]).pow(2).sum(1).mean(dim=(1, 2)) for f in weighted]
        distances.append(torch.stack(gaps).sum(0))
    return DistillationTargets(
        pairs, [torch.cat(t) for t in targets], torch.cat(distances), projections
    )


class Distiller:
    """Trains the student; every draw comes from (seed, step)."""

    def __init__(
        self,
        lessons: DistillationTargets,
        seed: int = 0,
        batch: int = 8,
        teacher: PerceptualNet | None = None,
    ) -> None:
        """teacher: to start from its weights rather than from random ones."""
        self.lessons, self.seed, self.batch, self.steps_done = lessons, seed, batch, 0
        self.arithmetic: Arithmetic = "float32"
        with seeded(seed, "student"):
            self.model = SmallFeatures()
        scales = torch.tensor([p.scale for p in lessons.projections])
        self.model.distance_scale.copy_(scales[: len(DISTANCE)])
        self.model.stage_scale.copy_(scales[len(DISTANCE) :])
        if teacher is not None:
            some = slice(0, START_PAIRS)
            images = from_uint8(lessons.pairs[some].flatten(0, 1))
            initialise_from_teacher(
                self.model, teacher, images, [t[some].flatten(0, 1) for t in lessons.targets]
            )
        self.model.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.Adam(self.model.parameters(), LEARNING_RATE, (0.9, 0.98))

    def step(self, rate: float) -> dict[str, float]:
        g = torch.Generator().manual_seed(derived_seed(self.seed, f"distil {self.steps_done}"))
        rows = torch.randint(len(self.lessons.pairs), (self.batch,), generator=g)
        x = from_uint8(self.lessons.pairs[rows].flatten(0, 1))
        outputs = self._outputs(x.contiguous(memory_format=torch.channels_last))
        lost = []
        for out, target in zip(outputs, self.lessons.targets, strict=True):
            wanted = target[rows].flatten(0, 1).float()
            lost.append((out - wanted).pow(2).mean() / wanted.pow(2).mean().clamp_min(1e-4))
        own = self.distances(outputs)
        wanted = self.lessons.distances[rows]
        gap = ((own - wanted) / (wanted + 0.05)).pow(2).mean()
        maps, stages = (torch.stack(part).mean() for part in (lost[:5], lost[5:]))
        total = maps + stages + 0.3 * gap
        self.optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.param_groups[0]["lr"] = LEARNING_RATE * rate
        self.optimiser.step()
        self.steps_done += 1
        parts = {"maps": maps, "stages": stages, "distance": gap}
        return {k: float(v.detach()) for k, v in parts.items()}

    def _outputs(self, x: Tensor) -> list[Tensor]:
        """All maps in the targets' normalisation."""
        trunk = self.model.run_trunk(x)
        maps = [h(unit_length(f)) for h, f in zip(self.model.distance_heads, trunk, strict=True)]
        return maps + [h(f) for h, f in zip(self.model.stage_heads, trunk, strict=False)]

    def distances(self, outputs: list[Tensor]) -> Tensor:
        scales = self.model.distance_scale
        gaps = [
            ((f[::2] - f[1::2]) * s).pow(2).sum(1).mean(dim=(1, 2))
            for f, s in zip(outputs, scales, strict=False)
        ]
        return torch.stack(gaps).sum(0)

    @torch.no_grad()
    def calibrate(self, pairs: int = 128) -> None:
        """Scale the distances so that their median ratio to the teacher's is 1: what the maps do
        not explain is missing from their differences."""
        rows = slice(0, pairs)
        own = [
            self.distances(self._outputs(from_uint8(part.flatten(0, 1))))
            for part in self.lessons.pairs[rows].split(16)
        ]
        wanted, found = self.lessons.distances[rows], torch.cat(own)
        apart = wanted > 1e-3
        ratio = (wanted / found.clamp_min(1e-6))[apart].median()
        self.model.distance_scale.mul_(ratio.sqrt())

    @torch.no_grad()
    def evaluate(self, lessons: DistillationTargets) -> dict[str, float]:
        """Correlations of distances with the teacher's, and the unexplained shares of the maps."""
        own, lost = [], []
        for i in range(0, len(lessons.pairs), 16):
            rows = slice(i, i + 16)
            outputs = self._outputs(from_uint8(lessons.pairs[rows].flatten(0, 1)))
            own.append(self.distances(outputs))
            wanted = [t[rows].flatten(0, 1).float() for t in lessons.targets]
            pairs = zip(outputs, wanted, strict=True)
            lost.append(torch.stack([(o - w).pow(2).mean() / w.pow(2).mean() for o, w in pairs]))
        d = torch.cat(own)
        shares = torch.stack(lost).mean(0)
        return {
            "pearson": correlation(d, lessons.distances),
            "spearman": correlation(_ranks(d), _ranks(lessons.distances)),
            "median_ratio": float((d / lessons.distances.clamp_min(1e-3)).median()),
            **{f"lost_{i + 1}": float(v) for i, v in enumerate(shares[:5])},
            **{f"lost_stage_{i + 1}": float(v) for i, v in enumerate(shares[5:])},
        }


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's."""
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
    """Distil and write ``out`` (float16 safetensors) and OUT.json; returns what the latter says.

    Resumes from OUT.state. validation: a folder of photos never trained on.
    Raises UserError.
    """
    net = PerceptualNet("vgg", teacher).to(memory_format=torch.channels_last)
    photos = read_photos(images)
    lessons = compute_targets(net, make_pairs(photos, pairs, SIZE, seed))
    trainer = Distiller(lessons, seed, teacher=net)
    identity = {
        "seed": seed,
        "pairs": pairs,
        "photos": len(photos),
        "teacher": sha256_file(teacher),
    }
    curve = train_within_budget(trainer, budget, out.with_suffix(".state"), identity)
    trainer.calibrate()
    save_tensors(out, half(trainer.model.state_dict()))
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
        report["validation"] = trainer.evaluate(compute_targets(net, held, lessons.projections))
    write_json(out.with_suffix(".json"), report)
    return report


def main(argv: list[str] | None = None) -> int:
    """Exit codes: 0 done, 1 the time was too short, 2 a mistake in the call."""
    import json

    p = argparse.ArgumentParser(
        prog="python -m osasis.pretraining.distil_perceptual", description=__doc__
    )
    p.add_argument("--images", type=Path, required=True, help="folder of photos")
    p.add_argument(
        "--teacher", type=Path, required=True, help="weights of LPIPS (vgg), safetensors"
    )
    p.add_argument("--out", type=Path, required=True, help="weights of the small net")
    p.add_argument("--minutes", type=float, help="wall time of training, all runs together")
    p.add_argument("--steps", type=int, help="steps instead of minutes")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--pairs", type=int, default=1200, help="pictures pairs that the teacher sees")
    p.add_argument("--validation", type=Path, help="folder of other photos, to measure on")
    args = p.parse_args(argv)
    try:
        budget = TrainingBudget(args.minutes, args.steps)
        report = distil(
            args.images,
            args.teacher,
            args.out,
            budget,
            seed=args.seed,
            pairs=args.pairs,
            validation=args.validation,
        )
    except BudgetTooShortError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    except UserError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
