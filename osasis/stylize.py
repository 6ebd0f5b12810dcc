"""Stylization: decoding of encoded photos with mixes of styles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.func import functional_call

from osasis.arithmetic import autocast
from osasis.bundles.base import Base
from osasis.bundles.style import Style
from osasis.diffusion import Progress, predict_x0
from osasis.encode import Encodings, largest_pass, passes, progress_from
from osasis.mix import Mix
from osasis.networks.adapters import RowAdapters, merged_weights
from osasis.networks.unet import UNet
from osasis.recipe import NoisePredictor, Recipe, level_conditions, make_recipe
from osasis.sampling import SOLVERS


def decode(
    base: Base,
    encodings: Encodings,
    mix: Mix,
    styles: Mapping[str, Style],
    *,
    masks: Mapping[str, Tensor] | None = None,
    text_edits: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Decode encodings with one mix of styles (Eq. 8, 12-14, f_ch of Sec. 3.4).

    The parameters are those of ``make_recipe``. Computes in the arithmetic of the encodings' plan.
    Returns (B, 3, H, W) in [-1, 1]. Raises InvalidInputError naming every problem of the mix.
    """
    recipe = make_recipe(
        base, mix, styles, encodings.plan, masks=masks, text_edits=text_edits
    )  # fmt: skip
    return decode_rows(base, [(encodings, recipe)], progress=progress)


