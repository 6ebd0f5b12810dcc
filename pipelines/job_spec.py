"""The specification of a corpus job. Every worker receives a copy."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from pydantic import Field

from factory.core.stores import open_store
from osasis.bundles.provenance import FORMATS, Provenance, UsedStyle, source_name
from osasis.choices import Alpha
from osasis.mix import Mix
from osasis.validation import InputModel
from pipelines.options import OutputOptions


class StyleSpec(InputModel):
    """A style version of a job. folder: its bundle, on storage that all nodes share."""

    reference: str
    fingerprint: str
    folder: str


class TargetSpec(InputModel):
    """A mix that photos are stylized with. label: its styles; the name of the outputs' folder."""

    label: str
    mix: Mix


class MaskSpec(InputModel):
    """A mask at the base's size. png: greyscale, encoded; sha256, size: of the user's file."""

    sha256: str
    png: bytes
    size: tuple[int, int]


class JobSpec(InputModel):
    """The settings of a job that the three operators share.

    output: path or URI. run: id of this driver's run. folder: path or URI of the job's state, see
    ``pipelines.job_folder``; set when the run starts. base: the base's bundle. square: the base's
    image size in pixels. styles: by name. text_edits: folder of
    the saved text edits. masks: by name. image_column: column of a Parquet input that holds image
    bytes, else None. input: folder of the photos as the call names it, "" where their keys are
    paths. batch: photos per model batch. timeout: seconds to read and fit a photo, and
    to encode an output.
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
    image_column: str | None = None
    input: str = ""
    batch: int = 1
    timeout: float | None = None

    def output_name(self, name: bytes, target: int) -> str:
        """The name of an output below the output folder: LABEL/NAME.SUFFIX."""
        label, suffix = self.targets[target].label, FORMATS[self.options.encoding]
        return f"{label}/{open_store(self.output).name_of(name)}{suffix}"

    def provenance(self, target: int, key: str, arithmetic: Any, transparent: bool) -> Provenance:
        """The provenance of an output. key, transparent: the photo's."""
        mix, o = self.targets[target].mix, self.options
        alpha: Alpha | None = None
        if transparent and o.encoding != "jpeg":
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
            masks={s.mask: self.masks[s.mask].sha256 for s in mix.styles if s.mask},
            source=source_name(os.path.join(self.input, key), o.provenance),  # noqa: PTH118
        )
