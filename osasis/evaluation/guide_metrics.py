"""The metrics that training reports, on evaluation's pairs."""

from __future__ import annotations

from osasis.bundles.base import Base
from osasis.evaluation.metric import Metric, Pair, Picture
from osasis.metrics import style_metrics

SOURCES = {
    "style_distance": "distance of guide embeddings to the style image, relative to the photo's",
    "direction": "OSASIS, CVPR 2024, Eq. 5 (cosine of guide directions)",
    "edges": "1 - cosine of lightness gradients at two scales",
}


def guide_metrics(base: Base) -> list[Metric]:
    """``style_distance``, ``direction`` and ``edges`` with the base's guide."""

    def measure(pair: Pair, name: str) -> tuple[float] | None:
        others = (pair.photo, pair.style_image, pair.counterpart)

        def compute(stylized: Picture) -> dict[str, float]:
            return style_metrics(
                base,
                pair.photo.batch,
                stylized.batch,
                pair.style_image.batch,
                None if pair.counterpart is None else pair.counterpart.batch,
            )

        found = pair.stylized.once(("guide", *others), compute)
        return (found[name],) if name in found else None

    def metric(name: str) -> Metric:
        backbone = "lightness" if name == "edges" else f"guide of {base.name}"
        return Metric(name, name != "direction", backbone, SOURCES[name],
                      lambda pair: measure(pair, name))  # fmt: skip

    return [metric(name) for name in SOURCES]
