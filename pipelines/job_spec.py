"""The specification of a corpus job, which travels to every worker."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from osasis.bundles.provenance import FORMATS, Provenance, UsedStyle
from osasis.mix import Mix
from osasis.validation import InputModel
from pipelines.options import OutputOptions


class StyleSpec(InputModel):
    """The version of a style that a job uses. folder: of its bundle, on storage that all share."""

    reference: str
    fingerprint: str
    folder: str


class TargetSpec(InputModel):
    """One output of a photo. label: the mix's styles; names the folder of the outputs."""

    label: str
    mix: Mix


class MaskSpec(InputModel):
    """A mask at the base's size. png: grey, encoded; sha256: of the file that was given."""

    sha256: str
    png: bytes


class JobSpec(InputModel):
    """Everything that readers, models and writers of a job need beside their rows.

    folder: the job's folder; output: where outputs go; run: id of this driver's run. base: folder
    of the base; square: its image size in pixels. styles: by id. image: the column of bytes of a
    Parquet input, else None. text_edits: folder of the saved directions. batch: images that a model
    takes at once. timeout: seconds to read, and to write, a photo.
    """

    subject: ClassVar[str] = "job"

    code: str
    folder: str
    output: str
    run: str
    base: str
    base_fingerprint: str
    square: int
    styles: dict[str, StyleSpec]
    targets: tuple[TargetSpec, ...]
    text_edits: str
    options: OutputOptions
    masks: dict[str, MaskSpec] = Field(default_factory=dict)
    image: str | None = None
    batch: int = 1
    timeout: float | None = None

    def output_path(self, name: bytes, target: int) -> Path:
        """Where an output goes: OUTPUT/LABEL/NAME.SUFFIX."""
        label = self.targets[target].label
        return Path(self.output) / label / (os.fsdecode(name) + FORMATS[self.options.encoding])

    def provenance(self, target: int, source: str, arithmetic: Any) -> Provenance:
        """What made the output of a photo named ``source``."""
        mix, o = self.targets[target].mix, self.options
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
            no_face=o.no_face if o.fit == "align" else None,
            size=o.size,
            detail=o.detail,
            format=o.encoding,
            quality=None if o.encoding == "png" else o.quality,
            metadata=o.metadata,
            masks={s.mask: self.masks[s.mask].sha256 for s in mix.styles if s.mask},
            source=source,
        )
