"""The specification of a corpus job. Every worker receives a copy."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from PIL import Image
from pydantic import Field

from factory.core.stores import open_store
from osasis.bundles.provenance import FORMATS, Provenance, UsedStyle, source_name
from osasis.choices import Alpha
from osasis.images.decoding import read_png
from osasis.mix import PHOTO_MASK, Mix
from osasis.segmenting import MaskProposal
from osasis.validation import InputModel
from pipelines.options import OutputOptions


class StyleSpec(InputModel):
    """A style version of a job. folder: its bundle, on storage that all nodes share.

    keeps_photo: of ``factory.methods``.
    """

    reference: str
    fingerprint: str
    folder: str
    keeps_photo: bool


class TargetSpec(InputModel):
    """A mix that photos are stylized with. label: its styles; the name of the outputs' folder."""

    label: str
    mix: Mix


class MaskSpec(InputModel):
    """A mask of all photos. png: greyscale, of the size of the user's file; sha256: of the file."""

    sha256: str
    png: bytes

    def image(self) -> Image.Image:
        return _decoded(self.png)


@functools.lru_cache(maxsize=8)
def _decoded(png: bytes) -> Image.Image:
    return read_png(png, "L")


class PhotoMasks(InputModel):
    """Where each photo has a mask of its own from, which mixes name ``PHOTO_MASK``.

    column: of a Parquet input that holds their bytes; None: the manifest holds their locations.
    proposal: how they are made instead. proposal_identity: the same, with the hash of the model.
    save: folder for the masks.
    """

    column: str | None = None
    proposal: MaskProposal | None = None
    proposal_identity: dict[str, Any] | None = None
    save: str | None = None

    def identity(self) -> Any:
        """What makes two jobs the same, besides the bytes of the masks."""
        return self.proposal_identity or "one of each photo"


class JobSpec(InputModel):
    """The settings of a job that the three operators share.

    output: path or URI. run: id of this driver's run. folder: path or URI of the job's state, see
    ``pipelines.job_folder``; set when the run starts. base: the base's bundle. square: the base's
    image size in pixels. styles: by name. text_edits: folder of the saved text edits. masks: of all
    photos, by name. photo_masks: the masks of each photo, if there are any. image_column: column of
    a Parquet input that holds image bytes, else None. input: folder of the photos as the call names
    it, "" where their keys are paths. batch: photos per model batch. timeout: seconds to read and
    fit a photo, and to encode an output.
    """

    subject: ClassVar[str] = "job"

    code: str
    output: str
    run: str
    folder: str = ""
    base: str
    base_fingerprint: str
    square: int
    styles: dict[str, StyleSpec]
    targets: tuple[TargetSpec, ...]
    text_edits: str
    options: OutputOptions
    masks: dict[str, MaskSpec] = Field(default_factory=dict)
    photo_masks: PhotoMasks | None = None
    image_column: str | None = None
    input: str = ""
    batch: int = 1
    timeout: float | None = None

    def output_name(self, name: bytes, target: int) -> str:
        """The name of an output below the output folder: LABEL/NAME.SUFFIX."""
        label, suffix = self.targets[target].label, FORMATS[self.options.encoding]
        return f"{label}/{open_store(self.output).name_of(name)}{suffix}"

    def names_photo_mask(self, target: int) -> bool:
        """Whether a target needs the photo's own mask."""
        if self.photo_masks is None:
            return False
        return any(s.mask == PHOTO_MASK for s in self.targets[target].mix.styles)

    def composites(self, targets: Iterable[int]) -> bool:
        """Whether masks leave parts of a photo as they are in one of the targets."""
        return any(self.keeps_photo(target) for target in targets)

    def keeps_photo(self, target: int) -> bool:
        """Whether the photo itself is outside of a target's masks."""
        styles = self.targets[target].mix.styles
        return all(s.mask for s in styles) and self.styles[styles[0].style].keeps_photo

    def provenance(
        self, target: int, key: str, arithmetic: Any, row: Mapping[str, Any]
    ) -> Provenance:
        """The provenance of an output. key: the photo's. row: the photo's row of ``SQUARES``."""
        mix, o = self.targets[target].mix, self.options
        alpha: Alpha | None = None
        if row["transparent"] and o.encoding != "jpeg":
            alpha = "keep" if o.keeps_alpha else "drop"
        styles = [self.styles[s.style] for s in mix.styles]
        return Provenance(
            code=self.code,
            styles=tuple(
                UsedStyle(reference=s.reference, fingerprint=s.fingerprint) for s in styles
            ),
            base=self.base_fingerprint,
            mix=mix,
            arithmetic=arithmetic,
            fit=o.fit,
            crop=o.crop,
            no_face=o.no_face if o.fit == "align" else None,
            size=o.size,
            detail=o.detail,
            format=o.encoding,
            quality=None if o.encoding == "png" else o.quality,
            alpha=alpha,
            metadata=o.metadata,
            masks={
                s.mask: self.masks[s.mask].sha256 if s.mask in self.masks else row["mask_sha256"]
                for s in mix.styles
                if s.mask
            },
            mask_proposal=self._proposal(target),
            source=source_name(os.path.join(self.input, key), o.provenance),  # noqa: PTH118
        )

    def _proposal(self, target: int) -> dict[str, Any] | None:
        """How the photo's mask is made; None where a target does not use a proposed mask."""
        found = self.photo_masks.proposal_identity if self.photo_masks else None
        return found if self.names_photo_mask(target) else None