@torch.no_grad()
def decode_rows(
    base: Base,
    rows: Sequence[tuple[Encodings, Recipe]],
    *,
    pass_size: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Decode encodings, each with its own recipe; the images in order, (B, 3, H, W) in [-1, 1].

    pass_size: most images of a forward pass; None: 1 on the CPU, more on a GPU. Larger passes hold
    rows of different low-rank styles. With 1, an image is the same whatever else is decoded; with
    more it is the same up to rounding. The encodings of a recipe have its plan.
    """
    size = pass_size or largest_pass(base.device)
    photo = torch.cat([e.photo for e, _ in rows])
    z_in = torch.cat([e.z for e, _ in rows])
    x_t0 = torch.cat([e.x_t0 for e, _ in rows])
    recipes = [r for e, r in rows for _ in range(len(e.photo))]
    images = torch.empty_like(photo)
    groups = [(g, passes(len(g), size)) for g in rows_that_share_passes(recipes, size)]
    total = sum(len(chunks) * recipes[group[0]].walk.count for group, chunks in groups)
    done = 0
    for group, chunks in groups:
        merged = MergedNoise(base.diffae.unet)
        for chunk in chunks:
            index = [group[k] for k in chunk.tolist()]
            batch = _Pass(photo[index], z_in[index], x_t0[index], [recipes[k] for k in index])
            noise: RowNoise = merged
            if size > 1 and can_batch(batch.predictors):
                noise = BatchedNoise(base.diffae.unet, batch.predictors)
            report = progress_from(progress, done, total)
            with autocast(base.device, recipes[index[0]].plan.arithmetic):
                images[index] = batch.denoised(noise, report)
            done += recipes[index[0]].walk.count
    return images


def rows_that_share_passes(recipes: Sequence[Recipe], pass_size: int) -> list[list[int]]:
    """Indices of the rows that ``decode_rows`` computes together, group by group.

    With a pass size of 1, and with full-rank styles, a group has one recipe, whose merged weights
    serve all its rows.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, r in enumerate(recipes):
        own = None if pass_size > 1 and r.low_rank else id(r)
        walk = (r.walk.schedule.timesteps.tobytes(), r.walk.count)
        groups.setdefault((own, r.plan.arithmetic, r.solver, walk), []).append(i)
    return list(groups.values())


class RowNoise(Protocol):
    """Predicts the noise of x_t (N, 3, H, W) at timesteps t (N,) with z (N, levels + 1, D)."""

    def __call__(
        self, x: Tensor, t: Tensor, z: Tensor, predictors: Sequence[NoisePredictor]
    ) -> Tensor:
        """predictors: of each row."""


def can_batch(predictors: Sequence[NoisePredictor]) -> bool:
    """Whether rows of these predictors are to be computed by one pass with batched factors.

    One predictor is cheaper with merged weights, and full-rank ones can only be merged.
    """
    return len({id(p) for p in predictors}) > 1 and all(p.low_rank for p in predictors)


class BatchedNoise:
    """Noise of rows of different low-rank predictors by one forward pass."""

    def __init__(self, unet: UNet, predictors: Sequence[NoisePredictor]) -> None:
        self.network = RowAdapters(unet, [p.adapters for p in predictors])

    def __call__(
        self, x: Tensor, t: Tensor, z: Tensor, predictors: Sequence[NoisePredictor]
    ) -> Tensor:
        return self.network(x, t, z).float()


class MergedNoise:
    """Noise by weights into which the adapters are merged; a forward pass per predictor.

    Merging takes a share of the time of one step, and the adapters then cost none in the steps.
    """

    def __init__(self, unet: UNet) -> None:
        self.unet = unet
        self.weights: dict[int, dict[str, Tensor]] = {}

    def __call__(
        self, x: Tensor, t: Tensor, z: Tensor, predictors: Sequence[NoisePredictor]
    ) -> Tensor:
        noise = torch.empty_like(x)
        for key, predictor in {id(p): p for p in predictors}.items():
            if key not in self.weights:
                self.weights[key] = merged_weights(self.unet, predictor.adapters)
            rows = [k for k, p in enumerate(predictors) if p is predictor]
            inputs = (x[rows], t[rows], z[rows])
            noise[rows] = functional_call(self.unet, self.weights[key], inputs).float()
        return noise


class _Pass:
    """Photos that are denoised together, on one schedule and with one solver.

    The rows of the network are those of the first predictor of each recipe, then the second, ...
    """

    def __init__(self, photo: Tensor, z_in: Tensor, x: Tensor, recipes: Sequence[Recipe]) -> None:
        """photo, x: (B, 3, H, W). z_in: (B, D). recipes: of each photo."""
        self.photo, self.x = photo, x
        rows: dict[int, list[int]] = {}
        for k, recipe in enumerate(recipes):
            rows.setdefault(id(recipe), []).append(k)
        self.recipes = [(recipes[of[0]], of) for of in rows.values()]
        for recipe, of in self.recipes:
            if recipe.edit is not None:
                z_in = z_in.index_add(0, _index(of, x), recipe.edit.to(z_in).expand(len(of), -1))
        found = [(k, p) for r, of in self.recipes for p in r.predictors for k in of]
        self.predictors = [p for _, p in found]
        self.owners = _index([k for k, _ in found], x)
        self.z = torch.cat([level_conditions(z_in[[k]], p.z_style, p.levels) for k, p in found])
        shares = [p.share if p.share.dim() else p.share.view(1, 1, 1, 1) for p in self.predictors]
        self.share = torch.cat(torch.broadcast_tensors(*shares))

    def denoised(self, noise: RowNoise, report: Progress) -> Tensor:
        """Walk from t0 to the images (Eq. 8), with the SPN's terms (Eq. 12-14) at every step."""
        recipe = self.recipes[0][0]
        schedule, count, solve = recipe.walk.schedule, recipe.walk.count, SOLVERS[recipe.solver]
        x, before = self.x, None
        terms = [
            (term, _index(of, x), term.spn.features(self.photo[of]))
            for r, of in self.recipes
            for term in r.terms
        ]
        for done, i in enumerate(range(count - 1, -1, -1), start=1):
            for term, rows, features in terms:
                x = x.index_add(0, rows, term.at(features, schedule, i))
            x_rows = x[self.owners]
            predicted = noise(x_rows, schedule.timestep(i, x_rows), self.z, self.predictors)
            eps = torch.zeros_like(x).index_add(0, self.owners, self.share * predicted)
            for r, k in self.recipes:
                if r.photo_share is not None:
                    own = _noise_towards(self.photo[k], x[k], schedule.alpha_bar(i))
                    eps[k] += r.photo_share * own
            x0 = predict_x0(schedule, i, x, eps)
            x, before = solve(schedule, i, i - 1, x, x0, before), x0
            report(done, count)
        x = x.clamp(-1, 1)
        for r, k in self.recipes:
            x[k] = r.with_palettes(x[k])
        return x


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, device=like.device)


def _noise_towards(photo: Tensor, x: Tensor, alpha_bar: float) -> Tensor:
    """The noise with which x_t predicts exactly ``photo`` as its x_0.

    epsilon_A would give a reconstruction, which is greyer than the photo.
    """
    return (x - alpha_bar**0.5 * photo) / (1 - alpha_bar) ** 0.5
