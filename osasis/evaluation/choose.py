"""The metrics of an evaluation: chosen by name, with the best backbone whose weights are given."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from osasis.bundles.base import Base
from osasis.errors import UserError, did_you_mean
from osasis.evaluation.features import lpips_metric, structure_metric, style_metric
from osasis.evaluation.guide_metrics import guide_metrics
from osasis.evaluation.metric import Metric
from osasis.evaluation.names import METRIC_NAMES
from osasis.evaluation.tone import tone_metrics
from osasis.evaluation.weights import FILES, find_weights
from osasis.guides.perceptual import PerceptualNet


@dataclass(frozen=True)
class Chosen:
    """metrics: in the order of METRIC_NAMES. unavailable: reason by name of the others."""

    metrics: tuple[Metric, ...]
    unavailable: dict[str, str]


def choose_metrics(base: Base, names: Sequence[str] = (), weights: Path | None = None) -> Chosen:
    """Build metrics. names: of METRIC_NAMES; none: all. weights: a folder with files of FILES.

    A metric whose weights or extra are missing is unavailable; the others are returned. Raises
    UserError for an unknown name and for weights that do not fit their network.
    """
    check_names(names)
    wanted = [n for n in METRIC_NAMES if not names or n in names]
    made: dict[str, Metric] = {}
    unavailable: dict[str, str] = {}
    for group, make in _makers(base, weights).items():
        if not any(name in wanted for name in group):
            continue
        try:
            made |= {m.name: m for m in make()}
        except UnavailableError as e:
            unavailable |= {name: str(e) for name in group if name in wanted}
    return Chosen(tuple(made[n] for n in wanted if n in made), unavailable)


def check_names(names: Sequence[str]) -> None:
    """Raise UserError for a name that is none of a metric."""
    for name in names:
        if name not in METRIC_NAMES:
            known = ", ".join(METRIC_NAMES)
            raise UserError(f"unknown metric {name!r}{did_you_mean(name, METRIC_NAMES)}; "
                            f"choose from {known}")  # fmt: skip


class UnavailableError(Exception):
    """A metric's weights or packages are missing; the message says how to get them."""


def _makers(
    base: Base, weights: Path | None
) -> dict[tuple[str, ...], Callable[[], Sequence[Metric]]]:
    device = base.device

    def net(kind: str) -> tuple[PerceptualNet, str]:
        """LPIPS's net of this kind, or the base's perceptual net."""
        if (path := find_weights(weights, f"lpips_{kind}")) is None:
            return base.perceptual, f"{base.perceptual.net} of {base.name}"
        return PerceptualNet(kind, path).to(device), {"alex": "AlexNet", "vgg": "VGG16"}[kind]

    def identity() -> Metric:
        from osasis.evaluation.identity import identity_metric, model_folder

        try:
            model_folder()  # dlib finds the faces for both networks
        except UserError as e:
            raise UnavailableError(str(e)) from None
        if (path := find_weights(weights, "arcface")) is not None:
            from osasis.evaluation.arcface import arcface_metric

            return arcface_metric(path, device)
        return identity_metric()

    def structure() -> Metric:
        if (path := find_weights(weights, "dino")) is not None:
            from osasis.evaluation.dino import dino_metric

            return dino_metric(path, device)
        return structure_metric(*net("vgg"))

    def csd() -> Sequence[Metric]:
        if (path := find_weights(weights, "csd")) is None:
            raise UnavailableError(f"needs {' or '.join(FILES['csd'])} in --weights")
        from osasis.evaluation.csd import csd_metrics, load_csd

        return csd_metrics(load_csd(path).to(device))

    def sets() -> Sequence[Metric]:
        if (path := find_weights(weights, "inception")) is None:
            raise UnavailableError(f"needs {FILES['inception'][0]} in --weights")
        from osasis.evaluation.artfid import INSTALL, artfid_metrics

        if importlib.util.find_spec("torch_fidelity") is None:
            raise UnavailableError(f"needs torch-fidelity: {INSTALL}")

        return artfid_metrics(path, *net("alex"), device)

    return {
        ("lpips",): lambda: [lpips_metric(*net("alex"))],
        ("identity",): lambda: [identity()],
        ("structure",): lambda: [structure()],
        ("style",): lambda: [style_metric(*net("alex"))],
        ("csd", "csls"): csd,
        ("style_distance", "direction", "edges"): lambda: guide_metrics(base),
        ("fid", "artfid"): sets,
        ("tone_slope", "lightened_dark", "lightened_light"): tone_metrics,
    }
