"""Masks of a corpus job: one image per mask name, applied to every photo."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping

from osasis.images.decoding import png_bytes, read_image_file
from osasis.images.masks import fit_mask, read_mask
from osasis.images.photo_options import PhotoOptions
from osasis.validation import InvalidInputError, Problem
from pipelines.job_spec import MaskSpec, TargetSpec

MAX_BYTES = 1 << 28


def read_masks(
    given: Mapping[str, str | os.PathLike[str]],
    targets: Iterable[TargetSpec],
    options: PhotoOptions,
    square: int,
) -> dict[str, MaskSpec]:
    """Read mask files and fit them to the base's square like the photos.

    given: files by mask name. square: pixels. Raises InvalidInputError if the names differ from
    those in the targets' mixes; UserError for an unreadable file, or masks with fit ``align``.
    """
    named = {s.mask for t in targets for s in t.mix.styles if s.mask}
    problems = [
        Problem("mask", name, f"the mix names mask {name!r}, but no file is given (--mask)")
        for name in sorted(named - set(given))
    ]
    problems += [
        Problem("mask", name, f"a file is given for mask {name!r}, but no mix names this mask")
        for name in sorted(set(given) - named)
    ]
    if problems:
        raise InvalidInputError("masks", problems)
    return {name: _read(os.fspath(path), options, square) for name, path in given.items()}


def _read(path: str, options: PhotoOptions, square: int) -> MaskSpec:
    data = read_image_file(path, MAX_BYTES)
    mask = read_mask(data, path)
    return MaskSpec(
        sha256=hashlib.sha256(data).hexdigest(),
        png=png_bytes(fit_mask(mask, square, options)),
        size=mask.size,
    )
