"""Train a small open_clip guide on photos, procedural looks and captions.

`python -m osasis.pretraining.train_guide --images DIR --minutes M --out DIR`

Style training compares directions between embeddings, so the guide is trained with CLIP's loss and
three contrastive losses of directions (``GuideTrainer``):

- clip: images and their captions;
- look: photo -> painting, of two people in the same look;
- person: person -> person, in paintings and in photos;
- words: photo -> painting, of images and of captions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import ClipLoss
from torch import Tensor

from osasis.arithmetic import Arithmetic, Precision, autocast, resolve
from osasis.errors import UserError
from osasis.guides.guide import OpenClipGuide, OpenClipMetadata, open_clip_guide
from osasis.images.tensors import from_uint8
from osasis.looks import captions
from osasis.looks.dataset import LookDataset, make_look_dataset, read_photos
from osasis.pretraining.budgeted_training import (
    TrainingBudget,
    optimiser_step,
    run_tool,
    tool_parser,
    train_within_budget,
)
from osasis.seeds import derived_generator, seeded
from osasis.storage import save_tensors, to_float16, write_atomic, write_json

CONFIG = Path(__file__).parents[1] / "configs" / "guides" / "guide64.json"
LEARNING_RATE = 1e-3
TEMPERATURE = 0.1
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class CaptionedLooks:
    """A look dataset and the measured appearance of its pictures and photos."""

    dataset: LookDataset
    pictures: list[list[captions.Appearance]]
    photos: list[captions.Appearance]


def measure_looks(dataset: LookDataset) -> CaptionedLooks:
    measure = captions.measure_appearance
    pictures = [[measure(p) for p in from_uint8(row)] for row in dataset.pictures]
    return CaptionedLooks(dataset, pictures, [measure(p) for p in from_uint8(dataset.photos)])


def info_nce(a: Tensor, b: Tensor) -> Tensor:
    """Symmetric InfoNCE loss of pairs a[i], b[i] (van den Oord et al., 2018). a, b: (B, D)."""
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / TEMPERATURE
    rows = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, rows)) / 2


def new_guide(config: Path, seed: int) -> OpenClipGuide:
    """An untrained guide whose tokenizer knows the words of captions."""
    metadata: OpenClipMetadata = {
        "tokenizer": "words",
        "vocabulary": captions.vocabulary(),
        "quick_gelu": False,
        "mean": list(MEAN),
        "std": list(STD),
    }
    with seeded(seed, "guide"):
        return open_clip_guide(config.stem, None, config, metadata)


class GuideTrainer:
    """Trains a guide. The random draws of a step depend on the seed and the step only."""

    def __init__(
        self,
        guide: OpenClipGuide,
        data: CaptionedLooks,
        seed: int = 0,
        batch: int = 32,
        arithmetic: Arithmetic = "float32",
    ) -> None:
        self.guide, self.data, self.seed, self.batch = guide, data, seed, batch
        self.arithmetic, self.steps_done = arithmetic, 0
        self.model: Any = guide.model.requires_grad_(True).train()
        self.clip_loss = ClipLoss()
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, LEARNING_RATE, betas=(0.9, 0.98))

    def step(self, lr_factor: float) -> dict[str, float]:
        g = derived_generator(self.seed, f"guide {self.steps_done}")
        data = self.data.dataset
        rows = torch.randperm(len(data.looks), generator=g)[: self.batch]
        # Two pictures of each look: columns (B, 2), and the indices of their photos.
        columns = torch.stack(
            [torch.randperm(data.pictures.shape[1], generator=g)[:2] for _ in rows]
        )
        photo_index = data.photo_index[rows[:, None], columns]
        painted = from_uint8(data.pictures[rows[:, None], columns].flatten(0, 1))
        photos = from_uint8(data.photos[photo_index.flatten()])
        flip = torch.rand(len(painted), 1, 1, 1, generator=g) < 0.5
        images = torch.cat([torch.where(flip, x.flip(-1), x) for x in (painted, photos)])
        texts = self._captions(rows, columns[:, 0], photo_index[:, 0], g)
        with autocast(torch.device("cpu"), self.arithmetic):
            x = (images / 2 + 0.5 - self.guide.mean) / self.guide.std
            image = F.normalize(self.model.encode_image(x), dim=-1)
            text = F.normalize(self.model.encode_text(self.guide.tokenizer(texts)), dim=-1)
            losses = self._losses(image.float(), text.float())
        total = torch.stack(list(losses.values())).sum()
        optimiser_step(self, total, LEARNING_RATE * lr_factor)
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, 4.6)
        return {k: float(v.detach()) for k, v in losses.items()}

    def _captions(
        self, rows: Tensor, columns: Tensor, photos: Tensor, g: torch.Generator
    ) -> list[str]:
        """Captions of B pictures, by row and column, then of B photos. All tensors are (B,)."""
        data, caption = self.data, captions.make_caption
        pairs = zip(rows.tolist(), columns.tolist(), strict=True)
        texts = [caption(data.dataset.looks[m], data.pictures[m][k], g) for m, k in pairs]
        return texts + [caption(None, data.photos[n], g) for n in photos.tolist()]

    def _losses(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """image: (4B, D), paintings (a, b, a, b, ...), then their photos; text: (2B, D)."""
        painted, photo = image.chunk(2)
        a, b, photo_a, photo_b = painted[::2], painted[1::2], photo[::2], photo[1::2]
        count = len(a)
        # Captions of photos are nearly equal, so only a quarter of them are used.
        captioned_photos = max(1, count // 4)
        clip = self.clip_loss(
            torch.cat([a, photo_a[:captioned_photos]]),
            text[: count + captioned_photos],
            self.model.logit_scale.exp(),
        )
        return {
            "clip": 0.5 * clip,
            "look": info_nce(a - photo_a, b - photo_b),
            "person": 0.5 * info_nce(a - b, photo_a - photo_b),
            "words": 0.5 * info_nce(a - photo_a, text[:count] - text[count:]),
        }


@torch.no_grad()
def direction_separation(guide: Any, dataset: LookDataset) -> dict[str, float]:
    """Mean cosines of photo -> painting directions of two people, averaged over embeddings.

    same: equal look and parameters. same_name: equal look, other parameters. different: two looks.
    found: fraction of directions whose nearest direction of another person has the same look and
    parameters.
    """
    rows = []
    for pictures, index in zip(dataset.pictures, dataset.photo_index, strict=True):
        both = guide.embed(from_uint8(torch.cat([pictures[:2], dataset.photos[index[:2]]])))
        rows.append(
            F.normalize(F.normalize(both[:2], dim=-1) - F.normalize(both[2:], dim=-1), dim=-1)
        )
    d = torch.stack(rows)  # (M, 2, G, D)
    cos = torch.einsum("mgd,ngd->mng", d[:, 0], d[:, 1]).mean(-1)
    same_look = torch.tensor([[x == y for y in dataset.looks] for x in dataset.looks])
    eye = torch.eye(len(cos), dtype=torch.bool)
    out = {"same": float(cos[eye].mean()), "different": float(cos[~same_look].mean())}
    if bool((same_look & ~eye).any()):
        out["same_name"] = float(cos[same_look & ~eye].mean())
    out["found"] = float((cos.argmax(1) == torch.arange(len(cos))).float().mean())
    return out


@torch.no_grad()
def text_accuracy(guide: Any, dataset: LookDataset) -> dict[str, float]:
    """Fraction of paintings whose nearest caption names their look, by embedding and direction."""
    names = sorted(set(dataset.looks))
    texts = [f"a {captions.MEDIA[n][0]} of a person" for n in names]
    t = F.normalize(guide.embed_text([*texts, "a photo of a person"])[:, 0], dim=-1)
    photos = dataset.photos[dataset.photo_index[:, 0]]
    e = F.normalize(guide.embed(from_uint8(dataset.pictures[:, 0]))[:, 0], dim=-1)
    photo = F.normalize(guide.embed(from_uint8(photos))[:, 0], dim=-1)
    truth = torch.tensor([names.index(n) for n in dataset.looks])
    direction = F.normalize(e - photo, dim=-1) @ F.normalize(t[:-1] - t[-1], dim=-1).T
    return {
        "named": float(((e @ t[:-1].T).argmax(1) == truth).float().mean()),
        "direction_named": float((direction.argmax(1) == truth).float().mean()),
        "chance": 1 / len(names),
    }


def train_guide(
    images: Path,
    out: Path,
    budget: TrainingBudget,
    *,
    config: Path | None = None,
    seed: int = 0,
    paintings: int = 1500,
    batch: int = 32,
    precision: Precision = "auto",
    validation: Path | None = None,
) -> dict[str, Any]:
    """Train a guide and return its report.

    Writes guide.safetensors (float16), its open_clip configuration and guide.json (the report)
    below ``out``, and resumes from guide.state if that exists. config: open_clip configuration
    (default: guide64). paintings: number of looks with random parameters, each painted on three
    people. batch: looks per step. validation: folder of photos outside the training set, to
    evaluate on. Raises UserError.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise UserError(f"precision is {precision!r}; choose one of auto, float32, bfloat16")
    out.mkdir(parents=True, exist_ok=True)
    source = config or CONFIG
    if not source.is_file():
        raise UserError(f"{source}: no such open_clip model configuration")
    # open_clip takes the model's name from the file name.
    copied = out / source.name
    write_atomic(copied, source.read_bytes())
    guide = new_guide(copied, seed)
    photos = read_photos(images)
    data = measure_looks(make_look_dataset(photos, paintings, 3, guide.size, seed))
    arithmetic = resolve(precision, torch.device("cpu"))
    trainer = GuideTrainer(guide, data, seed, min(batch, paintings), arithmetic)
    identity = {
        "seed": seed,
        "paintings": paintings,
        "photos": len(photos),
        "batch": trainer.batch,
        "config": json.loads(copied.read_text()),
    }
    curve = train_within_budget(trainer, budget, out / "guide.state", identity)
    guide.model.requires_grad_(False).eval()
    save_tensors(
        out / "guide.safetensors",
        to_float16(guide.model.state_dict()),
        {"facts": json.dumps(guide.metadata)},
    )
    report: dict[str, Any] = {
        "model": copied.stem,
        "facts": guide.metadata,
        "parameters": sum(p.numel() for p in guide.model.parameters()),
        "steps": trainer.steps_done,
        "photos": len(photos),
        "paintings": paintings,
        "precision": trainer.arithmetic,
        "last": curve[-1] if curve else {},
    }
    if validation is not None:
        held = make_look_dataset(read_photos(validation), 104, 2, guide.size, seed + 1)
        report["validation"] = direction_separation(guide, held) | text_accuracy(guide, held)
    write_json(out / "guide.json", report)
    return report


def main(argv: list[str] | None = None) -> int:
    p = tool_parser("osasis.pretraining.train_guide", __doc__)
    p.add_argument("--out", type=Path, required=True, help="output folder")
    p.add_argument("--config", type=Path, help="open_clip model configuration, MODEL.json")
    p.add_argument("--paintings", type=int, default=1500, help="looks to paint, three people each")
    p.add_argument("--batch", type=int, default=32, help="looks per step")
    p.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    return run_tool(train_guide, p, argv)


if __name__ == "__main__":
    raise SystemExit(main())
