"""The work on one photo: tasks of its squares for the engines, and the image made of the results.

The functions run in threads of the ingress.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from factory import __version__
from factory.registry import StyleVersion
from osasis.bundles.provenance import Provenance, UsedStyle, encode_image, source_name
from osasis.choices import Alpha, ImageFormat
from osasis.choices import Provenance as ProvenanceLevel
from osasis.images.fitting import Compositor, FittedPhoto
from osasis.images.geometry import Size
from osasis.images.photo_options import PhotoOptions
from osasis.mix import Mix
from serving.engine import ImageTask, Result
from serving.request_masks import PhotoMasks

QUALITY = 95  # of JPEG and WebP


@dataclass(frozen=True)
class AnswerOptions:
    """What a request's images are. keeps_photo: whether the photo itself is outside of masks."""

    mix: Mix
    versions: dict[str, StyleVersion]
    base: str
    format: ImageFormat
    photo: PhotoOptions
    keeps_photo: bool
    provenance: ProvenanceLevel = "style"


@dataclass(frozen=True)
class PhotoWork:
    """One photo of a request. tasks: of its squares, in order. source: name of its file, as sent.
    key: its id."""

    key: str
    source: str
    fitted: FittedPhoto
    tasks: tuple[ImageTask, ...]
    options: AnswerOptions
    masks: PhotoMasks

    @property
    def faces(self) -> int | None:
        """Number of stylized faces; None without fit ``align``."""
        return len(self.tasks) if self.options.photo.fit == "align" else None

    def image(self, results: Sequence[Result]) -> tuple[bytes, Size]:
        """The encoded image with its provenance, and its width and height."""
        stylized = [Image.fromarray(result.image) for result in results]
        used = {share.mask for share in self.options.mix.styles if self.options.keeps_photo}
        masks = [mask for name, mask in self.masks.images.items() if name in used]
        image = Compositor(self.fitted, self.options.photo).composite(stylized, masks)
        embed = self.options.provenance != "none"
        return encode_image(image, self.provenance(results), embed=embed), image.size

    def provenance(self, results: Sequence[Result]) -> Provenance:
        """How the image was made."""
        options, photo = self.options, self.options.photo
        alpha: Alpha | None = None
        if self.fitted.transparent and options.format != "jpeg":
            alpha = "drop" if self.fitted.alpha is None else "keep"
        used = [options.versions[share.style] for share in options.mix.styles]
        return Provenance(
            code=__version__,
            styles=tuple(UsedStyle(reference=v.reference, fingerprint=v.fingerprint) for v in used),
            base=options.base,
            mix=options.mix,
            arithmetic=results[0].arithmetic if results else None,
            fit=photo.fit,
            crop=photo.crop,
            no_face=photo.no_face if photo.fit == "align" else None,
            size=photo.size,
            detail=photo.detail,
            format=options.format,
            quality=None if options.format == "png" else QUALITY,
            alpha=alpha,
            masks=self.masks.hashes,
            source=source_name(self.source, options.provenance),
        )


def timing(results: Sequence[Result], total: float) -> dict[str, float]:
    """The answer's ``timing``: seconds are the maximum over the results. total: seconds."""
    names = ("queue_seconds", "load_seconds", "encode_seconds", "decode_seconds")
    out: dict[str, Any] = {
        name.removesuffix("_seconds"): round(max((getattr(r, name) for r in results), default=0), 4)
        for name in names
    }
    out["total"] = round(total, 4)
    out["batch"] = max((r.batch for r in results), default=0)
    out["cached"] = sum(r.cached for r in results)
    return out
