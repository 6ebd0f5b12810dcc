"""Train the style predictor of a base on painted styles.

`style-factory base train-predictor NAME --images DIR --minutes M`

The predictor is trained end to end with the losses of a style's training (``StyleObjective``): each
step takes one painted style and one content and walks from t0 to the photo, with an optimiser step
at every denoising step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from osasis.arithmetic import Arithmetic, resolve
from osasis.bundles.base import Base, load_base
from osasis.bundles.predictor import save_predictor
from osasis.contents import ContentBank
from osasis.looks.dataset import read_photos
from osasis.networks.adapters import Change, LowRank, dense, merged_weights
from osasis.networks.style_predictor import SCALE, StylePredictor, entry_name
from osasis.networks.unet import UNet
from osasis.objective import StyleObjective
from osasis.predictor import style_features
from osasis.pretraining.budgeted_training import TrainingBudget, train_within_budget
from osasis.pretraining.predictor_styles import TrainingStyles, make_training_styles
from osasis.seeds import derived_generator, seeded
from osasis.settings import TrainSettings, make_settings

COMPONENTS, RANK = 64, 16
# Rank of the matrices' mean changes in the finished predictor.
MEAN_RANK = 16
# Learning rates of the changes of epsilon_A, of the network and of the SPN.
CHANGE_RATE, NETWORK_RATE, SPN_RATE = 3e-5, 1e-3, 1e-4
# Standard deviation of the noise on whitened features: real style images differ from painted ones.
FEATURE_NOISE = 0.2
LARGEST_GRADIENT = 5.0


class TrainedPredictor(StylePredictor):
    """A predictor whose mean changes of matrices have full rank."""

    def __init__(self, shapes: dict[str, torch.Size], features: Tensor) -> None:
        """features: (N, F), of the styles to train on."""
        super().__init__(shapes, features.shape[1], COMPONENTS, RANK)
        for key, shape in shapes.items():
            if len(shape) > 1:
                self.means[entry_name(key)] = nn.Parameter(torch.zeros(shape))
        self.feature_mean = features.mean(0)
        _, values, components = torch.linalg.svd(features - self.feature_mean, full_matrices=False)
        count = min(COMPONENTS, len(values))
        deviations = (values[:count] / len(features) ** 0.5).clamp_min(1e-4)
        self.projection[:, :count] = components[:count].T / deviations

    def adapter(self, whitened: Tensor) -> dict[str, Change]:
        changes = super().adapter(whitened)
        return {
            key: dense(c) + self.means[entry_name(key)] if isinstance(c, LowRank) else c
            for key, c in changes.items()
        }

    @torch.no_grad()
    def folded(self, rank: int) -> StylePredictor:
        """This predictor with mean changes of a low rank, as further factors."""
        features, components = self.projection.shape
        folded = StylePredictor(self.shapes, features, components, self.rank, rank)
        kept = {k: v for k, v in self.state_dict().items() if k in folded.state_dict()}
        for key, shape in self.shapes.items():
            name = entry_name(key)
            if len(shape) > 1:
                mean = low_rank(self.means[name], rank)
                kept[f"ups.{name}"] = torch.cat([mean.up / SCALE, self.ups[name]], dim=1)
                kept[f"downs.{name}"] = torch.cat([mean.down, self.downs[name]])
        folded.load_state_dict(kept)
        return folded


def low_rank(value: Tensor, rank: int) -> LowRank:
    """A matrix truncated to a rank by SVD; zeros fill the factors of a matrix of lower rank."""
    u, s, vh = torch.linalg.svd(value.flatten(1), full_matrices=False)
    count = min(rank, len(s))
    root = s[:count].sqrt()
    up, down = value.new_zeros(len(value), rank), value.new_zeros(rank, vh.shape[1])
    up[:, :count], down[:count] = u[:, :count] * root, root[:, None] * vh[:count]
    return LowRank(up, down.view(rank, *value.shape[1:]))


class PredictorTrainer:
    """Trains a predictor. The random draws of a step depend on the seed and the step only."""

    def __init__(
        self,
        base: Base,
        styles: TrainingStyles,
        bank: ContentBank,
        settings: TrainSettings,
        seed: int = 0,
    ) -> None:
        self.base, self.styles, self.bank, self.settings = base, styles, bank, settings
        self.seed, self.steps_done = seed, 0
        self.arithmetic: Arithmetic = resolve(settings.precision, base.device)
        pairs = [self._pair(k) for k in range(len(styles))]
        features = torch.stack([style_features(base, *pair) for pair in pairs])
        shapes = {k: p.shape for k, p in base.diffae.unet.named_parameters()}
        with seeded(seed, "predictor"):
            self.model = TrainedPredictor(shapes, features).to(base.device)
        self.whitened = torch.stack([self.model.whiten(f) for f in features])
        rates = {"network": NETWORK_RATE, "spn": SPN_RATE}
        groups: dict[float, list[nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            groups.setdefault(rates.get(name.split(".")[0], CHANGE_RATE), []).append(p)
        self.rates = list(groups)
        self.optimiser = torch.optim.Adam(
            [{"params": p} for p in groups.values()], betas=(0.9, settings.adam_beta2), fused=True
        )
        self.objectives: dict[int, StyleObjective] = {}

    def _pair(self, style: int) -> tuple[Tensor, Tensor]:
        image, counterpart = self.styles.pair(style)
        return image.to(self.base.device), counterpart.to(self.base.device)

    def step(self, lr_factor: float) -> dict[str, float]:
        """Walk with one style and one content. Returns the mean losses of the walk."""
        g = derived_generator(self.seed, f"predictor {self.steps_done}")
        style = int(torch.randint(len(self.styles), (1,), generator=g))
        objective = self._objective(style)
        contents = self.bank.draw(1, g)
        noise = FEATURE_NOISE * torch.randn(COMPONENTS, generator=g).to(self.base.device)
        whitened = self.whitened[style] + noise
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * lr_factor
        x_t = torch.cat([contents.x_t0, objective.style_x_t0])
        before, rows = None, []
        for i in range(objective.denoising_steps - 1, -1, -1):
            adapter = self.model.adapter(whitened)
            networks = _PredictedNetworks(self.base.diffae.unet, adapter, self.model.spn)
            x_t, x0, total, losses = objective.loss_at(networks, i, x_t, contents)
            self.optimiser.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), LARGEST_GRADIENT)
            self.optimiser.step()
            rows.append({k: float(v) for k, v in losses.items()})
            with torch.no_grad():
                x_t, x0 = x_t.detach(), x0.detach()
                x_t = objective.solve(objective.schedule, i, i - 1, x_t, x0, before)
                before = x0
        self.steps_done += 1
        return {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]}

    def _objective(self, style: int) -> StyleObjective:
        if style not in self.objectives:
            pair = self._pair(style)
            self.objectives[style] = StyleObjective(
                self.base, *pair, self.settings, self.arithmetic
            )
        return self.objectives[style]


class _PredictedNetworks:
    """epsilon_B and the SPN of a style, with the graph of their prediction."""

    def __init__(self, unet: UNet, adapter: dict[str, Change], spn: nn.Module) -> None:
        self._unet, self.spn = unet, spn
        self.weights = merged_weights(unet, [(adapter, 1.0)])

    def unet(self, *inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(self._unet, self.weights, inputs)
        return output


def predictor_settings() -> TrainSettings:
    """The settings whose losses and walk the predictor is trained with."""
    return make_settings("instant")


def train_predictor(
    folder: Path,
    images: Path,
    out: Path,
    bank: Path,
    budget: TrainingBudget,
    *,
    styles: int,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train the predictor of the base in ``folder``, add it to the base, and return its report.

    images: folder of photos to paint. out: keeps painted styles and checkpoints, from which a
    killed call resumes. bank: folder of the base's content bank for ``predictor_settings``.
    styles: number of painted styles. Raises UserError, also for a GPU that is not there.
    """
    base = load_base(folder, device)
    settings = predictor_settings()
    contents = ContentBank.load(bank, base.device)
    photos = read_photos(images)
    made = make_training_styles(base, photos, contents, settings, styles, seed, out)
    trainer = PredictorTrainer(base, made, contents, settings, seed)
    identity = {
        "base": base.fingerprint,
        "photos": len(photos),
        "seed": seed,
        "settings": settings.to_dict(),
        "styles": styles,
    }
    curve = train_within_budget(trainer, budget, out / "predictor.state", identity)
    recent = curve[-100:]
    provenance = {
        **identity,
        "base_name": base.name,
        "steps": trainer.steps_done,
        "arithmetic": trainer.arithmetic,
        "losses": {k: round(sum(r[k] for r in recent) / len(recent), 4) for k in curve[-1]},
    }
    return save_predictor(folder, trainer.model.folded(MEAN_RANK), base.fingerprint, provenance)
